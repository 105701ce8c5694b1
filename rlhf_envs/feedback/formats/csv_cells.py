"""Read and write cells, in the way that the CSV tables of Argilla and Label Studio share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["Answer", "as_json", "kind_of", "moment", "thumb", "whole"]

Answer = tuple[str, dict[str, Any] | None, dict[str, Any]]  # annotator, value, further fields of a `PastJudgement`


def kind_of(row: Mapping[str, str], columns: Mapping[str, str], n_completions: int) -> str:
    """Return the kind of feedback: from the column "kind", the one column with an answer, or the number of completions.

    Args:
        row: a row of the table.
        columns: maps a column to the kind whose answers it holds.
        n_completions: the number of completions in the row.

    Raises:
        ValueError: the kind cannot be told.
    """
    if row.get("kind"):
        return row["kind"]
    kinds = [kind for column, kind in columns.items() if row.get(column)]
    if not kinds:
        kinds = [kind for column, kind in columns.items() if column in row]
    if len(kinds) == 1:
        return kinds[0]
    if not kinds and n_completions > 1:
        return "pairwise" if n_completions == 2 else "ranking"
    found = ", ".join(kinds) or "none"
    raise ValueError(f"cannot tell what was asked (columns for: {found}): add a column 'kind'")


def thumb(answer: Any) -> bool:
    """Return True for up and False for down."""
    if str(answer).lower() not in ("up", "down"):
        raise ValueError(f"'thumbs' must say up or down, got {answer!r}")
    return str(answer).lower() == "up"


def whole(value: Any, column: str) -> int:
    """Return a whole number, also one that a table made a float or a text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not number.is_integer():
        raise ValueError(f"{column!r} must be a whole number, got {value!r}")
    return int(number)


def moment(value: Any, column: str) -> datetime:
    """Return a date and time with its time zone, which is UTC if none is given."""
    try:
        found = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(
            f"{column!r} must be a date and time such as 2026-01-31T12:00:00+00:00, got {str(value)[:40]!r}"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def as_json(value: Any) -> str:
    """Return a value as JSON for a cell."""
    return json.dumps(value, ensure_ascii=False)
