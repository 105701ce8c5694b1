"""Keep each version of what a project asks, so that a judgement says which one it answers.

Version 1 is what a new store asks. Until an item has been lent, a change belongs to the present version; afterwards it
begins a new one. The table has no rows before the first such change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..settings import ASKED_SETTINGS, Settings
from ..settings_file import as_plain, read_stored_setting
from .schema import adjudications, tasks, training_answers, versions

__all__ = [
    "asked_in",
    "asked_of",
    "current_version",
    "read_versions",
    "record_change",
    "same_questions",
    "write_versions",
]


def current_version(connection: sa.Connection) -> int:
    """Return the number of the present version."""
    return int(connection.execute(sa.select(sa.func.max(versions.c.id))).scalar() or 1)


def read_versions(connection: sa.Connection, present: Settings) -> dict[int, Settings]:
    """Map the number of each version to its settings, oldest first. What is not asked is as at present."""
    rows = connection.execute(sa.select(versions).order_by(versions.c.id)).all()
    return {row.id: _settings_of(row.asked, present) for row in rows} or {1: present}


def asked_in(connection: sa.Connection, version: int, present: Settings) -> Settings:
    """Return the settings of a version.

    Raises:
        ValueError: there is no such version.
    """
    known = read_versions(connection, present)
    if version not in known:
        raise ValueError(f"there is no version {version} of what is asked; there are {', '.join(map(str, known))}")
    return known[version]


def asked_of(connection: sa.Connection, version: int | None, present: Settings) -> tuple[int, Settings]:
    """Return the number and the settings of the version that somebody saw; None is the present one.

    Raises:
        ValueError: there is no such version.
    """
    now = current_version(connection)
    if version is None or version == now:
        return now, present
    return version, asked_in(connection, version, present)


def record_change(connection: sa.Connection, before: Settings, after: Settings, now: datetime) -> None:
    """Record a change of the settings: as a new version if what is asked differs and somebody was asked already."""
    if same_questions(before, after):
        return
    version = current_version(connection)
    row = {"created": now, "asked": _asked(after)}
    has_row = connection.execute(sa.select(versions.c.id).where(versions.c.id == version)).first() is not None
    if _was_asked(connection):
        if not has_row:
            connection.execute(sa.insert(versions).values(id=version, created=now, asked=_asked(before)))
        connection.execute(sa.insert(versions).values(id=version + 1, **row))
    elif has_row:
        connection.execute(sa.update(versions).where(versions.c.id == version).values(**row))


def write_versions(connection: sa.Connection, known: Mapping[int, Settings], now: datetime) -> None:
    """Write the versions of another store, for a store that takes its items over.

    Raises:
        ValueError: somebody was asked already, so there are answers to other versions.
    """
    if _was_asked(connection):
        raise ValueError("somebody was asked already: versions are taken over by a new store only")
    connection.execute(sa.delete(versions))
    rows = [{"id": number, "created": now, "asked": _asked(settings)} for number, settings in known.items()]
    connection.execute(sa.insert(versions), rows)


def same_questions(one: Settings, other: Settings) -> bool:
    """Return whether two settings ask the same in the same words."""
    return all(getattr(one, name) == getattr(other, name) for name in ASKED_SETTINGS)


def _was_asked(connection: sa.Connection) -> bool:
    """Return whether an item was lent, or somebody has answered the training or given a final answer."""
    firsts = (sa.select(column).limit(1) for column in (tasks.c.id, training_answers.c.id, adjudications.c.item_id))
    return any(connection.execute(query).first() is not None for query in firsts)


def _asked(settings: Settings) -> dict[str, Any]:
    return {name: as_plain(getattr(settings, name)) for name in ASKED_SETTINGS}


def _settings_of(asked: Mapping[str, Any], present: Settings) -> Settings:
    return replace(present, **{name: read_stored_setting(name, json.dumps(value)) for name, value in asked.items()})
