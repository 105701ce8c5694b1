"""The feedback store: questions in, leases out, answers kept."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from rlhf_envs.feedback.kinds import check_item, check_value
from rlhf_envs.feedback.records import Item, Judgement, NewItem, Progress, Settings, Task
from rlhf_envs.feedback.store import schema
from rlhf_envs.feedback.store.accounts import Accounts
from rlhf_envs.feedback.store.database import Database
from rlhf_envs.feedback.store.queue import Queue, annotator_named, item_of
from rlhf_envs.feedback.store.schema import OPEN, STANDS, annotators, items, judgements, tasks
from rlhf_envs.feedback.store.selecting import JUDGEMENTS, judgement_of, read_settings

__all__ = ["FeedbackStore"]

_LONGEST_KEY = 200
_IDS_A_QUERY = 10_000  # SQLite takes 32,766 parameters, PostgreSQL 65,535


class FeedbackStore(Accounts):
    """Items, the tasks that lend them to annotators, and judgements, in SQLite or PostgreSQL.

    What a method returns is on the disk: a crash of this process, or of the machine, loses nothing that `submit` or
    `add_items` acknowledged, and the same call again with the same key adds nothing. Any number of threads and
    processes may use one database at the same time.

    Args:
        url: a path for SQLite (made where it is missing), or "postgresql://user@host/name".
        migrate: bring the schema of an older version up to date; without it such a database is refused.
        seed: of the sides; without it they are drawn from the system's randomness.
        clock: the time, for tests.

    Raises:
        StoreError: the database is out of reach, locked or read-only, or of a newer schema. Every method may raise it.
    """

    def __init__(
        self,
        url: str | Path = "feedback.db",
        *,
        migrate: bool = True,
        seed: int | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._database = Database(url, migrate=migrate)
        self._clock = clock or _utc_now
        self._sides = random.SystemRandom() if seed is None else random.Random(seed)

    @property
    def url(self) -> str:
        """Where the store is, without its password."""
        return self._database.place

    def close(self) -> None:
        """Close the connections; what was acknowledged is stored already."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_items(self, items: Sequence[NewItem]) -> list[int]:
        """Put questions into the queue, all or none.

        Returns:
            Their ids, in order.

        Raises:
            ValueError: an item is wrong; the message says which, and what about it.
        """
        settings, now, rows = self.settings, self._clock(), []
        for index, item in enumerate(items):
            try:
                check_item(item, settings)
                rows.append({**asdict(item), "created": now, "needed": item.overlap})
            except ValueError as error:
                raise ValueError(f"items[{index}]: {error}") from error
        if not rows:
            return []
        insert = sa.insert(schema.items).returning(schema.items.c.id, sort_by_parameter_order=True)
        with self._database.write() as connection:
            return list(connection.execute(insert, rows).scalars())

    def items(self, ids: Sequence[int] | None = None) -> list[Item]:
        """All items by id, or those of the ids in their order.

        Raises:
            ValueError: there is no item of an id.
        """
        query = sa.select(items).order_by(items.c.id)
        with self._database.read() as connection:
            if ids is None:
                return [item_of(row) for row in connection.execute(query)]
            found = {
                row.id: item_of(row)
                for part in _parts(ids)
                for row in connection.execute(query.where(items.c.id.in_(part)))
            }
        if missing := [i for i in ids if i not in found]:
            raise ValueError(f"no items of ids {missing[:10]} in {self.url}")
        return [found[i] for i in ids]

    def withdraw(self, ids: Sequence[int]) -> None:
        """Ask for no more judgements of these items. Those given stay, and who holds a task may still answer it."""
        with self._database.write() as connection:
            self._database.one_writer(connection)
            for part in _parts(ids):
                connection.execute(
                    sa.update(items)
                    .where(items.c.id.in_(part), items.c.needed > 0)
                    .values(overlap=items.c.overlap - items.c.needed, needed=0)
                )

    def claim(self, annotator: str) -> Task | None:
        """Lend an item to an annotator: the one already lent, else the next by priority and age.

        It is one that this annotator has not judged and that needs more judgements than others are about to give.

        Returns:
            The task; None where nothing is left for this annotator, or the project is paused.

        Raises:
            ValueError: there is no such annotator.
        """
        if self.settings.paused:
            return None
        for wait in (False, True):  # what is locked at this moment may be free in the next
            while True:
                try:
                    task = self._claim(annotator, wait=wait)
                except _TakenMeanwhile:
                    continue
                if task is not None:
                    return task
                break
        return None

    def renew(self, task_id: int, annotator: str) -> Task:
        """Lend a task for another full lease, for someone who is still at it.

        Raises:
            LeaseLost: it is no longer this annotator's.
        """
        with self._database.write() as connection:
            queue, person = self._queue(connection), annotator_named(connection, annotator, lock=True)
            return queue.extend(queue.held_task(task_id, person), person)

    def release(self, task_id: int, annotator: str) -> None:
        """Give a task back unanswered; nothing happens where it is this annotator's no more."""
        with self._database.write() as connection:
            person = annotator_named(connection, annotator, lock=True)
            connection.execute(
                sa.update(tasks)
                .where(tasks.c.id == task_id, tasks.c.annotator_id == person.id, OPEN)
                .values(state="released")
            )

    def submit(
        self,
        task_id: int,
        annotator: str,
        value: dict[str, Any] | None,
        *,
        key: str,
        seconds: float = 0.0,
        comment: str = "",
    ) -> Judgement:
        """Answer a task; once this returns the answer is stored, and stored once.

        Args:
            task_id: a task that `claim` gave this annotator.
            annotator: who answers.
            value: an answer of the item's kind, see `kinds`; None skips.
            key: any text that this answer alone has. The same key again (a double click, a retry after a crash)
                returns the judgement that is there, whatever the other arguments say.
            seconds: how long it took.
            comment: anything the annotator wants to say.

        Raises:
            LeaseLost: the lease ran out and another took the place, or the task was answered under another key.
            ValueError: the value is no answer of this kind, the key belongs to another task, or there is no such
                annotator. The task stays lent.
        """
        _check_key(key)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds must be a number of at least 0, got {seconds!r}")
        with self._database.write() as connection:
            self._database.one_writer(connection)  # so that ids appear in their order, see `judgements`
            queue, person = self._queue(connection), annotator_named(connection, annotator, lock=True)
            known = connection.execute(JUDGEMENTS.where(judgements.c.key == key)).one_or_none()
            if known is not None:
                if (known.task_id, known.annotator) != (task_id, annotator):
                    raise ValueError(f"the key {key!r} belongs to another task or annotator: take a fresh one")
                return judgement_of(known)
            task = queue.held_task(task_id, person)
            item = queue.item(task.item_id)
            checked = check_value(item.kind, value, len(item.completions), read_settings(connection))
            connection.execute(
                sa.insert(judgements).values(
                    task_id=task_id,
                    item_id=item.id,
                    annotator_id=person.id,
                    value=checked,
                    seconds=seconds,
                    comment=comment,
                    key=key,
                    created=self._clock(),
                    undone=False,
                )
            )
            queue.close_task(task_id, "done")
            if checked is not None:
                queue.need(item.id, -1)
            return judgement_of(connection.execute(JUDGEMENTS.where(judgements.c.key == key)).one())

    def undo(self, annotator: str) -> Task | None:
        """Take back the annotator's last judgement and lend its item again, shown as it was.

        The judgement stays in the table, marked. A task that the annotator held goes back to the queue.

        Returns:
            The task; None where there is no judgement, or its place (it was a skip) has gone to another.
        """
        with self._database.write() as connection:
            queue, person = self._queue(connection), annotator_named(connection, annotator, lock=True)
            last = connection.execute(
                JUDGEMENTS.where(judgements.c.annotator_id == person.id, STANDS)
                .order_by(judgements.c.id.desc())
                .limit(1)
            ).one_or_none()
            if last is None:
                return None
            if last.value is None and not queue.has_room(last.item_id, person):
                return None
            connection.execute(sa.update(judgements).where(judgements.c.id == last.id).values(undone=True))
            if last.value is not None:
                queue.need(last.item_id, +1)
            connection.execute(sa.update(tasks).where(tasks.c.annotator_id == person.id, OPEN).values(state="released"))
            return queue.lend(queue.item(last.item_id), person, last.sides)

    def judgements(
        self, *, item_ids: Sequence[int] | None = None, after_id: int = 0, include_skips: bool = False
    ) -> list[Judgement]:
        """Judgements by id, without those taken back.

        A judgement appears after all of a smaller id: who asks again with `after_id` (the last id seen) misses none.

        Args:
            item_ids: of these items only.
            after_id: those of a greater id only.
            include_skips: also those whose value is None.
        """
        query = JUDGEMENTS.where(judgements.c.id > after_id, STANDS).order_by(judgements.c.id)
        if not include_skips:
            query = query.where(judgements.c.value.is_not(None))
        parts = [query] if item_ids is None else [query.where(items.c.id.in_(part)) for part in _parts(item_ids)]
        with self._database.read() as connection:
            found = [judgement_of(row) for part in parts for row in connection.execute(part)]
        return sorted(found, key=lambda judgement: judgement.id)

    def progress(self, annotator: str | None = None) -> Progress:
        """Counts of items and judgements; `mine` are those of `annotator`, 0 without one."""
        is_skip = judgements.c.value.is_(None)
        is_mine = annotators.c.name == annotator
        with self._database.read() as connection:
            in_all, finished = connection.execute(
                sa.select(sa.func.count(), sa.func.count().filter(items.c.needed <= 0)).select_from(items)
            ).one()
            given, skips, mine = connection.execute(
                sa.select(
                    sa.func.count().filter(~is_skip), sa.func.count().filter(is_skip), sa.func.count().filter(is_mine)
                )
                .select_from(judgements.join(annotators))
                .where(STANDS)
            ).one()
        return Progress(in_all, finished, given, skips, mine)

    @property
    def settings(self) -> Settings:
        """The settings; what was never set has its default."""
        with self._database.read() as connection:
            return read_settings(connection)

    def update_settings(self, **changes: Any) -> Settings:
        """Change some of the settings.

        Raises:
            ValueError: there is no such setting, its value makes no sense, or there are ratings (or gold questions
                that expect one) on another scale than the new one: they are numbers on it and would change meaning.
        """
        with self._database.write() as connection:
            self._database.one_writer(connection)
            before = read_settings(connection)
            try:
                updated = replace(before, **changes)
            except TypeError:
                known = [setting.name for setting in fields(Settings)]
                raise ValueError(f"unknown settings {sorted(changes.keys() - known)}; there are {known}") from None
            if tuple(updated.scale) != before.scale and _has_ratings(connection):
                low, high = before.scale
                raise ValueError(
                    f"scale: there are ratings from {low} to {high} already, which a new scale would turn into others: "
                    "keep this one, or begin a new store"
                )
            for name in changes:
                connection.execute(sa.delete(schema.settings).where(schema.settings.c.name == name))
                connection.execute(sa.insert(schema.settings).values(name=name, value=getattr(updated, name)))
            return updated

    def _claim(self, annotator: str, *, wait: bool) -> Task | None:
        with self._database.write() as connection:
            queue, person = self._queue(connection), annotator_named(connection, annotator, lock=True)
            held = queue.open_task(person)
            if held is not None:
                return queue.extend(held, person)
            item_id = queue.next_item(person, wait=wait)
            if item_id is None:
                return None
            if not queue.has_room(item_id, person):
                raise _TakenMeanwhile
            return queue.lend(queue.item(item_id), person)

    def _queue(self, connection: sa.Connection) -> Queue:
        lease = timedelta(seconds=read_settings(connection).lease_seconds)
        return Queue(connection, self._clock, lease, self._sides)


class _TakenMeanwhile(Exception):
    """Between our reading and our locking an item, another took its place."""


def _has_ratings(connection: sa.Connection) -> bool:
    """Whether anything in the store is a number on the scale: a judgement that stands, or a gold answer."""
    rated = sa.exists().where(
        judgements.c.item_id == items.c.id, judgements.c.value.is_not(None), sa.not_(judgements.c.undone)
    )
    query = sa.select(items.c.id).where(items.c.kind == "rating", items.c.gold.is_not(None) | rated).limit(1)
    return connection.execute(query).first() is not None


def _check_key(key: str) -> None:
    if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
        raise ValueError(f"a key must have 1 to {_LONGEST_KEY} printable characters, got {key[:_LONGEST_KEY]!r}")


def _parts(ids: Sequence[int]) -> list[list[int]]:
    listed = list(ids)
    return [listed[start : start + _IDS_A_QUERY] for start in range(0, len(listed), _IDS_A_QUERY)]


def _utc_now() -> datetime:
    return datetime.now(UTC)
