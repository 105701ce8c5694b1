"""Store questions, lend them to annotators, and keep their answers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from ..answers import check_answers, check_expected
from ..deciding import CAN_ADAPT, FIRST
from ..kinds import check_item, check_value, is_explained
from ..masking import PrivateTexts
from ..records import Annotator, Assignment, Item, Judgement, NewItem
from ..settings import Settings
from .accounts import Accounts
from .auditing import log_masks
from .contents import Contents
from .curating import Curating
from .database import Database, parts
from .explanations import Explanations
from .media import Media
from .outbox import Outbox, queue_events
from .queue import JUDGEMENTS, Queue, annotator_named, is_asked, judgement_of, read_settings, release_held, withdraw
from .schema import OPEN, STANDS, judgements, tasks
from .schema import items as items_table
from .scores import unscored
from .settings import StoredSettings
from .suggestions import Suggestions
from .versions import asked_of

__all__ = ["FeedbackStore", "is_key"]

_LONGEST_KEY = 200
_IDS_PER_QUERY = 10_000  # SQLite takes 32,766 parameters, PostgreSQL 65,535


class FeedbackStore(Accounts, Contents, Curating, Explanations, Media, Outbox, StoredSettings, Suggestions):
    """Keep items, their assignments to annotators, and judgements, in SQLite or PostgreSQL.

    What a method returns is on the disk. A crash of this process, or of the machine, loses nothing that `submit` or
    `add_items` acknowledged, and the same call again with the same key adds nothing. Any number of threads and
    processes may use one database at the same time.

    Args:
        url: a path for SQLite (the file is made if it is missing), or "postgresql://user@host/name".
        migrate: bring the schema of an older version up to date. If False, such a database is refused.
        seed: seeds the orders in which items are asked and completions shown. Without it they come from the system's
            randomness.
        clock: returns the time, for tests.

    Raises:
        StoreError: the database is out of reach, locked or read-only, or has a newer schema. Every method may raise it.
    """

    is_rehearsal = False  # `formats.rehearsing` has a stand-in that writes nothing

    def __init__(
        self,
        url: str | Path = "feedback.db",
        *,
        migrate: bool = True,
        seed: int | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._database = Database(url, migrate=migrate)
        self._clock = clock or (lambda: datetime.now(UTC))
        self._sides = random.SystemRandom() if seed is None else random.Random(seed)

    @property
    def url(self) -> str:
        """Return the address of the store, without its password."""
        return self._database.place

    def close(self) -> None:
        """Close the connections. What was acknowledged is stored already."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_items(self, items: Sequence[NewItem]) -> list[int]:
        """Put questions into the queue, all or none, and return their ids in order.

        Raises:
            ValueError: an item is wrong. The message says which item, and what is wrong with it.
        """
        settings, now, rows = self.settings, self._clock(), []
        texts = PrivateTexts(settings)
        drawn = None if settings.next_item == "age" else self._sides
        for index, item in enumerate(items):
            try:
                check_item(item, settings)
                check_expected(item, settings.questions)
                new, training = _with_overlap(texts.item(item), settings), is_explained(item)
                made = {"created": now, "needed": new.overlap, "score": unscored(drawn), "training": training}
                rows.append({**asdict(new), **made})
            except ValueError as error:
                raise ValueError(f"items[{index}]: {error}") from error
        if not rows:
            return []
        insert = sa.insert(items_table).returning(items_table.c.id, sort_by_parameter_order=True)
        with self._database.write() as connection:
            log_masks(connection, now, texts)
            return list(connection.execute(insert, rows).scalars())

    def withdraw(self, ids: Sequence[int]) -> None:
        """Stop asking for judgements of these items, also if one is taken back later.

        Judgements given stay, and whoever holds one may still answer.
        """
        with self._database.write() as connection:
            self._database.one_writer(connection)
            finished = [i for part in parts(sorted(set(ids)), _IDS_PER_QUERY) for i in withdraw(connection, part)]
            queue_events(connection, read_settings(connection), self._clock(), finished=finished)

    def claim(self, annotator: str) -> Assignment | None:
        """Lend an item to an annotator: the one that they hold already, else the next.

        The next one has the highest priority. Among equals `Settings.next_item` decides.

        A new item is one that this annotator has not judged and that needs more judgements than others are about to
        give.

        Returns:
            The assignment, or None if nothing is left for this annotator or the project is paused.

        Raises:
            ValueError: there is no such annotator.
        """
        if self.settings.paused:
            return None
        for wait in (False, True):  # an item that is locked now may be free in a moment
            while True:
                try:
                    task = self._claim(annotator, wait=wait)
                except _TakenMeanwhile:
                    continue
                if task is not None:
                    return task
                break
        return None

    def renew(self, task_id: int, annotator: str) -> Assignment:
        """Extend an assignment by another full lease, for someone who still works on it.

        Raises:
            LeaseLost: the assignment is no longer this annotator's.
        """
        with self._database.write() as connection:
            queue, person = self._queue(connection), annotator_named(connection, annotator, lock=True)
            return queue.extend(queue.held_task(task_id, person), person)

    def release(self, task_id: int, annotator: str) -> None:
        """Give an assignment back unanswered. Nothing happens if it is no longer this annotator's."""
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
        answers: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> Judgement:
        """Answer an assignment. When this returns, the answer is stored, and stored once.

        Args:
            task_id: the id of an assignment that `claim` gave this annotator.
            annotator: who answers.
            value: an answer of the item's kind, see `kinds`. None skips.
            key: any text that belongs to this answer alone. The same key again (a double click, a retry after a
                crash) returns the judgement that is stored, whatever the other arguments say.
            seconds: how long the answer took.
            comment: anything the annotator wants to say.
            answers: the answers to the project's questions by their names, see `rlhf_envs.feedback.answers`.
            version: the version of the settings that the annotator saw. By default the present one.

        Raises:
            LeaseLost: the lease ran out and another took the place, or the assignment was answered under another key.
            ValueError: the value is no answer of this kind, an answer is none to its question, a required one is
                missing, there is no such version, the key belongs to another assignment, or there is no such
                annotator. The item stays lent.
        """
        if not is_key(key):
            raise ValueError(f"a key must have 1 to {_LONGEST_KEY} printable characters, got {key[:_LONGEST_KEY]!r}")
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds must be a number of at least 0, got {seconds!r}")
        with self._database.write() as connection:
            self._database.one_writer(connection)  # so that judgements appear in the order of their ids
            queue, person = self._queue(connection), annotator_named(connection, annotator, lock=True)
            known = connection.execute(JUDGEMENTS.where(judgements.c.key == key)).one_or_none()
            if known is not None:
                if (known.task_id, known.annotator) != (task_id, annotator):
                    raise ValueError(f"the key {key!r} belongs to another task or annotator: use a new one")
                return judgement_of(known)
            item = queue.item(queue.held_task(task_id, person).item_id)
            checked = self._checked(connection, item, value, answers, version, comment)
            said = {**checked, "seconds": seconds, "key": key}
            return self._store(connection, queue, task_id, person, item, said)

    def undo(self, annotator: str) -> Assignment | None:
        """Take back the annotator's last judgement and lend its item again, shown in the same order.

        The judgement stays in the table, marked as undone. An item that the annotator held goes back to the queue.

        Returns:
            The assignment. None if there is no judgement, or if it was a skip whose place has gone to another.
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
            finished = [last.item_id] if last.value is not None and queue.settle(last.item_id, +1) else []
            undone = [(last.id, last.item_id, last.kind)]
            queue_events(connection, read_settings(connection), self._clock(), undone=undone, finished=finished)
            release_held(connection, person.id)
            return queue.lend(queue.item(last.item_id), person, last.sides)

    def _claim(self, annotator: str, *, wait: bool) -> Assignment | None:
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

    def _checked(
        self,
        connection: sa.Connection,
        item: Item,
        value: dict[str, Any] | None,
        answers: Mapping[str, Any] | None,
        version: int | None,
        comment: str,
    ) -> dict[str, Any]:
        """Return the columns of what an annotator answers, checked against the settings of the version they saw."""
        asked, settings = asked_of(connection, version, read_settings(connection))
        checked = check_value(item.kind, value, len(item.completions), settings)
        own, texts = check_answers(item, checked, answers, settings.questions) or None, PrivateTexts(settings)
        said = {
            "value": texts.value(checked),
            "answers": texts.answers(own, settings.questions),
            "comment": texts.text(comment),
        }
        log_masks(connection, self._clock(), texts, item_id=item.id)
        return {**said, "version": asked}

    def _store(
        self, connection: sa.Connection, queue: Queue, task_id: int, person: Annotator, item: Item, said: dict[str, Any]
    ) -> Judgement:
        """Store a checked answer to a task that is held, close the task, and tell the webhook."""
        now, had_seen = self._clock(), self._has_seen_suggestion(connection, item.id, person.id)
        whose = {"task_id": task_id, "item_id": item.id, "annotator_id": person.id}
        explained = connection.execute(sa.select(tasks.c.explained).where(tasks.c.id == task_id)).scalar()
        knew = {"had_seen": had_seen, "explained": explained}
        connection.execute(sa.insert(judgements).values(**whose, **said, created=now, undone=False, **knew))
        queue.close_task(task_id, "done")
        finished = [item.id] if said["value"] is not None and queue.settle(item.id, -1) else []
        stored = judgement_of(connection.execute(JUDGEMENTS.where(judgements.c.key == said["key"])).one())
        queue_events(connection, read_settings(connection), self._clock(), created=stored, finished=finished)
        return stored

    def _queue(self, connection: sa.Connection) -> Queue:
        settings = read_settings(connection)
        lease = timedelta(seconds=settings.lease_seconds)
        return Queue(connection, self._clock, lease, self._sides, is_asked(settings))


def _with_overlap(item: NewItem, settings: Settings) -> NewItem:
    """Return the item with an overlap that adapts, if the settings want it and the item does not say otherwise."""
    fixed = settings.overlap == "fixed" or item.gold is not None or item.kind not in CAN_ADAPT
    if item.max_overlap is not None or fixed:
        return item if item.kind in CAN_ADAPT else replace(item, max_overlap=None)
    return replace(item, overlap=FIRST, max_overlap=max(settings.max_overlap, item.overlap))


class _TakenMeanwhile(Exception):
    """Signal that another took an item's place between our reading and our locking it."""


def is_key(key: str) -> bool:
    """Return whether a text may be an idempotency key."""
    return 0 < len(key) <= _LONGEST_KEY and key.isprintable()
