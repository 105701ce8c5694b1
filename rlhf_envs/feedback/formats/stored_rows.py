"""Read the rows that reward models are fitted to straight from a feedback store, or from an export of all its items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...datasets.reading import BadRow, read_rows
from ..store.store import FeedbackStore
from .exporting import Export, export_file
from .importing import import_file

__all__ = ["has_judgements", "is_store", "open_stored", "rows_of", "stored_rows"]


def is_store(source: str) -> bool:
    """Return whether a source is a feedback store: an address of a database, or a file of SQLite."""
    if "://" in source:
        return source.startswith(("postgresql", "sqlite"))
    path = Path(source)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def has_judgements(source: str) -> bool:
    """Return whether a file is an export of all items, whose rows have their judgements."""
    first = next(iter(read_rows(Path(source))), None)
    return first is not None and not isinstance(first, BadRow) and isinstance(first[1].get("judgements"), list)


@contextmanager
def open_stored(source: str) -> Iterator[FeedbackStore]:
    """Open a store, or what an export of its items holds as one.

    Args:
        source: see `is_store` and `has_judgements`.

    Raises:
        ValueError: rows of the file cannot be read.
    """
    with TemporaryDirectory() as folder:
        address = source if is_store(source) else str(Path(folder, "feedback.db"))
        with FeedbackStore(address) as store:
            if address != source:
                done = import_file(store, source, "items", quarantine=Path(folder, "bad.jsonl"))
                if done.bad:
                    raise ValueError(f"{done.bad[0].where}: {done.bad[0].reason} (one of {len(done.bad)} bad rows)")
            yield store


def stored_rows(
    source: str, format: str, *, criterion: str | None = None, version: int | None = None
) -> tuple[list[dict[str, Any]], Export]:
    """Return rows of a store, or of an export of its items, see `rows_of`."""
    with open_stored(source) as store:
        return rows_of(store, source, format, criterion=criterion, version=version)


def rows_of(
    store: FeedbackStore, source: str, format: str, *, criterion: str | None = None, version: int | None = None
) -> tuple[list[dict[str, Any]], Export]:
    """Return rows of a store, one per judgement, and the export with what was left out.

    An item with a final answer has that one in place of its judgements, as `take_finals` of `export_file` says.

    Args:
        store: see `open_stored`.
        source: what the message calls it.
        format: "preference", "ratings" or "flags".
        criterion: see `export_file`.
        version: see `export_file`.

    Raises:
        ValueError: there are no such rows.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        export = export_file(store, path, format, criterion=criterion, version=version, take_finals=True)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not rows:
        why = ", ".join(f"{n} {reason}" for reason, n in export.dropped.items())
        raise ValueError(f"{source} gives no rows of {format}" + (f"; left out: {why}" if why else ""))
    return rows, export
