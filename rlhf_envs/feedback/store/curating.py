"""Let admins change what is in the store: judgements, items and accounts. Every change is written to the audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..kinds import check_value
from ..masking import PrivateTexts
from ..records import Judgement
from .adjudicating import Adjudicating, item_with
from .auditing import checked_reason, log_change, log_masks, masked_reason
from .database import Database, parts
from .outbox import queue_events
from .queue import (
    CAN_BE_WITHDRAWN,
    GIVEN,
    JUDGEMENTS,
    WITHDRAWN,
    judgement_of,
    read_settings,
    settle,
)
from .schema import audit, items, judgements
from .searching import fold_judgement, vote_of
from .versions import asked_in

__all__ = ["Curating"]

_IDS_PER_QUERY = 10_000  # as in `store`


class Curating(Adjudicating):
    """Correct answers and withdraw items. `FeedbackStore` inherits from this class."""

    _database: Database
    _clock: Callable[[], datetime]

    def fix_judgement(
        self, judgement_id: int, value: dict[str, Any] | None, *, by: str, reason: str, comment: str | None = None
    ) -> Judgement:
        """Replace the value of somebody's judgement, and their comment if one is given. None makes it a skip.

        Raises:
            ValueError: there is no such judgement that stands, the value does not suit its kind, or the reason is
                missing.
        """
        reason = checked_reason(reason)
        with self._database.write() as connection:
            self._database.one_writer(connection)
            found = _judgement(connection, judgement_id)
            if found.undone:
                raise ValueError(f"judgement {judgement_id} was taken back or dropped: only one that stands is fixed")
            item = item_with(connection, found.item_id)
            asked = asked_in(connection, found.version, read_settings(connection))
            checked = check_value(item.kind, value, len(item.completions), asked)
            texts = PrivateTexts(asked)
            checked, said = texts.value(checked), found.comment if comment is None else texts.text(comment)
            if (checked, said) == (found.value, found.comment):
                raise ValueError(f"judgement {judgement_id} is {checked} already: nothing would change")
            log_masks(connection, self._clock(), texts, item_id=item.id, judgement_id=judgement_id)
            row = {**found._mapping, "value": checked, "comment": said}
            changes = {"value": checked, "comment": said, "search": fold_judgement(row), "vote": vote_of(row)}
            if checked is None:  # a skip has no answers to the project's questions
                changes["answers"] = None
            connection.execute(sa.update(judgements).where(judgements.c.id == judgement_id).values(changes))
            finished = _need(connection, item.id, (found.value is not None) - (checked is not None))
            before = {"value": found.value, "comment": found.comment}
            if "answers" in changes and found.answers:
                before["answers"] = found.answers
            after = {"value": checked, "comment": said}
            self._log(connection, by, "fix", found, before=before, after=after, reason=reason)
            fixed = judgement_of(_judgement(connection, judgement_id))
            self._tell(connection, created=fixed, finished=finished)
            return fixed

    def drop_judgement(self, judgement_id: int, *, by: str, reason: str, reopen: bool = True) -> None:
        """Take somebody's judgement out of everything that is counted and exported. It stays in the table, marked.

        Args:
            judgement_id: a judgement that stands.
            by: who drops it.
            reason: why.
            reopen: ask another person in its place, unless the item was withdrawn. If False, the item needs one
                judgement fewer. Whoever gave the judgement is not asked again.

        Raises:
            ValueError: there is no such judgement that stands, or the reason is missing.
        """
        reason = checked_reason(reason)
        with self._database.write() as connection:
            self._database.one_writer(connection)
            found = _judgement(connection, judgement_id)
            if found.undone:
                raise ValueError(f"judgement {judgement_id} was taken back or dropped already")
            mark = sa.update(judgements).where(judgements.c.id == judgement_id)
            connection.execute(mark.values(undone=True, dropped=True))
            withdrawn = sa.select(items.c.withdrawn).where(items.c.id == found.item_id)
            reopen = reopen and connection.execute(withdrawn).scalar() is None
            finished: list[int] = []
            if found.value is not None:
                finished = _need(connection, found.item_id, 1 if reopen else 0, overlap=0 if reopen else -1)
            before = {"value": found.value, "comment": found.comment}
            after = {"asked again": bool(reopen and found.value is not None)}
            self._log(connection, by, "drop", found, before=before, after=after, reason=reason)
            self._tell(connection, undone=[(found.id, found.item_id, found.kind)], finished=finished)

    def restore_judgement(self, judgement_id: int, *, by: str, reason: str) -> None:
        """Let a judgement that was dropped stand again.

        Raises:
            ValueError: it was not dropped, its annotator has judged the item anew, or the reason is missing.
        """
        reason = checked_reason(reason)
        with self._database.write() as connection:
            self._database.one_writer(connection)
            found = _judgement(connection, judgement_id)
            if not found.dropped:
                raise ValueError(f"judgement {judgement_id} was not dropped by an admin: there is nothing to restore")
            stands = sa.select(judgements.c.id).where(
                judgements.c.item_id == found.item_id,
                judgements.c.annotator_id == found.annotator_id,
                sa.not_(judgements.c.undone),
            )
            if connection.execute(stands).first():
                raise ValueError(f"{found.annotator!r} has judged item {found.item_id} again: drop that answer first")
            last = sa.select(audit.c.after).where(audit.c.judgement_id == judgement_id, audit.c.action == "drop")
            dropped = connection.execute(last.order_by(audit.c.id.desc()).limit(1)).scalar() or {}
            mark = sa.update(judgements).where(judgements.c.id == judgement_id)
            connection.execute(mark.values(undone=False, dropped=False))
            finished: list[int] = []
            if found.value is not None:
                asked_again = dropped.get("asked again", True)
                finished = _need(connection, found.item_id, -1 if asked_again else 0, overlap=0 if asked_again else 1)
            after = {"value": found.value, "comment": found.comment}
            self._log(connection, by, "restore", found, after=after, reason=reason)
            restored = judgement_of(_judgement(connection, judgement_id))
            self._tell(connection, created=restored, finished=finished)

    def withdraw_items(self, ids: Sequence[int], *, by: str, reason: str) -> int:
        """Stop asking for judgements of these items, as `FeedbackStore.withdraw` does. Return how many were changed."""
        return self._change_items(ids, CAN_BE_WITHDRAWN, WITHDRAWN, by, "withdraw", reason, None)

    def withdrawn_items(self) -> dict[int, int]:
        """Return the items that an admin has withdrawn: the overlap that each had, by id."""
        query = sa.select(items.c.id, items.c.withdrawn).where(items.c.withdrawn.is_not(None))
        with self._database.read() as connection:
            return {row.id: row.withdrawn for row in connection.execute(query)}

    def ask_again(self, ids: Sequence[int], *, by: str, reason: str) -> int:
        """Ask for judgements of withdrawn items again, at the overlap that they had. Return how many were changed."""
        withdrawn = items.c.withdrawn.is_not(None)
        change = {
            "overlap": items.c.withdrawn,
            "needed": items.c.needed + items.c.withdrawn - items.c.overlap,
            "withdrawn": None,
        }
        return self._change_items(ids, withdrawn, change, by, "ask again", reason, None)

    def set_priority(self, ids: Sequence[int], priority: float, *, by: str, reason: str) -> int:
        """Set the priority of items: those with the highest are asked first. Return how many were changed.

        Raises:
            ValueError: the priority is no number, or beyond 1e300, or the reason is missing.
        """
        if not abs(priority) <= 1e300:
            raise ValueError(f"priority must be a number of at most 1e300, got {priority!r}")
        differs = items.c.priority != priority
        return self._change_items(ids, differs, {"priority": priority}, by, "priority", reason, priority)

    def set_overlap(self, ids: Sequence[int], overlap: int, *, by: str, reason: str) -> int:
        """Set how many annotators judge each of these items. Withdrawn ones are left alone.

        An item that has that many judgements, or more, is finished. None of them is dropped. An overlap that adapts
        becomes fixed.

        Raises:
            ValueError: the overlap is not from 1 to 1,000, or the reason is missing.
        """
        if not 1 <= overlap <= 1000:
            raise ValueError(f"overlap must be from 1 to 1000, got {overlap!r}")
        other = sa.or_(items.c.overlap != overlap, items.c.max_overlap.is_not(None))
        differs = sa.and_(other, items.c.withdrawn.is_(None))
        adapts = items.c.max_overlap.is_not(None)
        needed = sa.case((adapts, overlap - GIVEN), else_=items.c.needed + overlap - items.c.overlap)
        change = {"overlap": overlap, "needed": needed, "max_overlap": None}
        return self._change_items(ids, differs, change, by, "overlap", reason, overlap)

    def _change_items(
        self,
        ids: Sequence[int],
        which: sa.ColumnElement[bool],
        change: Mapping[str, Any],
        by: str,
        action: str,
        reason: str,
        after: Any,
    ) -> int:
        """Change the items of these ids for which `which` holds, each with an entry in the audit."""
        reason, changed, now, finished = checked_reason(reason), 0, self._clock(), []
        shown = ("overlap", "needed", "priority")
        with self._database.write() as connection:
            self._database.one_writer(connection)
            reason = masked_reason(connection, reason)
            for part in parts(sorted(set(ids)), _IDS_PER_QUERY):
                mine = sa.and_(items.c.id.in_(part), which)
                query = sa.select(items.c.id, *(items.c[name] for name in shown)).where(mine).order_by(items.c.id)
                rows = connection.execute(query.with_for_update(key_share=True)).all()
                if not rows:
                    continue
                connection.execute(sa.update(items).where(mine).values(change))
                found = sa.select(items.c.id).where(items.c.id.in_([row.id for row in rows]))
                for item_id in connection.execute(found.where(items.c.max_overlap.is_not(None))).scalars().all():
                    settle(connection, item_id, 0)
                done = set(connection.execute(found.where(items.c.needed <= 0)).scalars())
                finished += [row.id for row in rows if row.needed > 0 and row.id in done]
                entries = [
                    {
                        "created": now,
                        "actor": by,
                        "action": action,
                        "item_id": row.id,
                        "before": {name: getattr(row, name) for name in shown},
                        "after": after,
                        "reason": reason,
                    }
                    for row in rows
                ]
                connection.execute(sa.insert(audit), entries)
                changed += len(rows)
            self._tell(connection, finished=finished)
        return changed

    def _tell(self, connection: sa.Connection, **events: Any) -> None:
        """Queue events for the webhook, see `queue_events`."""
        queue_events(connection, read_settings(connection), self._clock(), **events)

    def _log(self, connection: sa.Connection, by: str, action: str, found: sa.Row[Any], **what: Any) -> None:
        whose = {"item_id": found.item_id, "judgement_id": found.id, "annotator": found.annotator}
        log_change(connection, self._clock(), by, action, **whose, **what)


def _judgement(connection: sa.Connection, judgement_id: int) -> sa.Row[Any]:
    row = connection.execute(JUDGEMENTS.where(judgements.c.id == judgement_id)).one_or_none()
    if row is None:
        raise ValueError(f"there is no judgement {judgement_id}")
    return row


def _need(connection: sa.Connection, item_id: int, change: int, *, overlap: int = 0) -> list[int]:
    """Change how many more judgements an item needs, and its overlap. Return the item's id if that has finished it."""
    if overlap:
        values = {"overlap": items.c.overlap + overlap, "max_overlap": items.c.max_overlap + overlap}
        connection.execute(sa.update(items).where(items.c.id == item_id).values(values))
    return [item_id] if settle(connection, item_id, change) else []
