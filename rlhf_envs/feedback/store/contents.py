"""Read items and judgements, and count them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ..records import Item, Judgement, Progress
from .database import Database, parts
from .queue import ITEMS, JUDGEMENTS, count_asked, is_asked, item_of, judgement_of, read_settings
from .schema import STANDS, annotators, items, judgements

__all__ = ["Contents"]

_IDS_PER_QUERY = 10_000  # SQLite takes 32,766 parameters, PostgreSQL 65,535


class Contents:
    """Read what is in the store. `FeedbackStore` inherits from this class."""

    _database: Database

    def items(self, ids: Sequence[int] | None = None) -> list[Item]:
        """Return all items, ordered by id, or the items of the given ids in their order.

        Raises:
            ValueError: there is no item with one of the ids.
        """
        query = ITEMS.order_by(items.c.id)
        with self._database.read() as connection:
            if ids is None:
                return [item_of(row) for row in connection.execute(query)]
            found = {
                row.id: item_of(row)
                for part in parts(ids, _IDS_PER_QUERY)
                for row in connection.execute(query.where(items.c.id.in_(part)))
            }
        if missing := [i for i in ids if i not in found]:
            raise ValueError(f"no items with the ids {missing[:10]} in {self._database.place}")
        return [found[i] for i in ids]

    def judgements(
        self, *, item_ids: Sequence[int] | None = None, after_id: int = 0, include_skips: bool = False
    ) -> list[Judgement]:
        """Return the judgements, ordered by id, without those that were taken back.

        A judgement never appears after one with a greater id. So whoever asks again with `after_id`, the last id seen,
        misses none.

        Args:
            item_ids: return judgements of these items only.
            after_id: return judgements with a greater id only.
            include_skips: return skips too, whose value is None.
        """
        query = JUDGEMENTS.where(judgements.c.id > after_id, STANDS).order_by(judgements.c.id)
        if not include_skips:
            query = query.where(judgements.c.value.is_not(None))
        queries = [query]
        if item_ids is not None:
            queries = [query.where(items.c.id.in_(part)) for part in parts(item_ids, _IDS_PER_QUERY)]
        with self._database.read() as connection:
            found = [judgement_of(row) for part in queries for row in connection.execute(part)]
        return sorted(found, key=lambda judgement: judgement.id)

    def progress(self, annotator: str | None = None) -> Progress:
        """Count items and judgements. `mine` counts the judgements of `annotator`, and is 0 without one.

        Items of the training do not count while it is on.
        """
        is_skip = judgements.c.value.is_(None)
        is_mine = annotators.c.name == annotator
        with self._database.read() as connection:
            in_all, waiting = count_asked(connection, read_settings(connection))
            given, skips, mine = connection.execute(
                sa.select(
                    sa.func.count().filter(~is_skip), sa.func.count().filter(is_skip), sa.func.count().filter(is_mine)
                )
                .select_from(judgements.join(annotators))
                .where(STANDS)
            ).one()
        return Progress(in_all, in_all - waiting, given, skips, mine)

    def labels_left(self) -> int:
        """Return how many judgements the items still need, all together. Items of the training need none."""
        with self._database.read() as connection:
            asked = is_asked(read_settings(connection))
            query = sa.select(sa.func.coalesce(sa.func.sum(items.c.needed), 0)).where(items.c.needed > 0, asked)
            return int(connection.execute(query).scalar_one())

    def count_undone(self) -> int:
        """Return how many judgements annotators have taken back themselves."""
        return self._count_judgements(judgements.c.undone, ~judgements.c.dropped, ~judgements.c.withdrawn)

    def count_dropped(self) -> int:
        """Return how many judgements admins have dropped."""
        return self._count_judgements(judgements.c.dropped)

    def _count_judgements(self, *conditions: sa.ColumnElement[bool]) -> int:
        with self._database.read() as connection:
            query = sa.select(sa.func.count()).select_from(judgements).where(*conditions)
            return int(connection.execute(query).scalar_one())
