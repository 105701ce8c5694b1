"""Keep the pictures of items, each once, under the SHA-256 of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..pictures import Picture
from .database import Database
from .schema import media

__all__ = ["Media"]


class Media:
    """Manage the pictures in the store. `FeedbackStore` inherits from this class."""

    _database: Database
    _clock: Callable[[], datetime]

    def add_pictures(self, pictures: Iterable[Picture]) -> list[dict[str, Any]]:
        """Store pictures, and return the entries for `meta["images"]` of the item that they belong to.

        A picture that is there already is not stored again.
        """
        pictures = list(pictures)
        with self._database.write() as connection:
            self._database.one_writer(connection)
            for picture in {picture.id: picture for picture in pictures}.values():
                if connection.execute(sa.select(media.c.id).where(media.c.id == picture.id)).first() is None:
                    row = {"id": picture.id, "type": picture.type, "data": picture.data, "created": self._clock()}
                    connection.execute(sa.insert(media).values(row))
        return [picture.meta for picture in pictures]

    def picture(self, id: str) -> tuple[str, bytes] | None:
        """Return the MIME type and the bytes of a picture, or None if there is none."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(media.c.type, media.c.data).where(media.c.id == id)).one_or_none()
        return None if row is None else (row.type, bytes(row.data))
