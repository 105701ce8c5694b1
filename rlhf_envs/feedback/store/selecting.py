"""Judgements and settings out of their tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from rlhf_envs.feedback.records import Judgement, Settings
from rlhf_envs.feedback.store import schema
from rlhf_envs.feedback.store.schema import annotators, items, judgements, tasks

__all__ = ["JUDGEMENTS", "judgement_of", "read_settings"]

JUDGEMENTS = sa.select(judgements, annotators.c.name.label("annotator"), items.c.kind, tasks.c.sides).select_from(
    judgements.join(annotators, judgements.c.annotator_id == annotators.c.id)
    .join(items, judgements.c.item_id == items.c.id)
    .join(tasks, judgements.c.task_id == tasks.c.id)
)


def judgement_of(row: sa.Row[Any]) -> Judgement:
    """A judgement from a row of `JUDGEMENTS`."""
    return Judgement(
        id=row.id,
        item_id=row.item_id,
        annotator=row.annotator,
        kind=row.kind,
        value=row.value,
        seconds=row.seconds,
        comment=row.comment,
        sides=tuple(row.sides),
        key=row.key,
        created=row.created,
    )


def read_settings(connection: sa.Connection) -> Settings:
    """The settings; what was never set has its default."""
    stored: dict[str, Any] = {row.name: row.value for row in connection.execute(sa.select(schema.settings))}
    for name in stored.keys() & {"scale", "harms"}:
        stored[name] = tuple(stored[name])
    return Settings(**stored)
