"""Write the rows of an export as JSON lines, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from .trainer_rows import Export

__all__ = ["WRITERS", "without_surrogates"]

Row = dict[str, Any]


def without_surrogates(export: Export) -> Export:
    """Leave out, and count, the rows with a lone surrogate, which UTF-8 cannot hold."""
    whole = [row for row in export.rows if _is_utf8(row)]
    dropped = dict(export.dropped)
    if len(whole) < len(export.rows):
        dropped["text that UTF-8 cannot hold (row)"] = len(export.rows) - len(whole)
    return replace(export, rows=whole, dropped=dropped)


def _as_jsonl(rows: Iterable[Row]) -> bytes:
    # Escapes also keep lone surrogates, which UTF-8 cannot hold, and separators that some readers take for line ends.
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def _as_json(rows: Sequence[Row]) -> bytes:
    return (json.dumps(list(rows), indent=1) + "\n").encode()


def _as_csv(rows: Sequence[Row]) -> bytes:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _is_utf8(row: Row) -> bool:
    try:
        "".join(value for value in row.values() if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


WRITERS = {".csv": _as_csv, ".json": _as_json, ".jsonl": _as_jsonl}  # by the extension of the file: rows to bytes
