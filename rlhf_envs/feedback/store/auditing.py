"""Keep the audit: what admins have changed, who did it, when and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..masking import PrivateTexts
from ..records import AuditEntry
from .database import Database
from .queue import read_settings
from .schema import audit

__all__ = ["Auditing", "checked_reason", "log_change", "log_masks", "masked_reason"]

_LONGEST_REASON = 2000


def log_change(connection: sa.Connection, when: datetime, actor: str, action: str, **what: Any) -> None:
    """Add an entry to the audit, in the transaction of the change.

    Args:
        connection: is in a write transaction.
        when: the time.
        actor: who makes the change.
        action: what is done, in a word or two.
        what: the other fields of `AuditEntry`.
    """
    reason = masked_reason(connection, what.pop("reason", ""))
    row = {**what, "reason": reason, "created": when, "actor": actor, "action": action}
    connection.execute(sa.insert(audit).values(row))


def log_masks(connection: sa.Connection, when: datetime, texts: PrivateTexts, **what: Any) -> None:
    """Add an entry to the audit of how much private data was masked, by kind, if any was."""
    if texts.counts:
        log_change(connection, when, "mask_private (setting)", "mask private data", after=dict(texts.counts), **what)


def masked_reason(connection: sa.Connection, reason: str) -> str:
    """Return the reason for a change as the audit keeps it: masked if the project's settings ask for it."""
    return PrivateTexts(read_settings(connection)).text(reason) if reason else ""


def checked_reason(reason: str) -> str:
    """Return the reason for a change, without space around it.

    Raises:
        ValueError: it is missing or too long.
    """
    reason = reason.strip()
    if not reason or len(reason) > _LONGEST_REASON:
        raise ValueError(f"say why, in 1 to {_LONGEST_REASON} characters: the audit keeps it")
    return reason


class Auditing:
    """Read the audit and add to it. `FeedbackStore` inherits from this class."""

    _database: Database
    _clock: Callable[[], datetime]

    def audit(
        self,
        *,
        item_id: int | None = None,
        judgement_id: int | None = None,
        action: str | None = None,
        before_id: int | None = None,
        limit: int | None = None,
    ) -> list[AuditEntry]:
        """Return the changes that were made, the newest first.

        Args:
            item_id: of this item only.
            judgement_id: of this judgement only.
            action: of this action only.
            before_id: entries older than the one of this id.
            limit: the most entries.
        """
        query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
        for column, wanted in ((audit.c.item_id, item_id), (audit.c.judgement_id, judgement_id)):
            query = query if wanted is None else query.where(column == wanted)
        query = query if action is None else query.where(audit.c.action == action)
        query = query if before_id is None else query.where(audit.c.id < before_id)
        with self._database.read() as connection:
            return [AuditEntry(**row._asdict()) for row in connection.execute(query)]

    def log(self, actor: str, action: str, **what: Any) -> None:
        """Add an entry to the audit for a change that was made elsewhere. `what` are other fields of `AuditEntry`."""
        with self._database.write() as connection:
            log_change(connection, self._clock(), actor, action, **what)
