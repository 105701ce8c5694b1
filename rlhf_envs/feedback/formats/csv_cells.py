"""What the CSV tables of Argilla and Label Studio have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["Answer", "as_json", "kind_of", "thumb", "whole"]

Answer = tuple[str, dict[str, Any] | None, dict[str, Any]]  # annotator, value, further fields of a `PastJudgement`


def kind_of(row: Mapping[str, str], columns: Mapping[str, str], n_completions: int) -> str:
    """What was asked: the column "kind" says, or the one column that holds an answer, or the number of completions.

    Args:
        row: of the table.
        columns: column to the kind whose answers it holds.
        n_completions: in the row.

    Raises:
        ValueError: none of these tells.
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
    """True for up, False for down."""
    if str(answer).lower() not in ("up", "down"):
        raise ValueError(f"'thumbs' must say up or down, got {answer!r}")
    return str(answer).lower() == "up"


def whole(value: Any, column: str) -> int:
    """A whole number, also one that a table made a float or a text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not number.is_integer():
        raise ValueError(f"{column!r} must be a whole number, got {value!r}")
    return int(number)


def as_json(value: Any) -> str:
    """A value for a cell."""
    return json.dumps(value, ensure_ascii=False)
