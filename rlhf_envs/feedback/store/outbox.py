"""Queue events for a project's webhook in the transaction of what they tell. They are kept until they are delivered."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..records import Judgement
from ..settings import Settings
from .database import Database, parts
from .queue import is_asked
from .schema import IN_QUEUE, deliveries, items

__all__ = ["RETRIES", "Delivery", "Outbox", "queue_events"]

# Seconds from one try to the next, the schedule that the Standard Webhooks specification proposes. After the last the
# event is kept as failed, and an admin can send it again.
RETRIES = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)

_IDS_PER_QUERY = 10_000  # as in `store`
_TOLD = ("id", "item_id", "annotator", "kind", "value", "seconds", "comment", "key")


@dataclass(frozen=True)
class Delivery:
    """Hold an event on its way.

    Attributes:
        key: the id of the event, the same in every try.
        event: its type, one of `settings.EVENTS`.
        payload: what it tells.
        attempts: how often it was tried.
        state: "waiting", "sent" or "failed".
        problem: why the last try failed.
    """

    id: int
    key: str
    event: str
    payload: dict[str, Any]
    created: datetime
    attempts: int
    next_try: datetime
    state: str
    problem: str


def queue_events(
    connection: sa.Connection,
    settings: Settings,
    now: datetime,
    *,
    created: Judgement | None = None,
    undone: Iterable[tuple[int, int, str]] = (),
    finished: Sequence[int] = (),
) -> None:
    """Queue what a change of judgements or items tells. Nothing is queued while no webhook is set.

    Args:
        connection: the transaction that has made the change.
        settings: say which events are wanted, and which items the project asks.
        now: the time.
        created: a judgement that counts from now on: it is new, or an admin has fixed or restored it.
        undone: (id, item id, kind) of judgements that count no more. It names nobody, so that it may be sent after
            their author has withdrawn.
        finished: the ids of items that needed judgements, and need none now.
    """
    if not settings.webhooks.url:
        return
    found: list[tuple[str, dict[str, Any]]] = []
    if created is not None:
        data = {name: getattr(created, name) for name in _TOLD} | {"created": created.created.isoformat()}
        found.append(("judgement.created", data))
    found += [("judgement.undone", {"id": i, "item_id": item_id, "kind": kind}) for i, item_id, kind in undone]
    found += _finished(connection, settings, finished)
    rows = [
        {
            "key": f"msg_{uuid.uuid4().hex}",
            "event": event,
            "payload": {"type": event, "timestamp": now.isoformat(), "data": data},
            "created": now,
            "attempts": 0,
            "next_try": now,
            "state": "waiting",
            "problem": "",
        }
        for event, data in found
        if event in settings.webhooks.events
    ]
    if rows:
        connection.execute(sa.insert(deliveries), rows)


def _finished(connection: sa.Connection, settings: Settings, ids: Sequence[int]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of items that were finished, and of the project if nothing is left. The training's are none."""
    asked = is_asked(settings)
    query = sa.select(items.c.id).where(asked).order_by(items.c.id)
    told = [
        item_id
        for part in parts(ids, _IDS_PER_QUERY)
        for item_id in connection.execute(query.where(items.c.id.in_(part))).scalars()
    ]
    found: list[tuple[str, dict[str, Any]]] = [("item.finished", {"item_id": item_id}) for item_id in told]
    if told and connection.execute(sa.select(items.c.id).where(IN_QUEUE, asked).limit(1)).first() is None:
        found.append(("project.finished", {}))
    return found


class Outbox:
    """Give out events to deliver. `FeedbackStore` inherits from this class."""

    _database: Database
    _clock: Callable[[], datetime]

    def due_deliveries(self, limit: int = 20, *, lease: float = 60.0) -> list[Delivery]:
        """Return events whose time has come, the oldest first. Nobody else gets them for `lease` seconds."""
        now = self._clock()
        due = sa.and_(deliveries.c.state == "waiting", deliveries.c.next_try <= now)
        with self._database.read() as connection:
            if connection.execute(sa.select(deliveries.c.id).where(due).limit(1)).first() is None:
                return []
        with self._database.write() as connection:
            query = sa.select(deliveries).where(due).order_by(deliveries.c.id).limit(limit)
            rows = connection.execute(query.with_for_update(skip_locked=True)).all()
            if rows:
                mine = sa.update(deliveries).where(deliveries.c.id.in_([row.id for row in rows]))
                connection.execute(mine.values(next_try=now + timedelta(seconds=lease)))
            return [Delivery(**row._asdict()) for row in rows]

    def settle_delivery(self, delivery: Delivery, problem: str = "", *, retry_after: float = 0.0) -> None:
        """Note that an event was delivered, or, with a problem, when to try it again. After the last try it has failed.

        Args:
            delivery: from `due_deliveries`.
            problem: why it could not be delivered.
            retry_after: the least seconds until the next try, as the receiver asks.
        """
        tried = delivery.attempts + 1
        values: dict[str, Any] = {"attempts": tried, "problem": problem}
        if not problem:
            values["state"] = "sent"
        elif tried > len(RETRIES):
            values["state"] = "failed"
        else:
            values["next_try"] = self._clock() + timedelta(seconds=max(RETRIES[tried - 1], retry_after))
        with self._database.write() as connection:
            connection.execute(sa.update(deliveries).where(deliveries.c.id == delivery.id).values(values))

    def deliveries(self, limit: int = 100) -> list[Delivery]:
        """Return the newest events, whatever became of them."""
        with self._database.read() as connection:
            query = sa.select(deliveries).order_by(deliveries.c.id.desc()).limit(limit)
            return [Delivery(**row._asdict()) for row in connection.execute(query)]

    def count_deliveries(self) -> dict[str, int]:
        """Return how many events are in each state."""
        with self._database.read() as connection:
            query = sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state)
            return {state: count for state, count in connection.execute(query)}

    def retry_deliveries(self) -> int:
        """Try all events again that failed or wait. Return how many there are."""
        with self._database.write() as connection:
            wanted = sa.update(deliveries).where(deliveries.c.state.in_(["failed", "waiting"]))
            again = wanted.values(state="waiting", next_try=self._clock(), attempts=0)
            return int(connection.execute(again).rowcount)

    def forget_deliveries(self, days: float = 30.0) -> None:
        """Delete events that were sent more than so many days ago."""
        with self._database.write() as connection:
            old = deliveries.c.created < self._clock() - timedelta(days=days)
            connection.execute(sa.delete(deliveries).where(deliveries.c.state == "sent", old))
