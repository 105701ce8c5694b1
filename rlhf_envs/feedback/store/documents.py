"""Keep which version of the guidelines and of the consent each person has read, with the text as it was shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ..settings import Settings
from .queue import annotator_named, read_settings
from .schema import annotators, documents, readings
from .store import FeedbackStore

__all__ = [
    "DOCUMENTS",
    "Document",
    "Reading",
    "current_document",
    "digest_of",
    "list_readings",
    "note_reading",
    "text_of",
]

DOCUMENTS = ("consent", "guidelines")


@dataclass(frozen=True)
class Document:
    """Hold a text that people read. `version` counts from 1, and `digest` (SHA-256, hexadecimal) tells texts apart."""

    name: str
    version: int
    digest: str
    text: str


@dataclass(frozen=True)
class Reading:
    """Hold that a person read the guidelines, or agreed to the consent, in this version and at this time (UTC)."""

    annotator: str
    name: str
    version: int
    created: datetime


def text_of(settings: Settings, name: str) -> str:
    """Return the text of a document as it is now; empty if there is none."""
    return {"guidelines": settings.guidelines, "consent": settings.consent.text}[name]


def digest_of(text: str) -> str:
    """Return what tells a text from others."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def current_document(store: FeedbackStore, name: str) -> Document | None:
    """Return a document as it is now, or None if its text is empty. A new text gets the next version.

    A text that comes back has the version that it had.
    """
    text = text_of(store.settings, name)
    if not text.strip():
        return None
    digest = digest_of(text)
    known = sa.select(documents.c.version).where(documents.c.name == name, documents.c.digest == digest)
    with store._database.read() as connection:
        version = connection.execute(known).scalar()
    if version is None:
        with store._database.write() as connection:
            store._database.one_writer(connection)
            version = _version(connection, name, text, store._clock())
    return Document(name, version, digest, text)


def note_reading(store: FeedbackStore, annotator: str, name: str, digest: str) -> bool:
    """Keep that a person has read a document. Return False, and keep nothing, if its text is another by now.

    Raises:
        ValueError: there is no such annotator.
    """
    with store._database.write() as connection:
        store._database.one_writer(connection)
        text = text_of(read_settings(connection), name)
        if digest != digest_of(text):
            return False
        person, now = annotator_named(connection, annotator, lock=True), store._clock()
        version = _version(connection, name, text, now)
        key = {"annotator_id": person.id, "name": name, "version": version}
        known = sa.select(readings.c.version).filter_by(**key)
        if connection.execute(known).first() is None:  # the first time counts
            connection.execute(sa.insert(readings).values(**key, digest=digest, created=now))
        return True


def list_readings(store: FeedbackStore, annotator: str | None = None) -> list[Reading]:
    """Return who read which version when, oldest first; of one annotator, or of all."""
    query = sa.select(annotators.c.name, readings.c.name, readings.c.version, readings.c.created).select_from(
        readings.join(annotators)
    )
    if annotator is not None:
        query = query.where(annotators.c.name == annotator)
    with store._database.read() as connection:
        return [Reading(*row) for row in connection.execute(query.order_by(readings.c.created, readings.c.version))]


def _version(connection: sa.Connection, name: str, text: str, now: datetime) -> int:
    """Return the version of a text, which is added if it is new. The caller is the one writer."""
    digest = digest_of(text)
    rows = connection.execute(sa.select(documents.c.version, documents.c.digest).where(documents.c.name == name)).all()
    for row in rows:
        if row.digest == digest:
            return int(row.version)
    version = 1 + max((row.version for row in rows), default=0)
    new = {"name": name, "version": version, "digest": digest, "text": text, "created": now}
    connection.execute(sa.insert(documents).values(new))
    return version
