"""Read and change the settings of the project, and the versions of what it asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..masking import check_masking
from ..settings import Settings
from ..settings_file import as_plain, read_setting
from .database import Database
from .queue import SERVED_AT, read_settings
from .schema import items, judgements
from .schema import settings as settings_table
from .scores import Scores
from .versions import current_version, read_versions, record_change, write_versions

__all__ = ["StoredSettings"]


class StoredSettings(Scores):
    """Manage the settings. `FeedbackStore` inherits from this class."""

    _database: Database
    _clock: Callable[[], datetime]

    @property
    def settings(self) -> Settings:
        """Return the settings. A setting that was never changed has its default."""
        with self._database.read() as connection:
            return read_settings(connection)

    def asked(self) -> tuple[int, Settings]:
        """Return the number of the present version of what is asked, and the settings."""
        with self._database.read() as connection:
            return current_version(connection), read_settings(connection)

    def versions(self) -> dict[int, Settings]:
        """Map the number of each version of what was asked to its settings, oldest first.

        A change of the questions, the wording, the scale or the harms begins a new version as soon as an item has been
        lent, or somebody has answered the training or given a final answer. What versions do not hold, such as the
        guidelines, is as at present.
        """
        with self._database.read() as connection:
            return read_versions(connection, read_settings(connection))

    def take_versions(self, versions: Mapping[int, Settings]) -> None:
        """Take over what another store asked, in a store in which nothing was asked yet, whose settings are the newest.

        Raises:
            ValueError: somebody was asked already.
        """
        if list(versions) == [1]:
            return
        with self._database.write() as connection:
            self._database.one_writer(connection)
            write_versions(connection, versions, self._clock())

    def update_settings(self, **changes: Any) -> Settings:
        """Change some of the settings, all or none. Structured ones are taken as objects or in their plain form.

        Raises:
            ValueError: there is no such setting, or a value is not allowed, or private data shall be masked and the
                extra `privacy` is not installed, or the scale would change although there
                are ratings (or gold questions that expect one), whose meaning would change with it.
        """
        with self._database.write() as connection:
            self._database.one_writer(connection)
            before = read_settings(connection)
            updated = replace(before, **{name: read_setting(name, value) for name, value in changes.items()})
            check_masking(updated)
            if updated.scale != before.scale and _has_ratings(connection):
                low, high = before.scale
                raise ValueError(
                    f"scale: there are ratings from {low} to {high} already, whose meaning a new scale would change: "
                    "keep this scale, or begin a new store"
                )
            record_change(connection, before, updated, self._clock())
            for name in changes:
                connection.execute(sa.delete(settings_table).where(settings_table.c.name == name))
                connection.execute(sa.insert(settings_table).values(name=name, value=as_plain(getattr(updated, name))))
            if updated.next_item != before.next_item:
                self._forget_scores(connection, updated.next_item)
            return updated

    @property
    def served_at(self) -> str | None:
        """Return the address under which people reach the page, as `serve` has told it; None if it never ran."""
        query = sa.select(settings_table.c.value).where(settings_table.c.name == SERVED_AT)
        with self._database.read() as connection:
            return connection.execute(query).scalar()

    def remember_address(self, url: str) -> None:
        """Keep the address under which people reach the page, for the links that commands print."""
        with self._database.write() as connection:
            self._database.one_writer(connection)
            connection.execute(sa.delete(settings_table).where(settings_table.c.name == SERVED_AT))
            connection.execute(sa.insert(settings_table).values(name=SERVED_AT, value=url))


def _has_ratings(connection: sa.Connection) -> bool:
    """Return whether anything in the store is a number on the scale: a judgement that stands, or a gold answer."""
    rated = sa.exists().where(
        judgements.c.item_id == items.c.id, judgements.c.value.is_not(None), sa.not_(judgements.c.undone)
    )
    query = sa.select(items.c.id).where(items.c.kind == "rating", items.c.gold.is_not(None) | rated).limit(1)
    return connection.execute(query).first() is not None
