"""Judgements from elsewhere straight into the store's tables: they were given once, no task is lent for them again."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from .schema import OPEN, STANDS, annotators, items, judgements, tasks

if TYPE_CHECKING:
    from .store import FeedbackStore

__all__ = ["PastJudgement", "count_undone", "restore"]

_ROWS_A_STATEMENT = 500  # SQLite takes 32,766 parameters


@dataclass(frozen=True)
class PastJudgement:
    """A judgement that was given elsewhere.

    Attributes:
        annotator: a name that the store knows.
        value: what `check_value` made of it; None is a skip.
        sides: the order in which the completions were shown; as they are stored, where it is not known.
        key: kept if no judgement in the store has it.
        created: when it was given; now, where it is not known.
    """

    annotator: str
    value: dict[str, Any] | None
    seconds: float = 0.0
    comment: str = ""
    sides: tuple[int, ...] = ()
    key: str = ""
    created: datetime | None = None


def restore(store: FeedbackStore, past: Sequence[tuple[int, PastJudgement]], created: dict[int, datetime]) -> list[int]:
    """Store judgements as given, all or none; an item asks for as many fewer from now on.

    A task on one of the items that its annotator holds at this moment is lost: it is answered now.

    Args:
        store: has the items and annotators.
        past: (item id, judgement), an annotator's on an item once.
        created: item id to when it was made, for items whose date is to be another than now.

    Returns:
        Indices into `past` of those left out, since the annotator has judged the item by now.
    """
    now = datetime.now(UTC)
    with store._database.write() as connection:
        store._database.one_writer(connection)
        if created:
            dated = _of_item().values(created=sa.bindparam("moment"))
            connection.execute(dated, [{"item": item_id, "moment": moment} for item_id, moment in created.items()])
        # Locked, so that nobody is lent an item while we judge it in their name.
        everyone = sa.select(annotators.c.name, annotators.c.id).order_by(annotators.c.id)
        names = {row.name: row.id for row in connection.execute(everyone.with_for_update(key_share=True))}
        there = _pairs(connection, judgements, STANDS, {item_id for item_id, _ in past})
        pairs = [(item_id, names[judgement.annotator]) for item_id, judgement in past]
        late = [place for place, pair in enumerate(pairs) if pair in there]
        past = [pair for place, pair in enumerate(past) if pairs[place] not in there]
        held = _pairs(connection, tasks, OPEN, {item_id for item_id, _ in past})
        lost = [{"task": held[pair]} for pair in pairs if pair in held and pair not in there]
        if lost:
            connection.execute(sa.update(tasks).where(tasks.c.id == sa.bindparam("task")).values(state="lost"), lost)
        taken = _taken_keys(connection, [judgement.key for _, judgement in past if _is_key(judgement.key)])
        n_completions = _n_completions(connection, {item_id for item_id, _ in past})
        for start in range(0, len(past), _ROWS_A_STATEMENT):
            part = past[start : start + _ROWS_A_STATEMENT]
            closed = [
                {
                    "item_id": item_id,
                    "annotator_id": names[judgement.annotator],
                    "sides": judgement.sides or tuple(range(n_completions[item_id])),
                    "expires": judgement.created or now,
                    "state": "done",
                }
                for item_id, judgement in part
            ]
            insert = sa.insert(tasks).returning(tasks.c.id, sort_by_parameter_order=True)
            task_ids = connection.execute(insert, closed).scalars().all()
            connection.execute(
                sa.insert(judgements),
                [
                    {
                        "task_id": task_id,
                        "item_id": item_id,
                        "annotator_id": names[judgement.annotator],
                        "value": judgement.value,
                        "seconds": judgement.seconds,
                        "comment": judgement.comment,
                        "key": _own_key(judgement.key, taken),
                        "created": judgement.created or now,
                        "undone": False,
                    }
                    for task_id, (item_id, judgement) in zip(task_ids, part, strict=True)
                ],
            )
        given = Counter(item_id for item_id, judgement in past if judgement.value is not None)
        if given:
            less = _of_item().values(needed=items.c.needed - sa.bindparam("n"))
            connection.execute(less, [{"item": item_id, "n": n} for item_id, n in given.items()])
    return late


def count_undone(store: FeedbackStore) -> int:
    """How many judgements annotators have taken back."""
    with store._database.read() as connection:
        query = sa.select(sa.func.count()).select_from(judgements).where(judgements.c.undone)
        return int(connection.execute(query).scalar_one())


def _of_item() -> sa.Update:
    return sa.update(items).where(items.c.id == sa.bindparam("item"))


def _is_key(key: str) -> bool:
    return 0 < len(key) <= 200 and key.isprintable()  # as `submit` has it


def _own_key(key: str, taken: set[str]) -> str:
    """The key, if it is one that nobody has; else a fresh one."""
    if not _is_key(key) or key in taken:
        return uuid.uuid4().hex
    taken.add(key)
    return key


def _taken_keys(connection: sa.Connection, keys: Sequence[str]) -> set[str]:
    taken: set[str] = set()
    for start in range(0, len(keys), _ROWS_A_STATEMENT):
        part = keys[start : start + _ROWS_A_STATEMENT]
        taken.update(connection.execute(sa.select(judgements.c.key).where(judgements.c.key.in_(part))).scalars())
    return taken


def _pairs(
    connection: sa.Connection, table: sa.Table, condition: sa.TextClause, ids: set[int]
) -> dict[tuple[int, int], int]:
    """(item id, annotator id) -> id of the rows of a table that a condition holds for."""
    found: dict[tuple[int, int], int] = {}
    wanted = sorted(ids)
    for start in range(0, len(wanted), _ROWS_A_STATEMENT):
        part = wanted[start : start + _ROWS_A_STATEMENT]
        query = sa.select(table.c.id, table.c.item_id, table.c.annotator_id)
        for row in connection.execute(query.where(table.c.item_id.in_(part), condition)):
            found[row.item_id, row.annotator_id] = row.id
    return found


def _n_completions(connection: sa.Connection, ids: set[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    wanted = sorted(ids)
    for start in range(0, len(wanted), _ROWS_A_STATEMENT):
        part = wanted[start : start + _ROWS_A_STATEMENT]
        rows = connection.execute(sa.select(items.c.id, items.c.completions).where(items.c.id.in_(part)))
        counts.update({row.id: len(row.completions) for row in rows})
    return counts
