"""Keep the scores by which the next of equally urgent items is chosen."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import sqlalchemy as sa

from ..records import Item
from .database import Database, parts
from .queue import ITEMS, item_of
from .schema import IN_QUEUE, items

__all__ = ["Scores", "unscored"]

_ROWS_PER_STATEMENT = 500


def unscored(drawn: random.Random | None) -> float:
    """Return the score of an item that no policy has scored: 0, or if there is a generator from -1 to 0 by lot.

    A policy's scores are at least 0, so items without come last.
    """
    return 0.0 if drawn is None else drawn.random() - 1.0


class Scores:
    """Manage the scores of items in the queue. `FeedbackStore` inherits from this class."""

    _database: Database
    _sides: random.Random

    def queue(self) -> list[Item]:
        """Return the items that need more judgements, in the order in which they are asked."""
        query = ITEMS.where(IN_QUEUE).order_by(items.c.priority.desc(), items.c.score.desc(), items.c.id)
        with self._database.read() as connection:
            return [item_of(row) for row in connection.execute(query)]

    def set_scores(self, scores: Mapping[int, float]) -> int:
        """Set by item id how soon items are asked, the highest score first. Their priority still comes before it.

        Items that the mapping does not have lose their score, and come after the others in random order.

        Returns:
            How many of the items are in the queue.

        Raises:
            ValueError: a score is below 0 or not finite, or there is no item with one of the ids.
        """
        for item_id, score in scores.items():
            if not (math.isfinite(score) and score >= 0):
                raise ValueError(f"the score of item {item_id} must be a number of at least 0, got {score!r}")
        with self._database.write() as connection:
            self._database.one_writer(connection)
            there = {row.id: row.needed > 0 for row in connection.execute(sa.select(items.c.id, items.c.needed))}
            if missing := [item_id for item_id in scores if item_id not in there]:
                raise ValueError(f"no items with the ids {missing[:10]} in {self._database.place}")
            changes = {i: scores.get(i, unscored(self._sides)) for i, queued in there.items() if queued or i in scores}
            _update(connection, changes)
        return sum(there[item_id] for item_id in scores)

    def set_difficulties(self, difficulties: Mapping[int, float]) -> None:
        """Keep how difficult items are, 0 to 1. Those that are not among them have no difficulty any more."""
        with self._database.write() as connection:
            self._database.one_writer(connection)
            known = {row.id: row.difficulty for row in connection.execute(sa.select(items.c.id, items.c.difficulty))}
            rows = [
                {"row": item, "new": difficulties.get(item)}
                for item, old in known.items()
                if difficulties.get(item) != old
            ]
            if rows:
                change = sa.update(items).where(items.c.id == sa.bindparam("row"))
                connection.execute(change.values(difficulty=sa.bindparam("new")), rows)

    def _forget_scores(self, connection: sa.Connection, policy: str) -> None:
        """Give all items scores as of new ones, after the policy has changed."""
        if policy == "age":
            connection.execute(sa.update(items).where(items.c.score != 0).values(score=0.0))
            return
        ids = connection.execute(sa.select(items.c.id).order_by(items.c.id)).scalars().all()
        _update(connection, {item_id: unscored(self._sides) for item_id in ids})


def _update(connection: sa.Connection, scores: Mapping[int, float]) -> None:
    statement = sa.update(items).where(items.c.id == sa.bindparam("item")).values(score=sa.bindparam("new"))
    for part in parts([{"item": item_id, "new": score} for item_id, score in scores.items()], _ROWS_PER_STATEMENT):
        connection.execute(statement, list(part))
