"""Decide who may judge which item, inside one transaction: leases, and locks that keep two annotators off one place.

Locks are taken in the order writer, annotator, item, at most one of each, so that no two transactions can wait for each
other. They let foreign keys be checked (`FOR NO KEY UPDATE`). Under PostgreSQL a statement sees what was committed
before it began, so whatever must hold when we write is read after the lock. SQLite has one writer at a time and leaves
`FOR UPDATE` out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..deciding import judgements_needed
from ..records import Annotator, Assignment, Item, Judgement, LeaseLost, NoSuchAnnotator
from ..settings import Settings
from ..settings_file import read_stored_setting
from .database import parts
from .schema import DROPPED, IN_QUEUE, IN_TRAINING, OPEN, STANDS, annotators, items, judgements, settings, tasks

__all__ = [
    "ANNOTATORS",
    "CAN_BE_WITHDRAWN",
    "GIVEN",
    "IS_SETTING",
    "ITEMS",
    "JUDGEMENTS",
    "WITHDRAWN",
    "Queue",
    "annotator_named",
    "count_asked",
    "is_asked",
    "item_of",
    "items_in_parts",
    "judgement_of",
    "read_settings",
    "release_held",
    "settle",
    "withdraw",
]


ANNOTATORS = sa.select(
    annotators.c.id,
    annotators.c.name,
    annotators.c.role,
    annotators.c.created,
    annotators.c.active,
    annotators.c.withdrawn,
)
# The fields of `Item`: not the folded texts, which would double what is read.
ITEMS: sa.Select[Any] = sa.select(*(items.c[name] for name in Item.__dataclass_fields__))
# Every judgement with the annotator's name, the kind, and the order in which the completions were shown.
JUDGEMENTS: sa.Select[Any] = sa.select(
    *(column for column in judgements.c if column.name != "search"),
    annotators.c.name.label("annotator"),
    items.c.kind,
    tasks.c.sides,
).select_from(
    judgements.join(annotators, judgements.c.annotator_id == annotators.c.id)
    .join(items, judgements.c.item_id == items.c.id)
    .join(tasks, judgements.c.task_id == tasks.c.id)
)


# A finished item too, so that no undo opens it again. An item of the training is asked there in any case.
CAN_BE_WITHDRAWN = items.c.withdrawn.is_(None)
# How many judgements of an item count.
GIVEN = (
    sa.select(sa.func.count())
    .where(judgements.c.item_id == items.c.id, STANDS, judgements.c.value.is_not(None))
    .correlate(items)
    .scalar_subquery()
)
# The values of an item that is asked no more: its overlap is what it has, and `withdrawn` what it had.
WITHDRAWN: dict[str, Any] = {
    "withdrawn": items.c.overlap,
    "overlap": sa.case((items.c.max_overlap.is_not(None), GIVEN), else_=items.c.overlap - items.c.needed),
    "needed": 0,
}


@dataclass
class Queue:
    """Show the queue as one transaction sees it.

    Attributes:
        connection: is in a write transaction.
        clock: gives the time (UTC). It is read again after every lock, because a lease may run out while we wait.
        lease: how long an item is lent.
        sides: draws the order in which completions are shown.
        asked: which items may be lent, see `is_asked`.
    """

    connection: sa.Connection
    clock: Callable[[], datetime]
    lease: timedelta
    sides: random.Random
    asked: sa.ColumnElement[bool]

    def open_task(self, annotator: Annotator) -> sa.Row[Any] | None:
        """Return the task that the annotator holds, or None. A task whose place was taken is closed first."""
        row = self.connection.execute(sa.select(tasks).where(tasks.c.annotator_id == annotator.id, OPEN)).one_or_none()
        if row is None or self.may_answer(row):
            return row
        self.close_task(row.id, "lost")
        return None

    def may_answer(self, task: sa.Row[Any]) -> bool:
        """Lock the task's item. Return whether its lease is live, or ran out without anybody taking the place."""
        needed = self._lock_item(task.item_id)
        return task.expires > self.clock() or needed > self._live_leases(task.item_id, task.annotator_id)

    def has_room(self, item_id: int, annotator: Annotator) -> bool:
        """Lock the item. Return whether it needs more judgements than others are about to give."""
        return self._lock_item(item_id) > self._live_leases(item_id, annotator.id)

    def next_item(self, annotator: Annotator, *, wait: bool) -> int | None:
        """Lock the first item that the annotator may take, and return its id. Skip locked items unless `wait`."""
        own = sa.select(judgements.c.id).where(
            judgements.c.item_id == items.c.id, judgements.c.annotator_id == annotator.id
        )
        judged = own.where(STANDS)
        dropped = own.where(DROPPED)  # whose answer was dropped is not asked again
        query = (
            sa.select(items.c.id)
            .where(
                IN_QUEUE, items.c.needed > self._leases(items.c.id, annotator.id), ~judged.exists(), ~dropped.exists()
            )
            .where(self.asked)
            .order_by(items.c.priority.desc(), items.c.score.desc(), items.c.id)
            .limit(1)
            .with_for_update(key_share=True, skip_locked=not wait)
        )
        return self.connection.execute(query).scalar_one_or_none()

    def lend(self, item: Item, annotator: Annotator, sides: Sequence[int] | None = None) -> Assignment:
        """Lend an item that `has_room` has locked and found free. The sides are drawn if none are given."""
        mine = (tasks.c.item_id == item.id, tasks.c.annotator_id == annotator.id)
        seen = self.connection.execute(sa.select(tasks.c.id).where(*mine, tasks.c.explained == "seen").limit(1)).first()
        self._forget(item.id, annotator.id)
        n = len(item.completions)
        drawn = tuple(sides) if sides is not None else tuple(self.sides.sample(range(n), n))
        expires = self.clock() + self.lease
        task_id = self.connection.execute(
            sa.insert(tasks)
            .values(
                item_id=item.id,
                annotator_id=annotator.id,
                sides=drawn,
                expires=expires,
                state="open",
                explained=seen and "seen",  # once seen, always seen
            )
            .returning(tasks.c.id)
        ).scalar_one()
        return Assignment(task_id, item, annotator, drawn, expires)

    def _forget(self, item_id: int, annotator_id: int) -> None:
        """Delete what the annotator has left behind on an item, so that judging and undoing cannot fill the disk.

        The newest undone judgement stays, with its task; so does the newest that was given without a suggestion in
        sight, to be compared with the suggestion.
        """
        undone = sa.select(judgements.c.id, judgements.c.had_seen).where(
            judgements.c.item_id == item_id,
            judgements.c.annotator_id == annotator_id,
            judgements.c.undone,
            ~judgements.c.dropped,
        )
        rows = self.connection.execute(undone.order_by(judgements.c.id.desc())).all()
        own = next((row.id for row in rows if not row.had_seen), None)
        older = [row.id for row in rows[1:] if row.id != own]
        if older:
            self.connection.execute(sa.delete(judgements).where(judgements.c.id.in_(older)))
        answered = sa.exists().where(judgements.c.task_id == tasks.c.id)
        self.connection.execute(
            sa.delete(tasks).where(
                tasks.c.item_id == item_id, tasks.c.annotator_id == annotator_id, tasks.c.state != "open", ~answered
            )
        )

    def extend(self, row: sa.Row[Any], annotator: Annotator) -> Assignment:
        """Extend an open task by another full lease."""
        expires = self.clock() + self.lease
        self.connection.execute(sa.update(tasks).where(tasks.c.id == row.id).values(expires=expires))
        return Assignment(row.id, self.item(row.item_id), annotator, tuple(row.sides), expires)

    def held_task(self, task_id: int, annotator: Annotator) -> sa.Row[Any]:
        """Return the row of the annotator's task, which may be answered.

        Raises:
            LeaseLost: the task is closed or another's, or its place is taken.
        """
        row = self.connection.execute(sa.select(tasks).where(tasks.c.id == task_id)).one_or_none()
        if row is None or row.annotator_id != annotator.id:
            raise LeaseLost(f"task {task_id} is not lent to {annotator.name!r}: claim a task first")
        if row.state != "open":
            raise LeaseLost(f"task {task_id} of {annotator.name!r} is {row.state}, no longer open: claim another")
        if not self.may_answer(row):
            raise LeaseLost(
                f"the lease of task {task_id} ran out at {row.expires:%H:%M:%S} UTC and item {row.item_id} went to "
                "another annotator: claim another"
            )
        return row

    def close_task(self, task_id: int, state: str) -> None:
        """Set the final state of a task: done, released or lost."""
        self.connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(state=state))

    def settle(self, item_id: int, change: int) -> bool:
        """Set how many more judgements an item needs, see `settle`."""
        return settle(self.connection, item_id, change)

    def item(self, item_id: int) -> Item:
        """Return the item with this id, which must exist."""
        return item_of(self.connection.execute(ITEMS.where(items.c.id == item_id)).one())

    def _lock_item(self, item_id: int) -> int:
        return self.connection.execute(
            sa.select(items.c.needed).where(items.c.id == item_id).with_for_update(key_share=True)
        ).scalar_one()

    def _live_leases(self, item_id: int, annotator_id: int) -> int:
        return self.connection.execute(sa.select(self._leases(sa.literal(item_id), annotator_id))).scalar_one()

    def _leases(self, item_id: sa.ColumnElement[int], annotator_id: int) -> sa.ScalarSelect[int]:
        """Return a query for the number of live leases that others hold on an item."""
        return (
            sa.select(sa.func.count())
            .select_from(tasks)
            .where(
                tasks.c.item_id == item_id, OPEN, tasks.c.expires > self.clock(), tasks.c.annotator_id != annotator_id
            )
            .scalar_subquery()
        )


def is_asked(settings: Settings) -> sa.ColumnElement[bool]:
    """Return the condition that an item is asked among the others: the items of the training are kept for it."""
    training = settings.training
    if training.n_items == 0:
        return sa.true()
    return sa.not_(items.c.training) | items.c.id.not_in(training.items) if training.items else ~items.c.training


def count_asked(connection: sa.Connection, settings: Settings) -> tuple[int, int]:
    """Return how many items are asked among the others, and how many of them need judgements. Only indexes are read."""
    count = sa.select(sa.func.count()).select_from(items)
    in_all, waiting = (connection.execute(query).scalar_one() for query in (count, count.where(IN_QUEUE)))
    if settings.training.n_items:
        kept = count.where(IN_TRAINING, sa.not_(is_asked(settings)))
        in_all -= connection.execute(kept).scalar_one()
        waiting -= connection.execute(kept.where(items.c.needed > 0)).scalar_one()
    return in_all, waiting


def settle(connection: sa.Connection, item_id: int, change: int) -> bool:
    """Lock an item, set how many more judgements it needs, and return whether that has finished it.

    It is called after the item's judgements have changed.

    An item that is no longer asked needs none. Its overlap counts the judgements it has.

    Args:
        connection: is in a write transaction.
        item_id: the item.
        change: by how much more or less, where the overlap is fixed. Where it adapts, the judgements that stand say it.
    """
    columns = ("kind", "overlap", "max_overlap", "needed", "withdrawn")
    found = sa.select(*(items.c[name] for name in columns)).where(items.c.id == item_id)
    # Locked, since PostgreSQL lets another transaction add a judgement between our reading and our writing.
    item = connection.execute(found.with_for_update(key_share=True)).one()
    if item.withdrawn is not None:
        connection.execute(sa.update(items).where(items.c.id == item_id).values(overlap=items.c.overlap - change))
        return False
    needed = item.needed + change
    if item.max_overlap is not None:
        stands = sa.select(judgements.c.value).where(
            judgements.c.item_id == item_id, STANDS, judgements.c.value.is_not(None)
        )
        values = list(connection.execute(stands).scalars())
        needed = judgements_needed(item.kind, values, item.overlap, item.max_overlap, read_settings(connection).scale)
    connection.execute(sa.update(items).where(items.c.id == item_id).values(needed=needed))
    return bool(item.needed > 0 >= needed)


def withdraw(connection: sa.Connection, ids: Sequence[int]) -> list[int]:
    """Withdraw the items of these ids that are not withdrawn yet. Return those that needed judgements until now."""
    query = sa.select(items.c.id, items.c.needed).where(items.c.id.in_(ids), CAN_BE_WITHDRAWN).order_by(items.c.id)
    rows = connection.execute(query.with_for_update(key_share=True)).all()
    connection.execute(sa.update(items).where(items.c.id.in_([row.id for row in rows])).values(WITHDRAWN))
    return [row.id for row in rows if row.needed > 0]


def release_held(connection: sa.Connection, person: int) -> None:
    """Give the item back that a (locked) person holds, if they hold one."""
    connection.execute(sa.update(tasks).where(tasks.c.annotator_id == person, OPEN).values(state="released"))


def annotator_named(connection: sa.Connection, name: str, *, lock: bool = False) -> Annotator:
    """Return the annotator of this name. With `lock`, no other transaction can act for the annotator until ours ends.

    Raises:
        NoSuchAnnotator: there is no such annotator, or, with `lock`, they have withdrawn.
    """
    query = ANNOTATORS.where(annotators.c.name == name)
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).one_or_none()
    if row is None:
        raise NoSuchAnnotator(f"there is no annotator {name!r}: invite them, or add one with `add_annotator` in Python")
    if lock and row.withdrawn is not None:
        raise NoSuchAnnotator(f"{name!r} has withdrawn, and the account is closed: invite the person anew")
    return Annotator(*row)


def item_of(row: sa.Row[Any]) -> Item:
    """Return the item in a row of `ITEMS`, which may have more columns."""
    values = {name: getattr(row, name) for name in Item.__dataclass_fields__}
    return Item(**{**values, "completions": tuple(values["completions"])})


def judgement_of(row: sa.Row[Any]) -> Judgement:
    """Return the judgement in a row of `JUDGEMENTS`."""
    fields = ("id", "item_id", "annotator", "kind", "value", "seconds", "comment", "key", "created", "version")
    own: dict[str, Any] = {"sides": tuple(row.sides), "answers": row.answers or {}, "explained": row.explained or ""}
    return Judgement(**own, **{name: getattr(row, name) for name in fields})


# Rows of the table of settings whose names begin with "_" are none: they are the store's own notes.
IS_SETTING = sa.not_(settings.c.name.startswith("_", autoescape=True))
ROWS_PER_STATEMENT = 500
SERVED_AT = "_served_at"  # where the page was served last


def read_settings(connection: sa.Connection) -> Settings:
    """Return the settings. A setting that was never changed has its default."""
    stored = connection.execute(sa.select(settings).where(IS_SETTING)).all()
    return Settings(**{row.name: read_stored_setting(row.name, json.dumps(row.value)) for row in stored})


def items_in_parts(
    connection: sa.Connection, ids: Iterable[int], place: str
) -> Iterator[tuple[Sequence[int], dict[int, Any]]]:
    """Yield ids in order, as many at a time as a statement takes, and the items' rows with kind and completions by id.

    Args:
        place: where the store is, for messages.

    Raises:
        ValueError: there is no item of an id.
    """
    for part in parts(sorted(ids), ROWS_PER_STATEMENT):
        query = sa.select(items.c.id, items.c.kind, items.c.completions).where(items.c.id.in_(part))
        found: dict[int, Any] = {row.id: row for row in connection.execute(query)}
        if missing := [item_id for item_id in part if item_id not in found]:
            raise ValueError(f"no items with the ids {missing[:10]} in {place}")
        yield part, found
