"""Read and write values as tables and the exports of Argilla and Label Studio hold them."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["Answer", "as_json", "kind_of", "moment", "number", "objects", "parse_list", "truth", "whole"]

Answer = tuple[str, dict[str, Any] | None, dict[str, Any]]  # annotator, value, further fields of a `PastJudgement`

TRUE = {"true", "t", "yes", "y", "1", "up", "good", "positive", "like", "desirable", "👍"}
FALSE = {"false", "f", "no", "n", "0", "down", "bad", "negative", "dislike", "undesirable", "👎"}


def kind_of(row: Mapping[str, Any], columns: Mapping[str, str], n_completions: int) -> str:
    """Return the kind of feedback: from the column "kind", the one column with an answer, or the number of completions.

    Args:
        row: a row of the table.
        columns: maps a column to the kind whose answers it holds.
        n_completions: the number of completions in the row.

    Raises:
        ValueError: the kind cannot be told, or is none of those in `columns`.
    """
    if row.get("kind"):
        kind = str(row["kind"])
        if kind not in columns.values():
            raise ValueError(f"kind {kind!r} has no form in this format: these have one: {', '.join(columns.values())}")
        return kind
    kinds = [kind for column, kind in columns.items() if row.get(column)]
    if not kinds:
        kinds = [kind for column, kind in columns.items() if column in row]
    if len(kinds) == 1:
        return kinds[0]
    if not kinds and n_completions > 1:
        return "pairwise" if n_completions == 2 else "ranking"
    found = ", ".join(kinds) or "none"
    raise ValueError(f"cannot tell what was asked (columns for: {found}): add a column 'kind'")


def truth(value: Any, column: str) -> bool:
    """Return the truth of true or false, yes or no, up or down, 1 or 0, as a table may hold it ("True ", "1.0").

    Raises:
        ValueError: the value is none of these.
    """
    word = str(value).strip().lower().removeprefix("+").removesuffix(".0")
    if word not in TRUE | FALSE:
        raise ValueError(f"{column!r} must say true or false (or yes, no, up, down, 1, 0), got {str(value)[:40]!r}")
    return word in TRUE


def number(value: Any, column: str) -> float:
    """Return a finite number, also one that is text.

    Raises:
        ValueError: the value is none.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{column!r} must be a number, got {str(value)[:40]!r}")
    return found


def whole(value: Any, column: str) -> int:
    """Return a whole number, also one that a table made a float or a text.

    Raises:
        ValueError: the value is none.
    """
    found = number(value, column)
    if not found.is_integer():
        raise ValueError(f"{column!r} must be a whole number, got {value!r}")
    return int(found)


def moment(value: Any, column: str) -> datetime:
    """Return a date and time with its time zone, which is UTC if none is given."""
    try:
        found = datetime.fromisoformat(str(value).strip().replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(
            f"{column!r} must be a date and time such as 2026-01-31T12:00:00+00:00, got {str(value)[:40]!r}"
        ) from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    try:
        found.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{column!r} is out of range in UTC: {str(value)[:40]!r}") from None
    return found


def objects(value: Any, column: str) -> list[dict[str, Any]]:
    """Return a list of objects; an empty one for None.

    Raises:
        ValueError: the value is none.
    """
    found = [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise ValueError(f"{column!r} must be a list of objects, got {str(value)[:60]!r}")
    return found


def as_json(value: Any) -> str:
    """Return a value as JSON for a cell."""
    return json.dumps(value, ensure_ascii=False)


def parse_list(cell: Any, column: str) -> list[Any]:
    """Return a list, also from text: JSON, Python, or numpy (without commas), which pandas and `datasets` write.

    Raises:
        ValueError: the cell holds no such list.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return []
    value = cell
    if isinstance(cell, str):
        try:
            value = json.loads(cell, parse_constant=lambda _: None)  # NaN and infinities
        except (ValueError, RecursionError):
            value = _parse_python(cell, column)
    if not isinstance(value, list):
        raise ValueError(f"{column!r} must hold a list, got {str(cell)[:60]!r}")
    return value


_TOKEN = re.compile(
    r"""(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d*)?(?:e[-+]?\d+)?)"""
    r"""|(?P<word>None|null|nan|NaN|True|False|true|false)|(?P<open>[\[{])|(?P<close>[\]}])|(?P<mark>[,:])"""
    r"""|(?P<skip>\s+|array\(|list\(|dtype=\w+|\))""",
    re.DOTALL,
)
_WORDS = {"null": "None", "nan": "None", "NaN": "None", "true": "True", "false": "False"}


def _parse_python(cell: str, column: str) -> Any:
    """Read Python's or numpy's form as a literal, after commas are put between values, which Python would join."""
    parts: list[str] = []
    position, after_value = 0, False
    while position < len(cell):
        token = _TOKEN.match(cell, position)
        if token is None:
            raise ValueError(f"{column!r} is no list at character {position}: {cell[position : position + 40]!r}")
        position = token.end()
        if token.lastgroup == "skip":
            continue
        if after_value and token.lastgroup in ("value", "word", "open"):
            parts.append(",")
        if not (token[0] == "," and not after_value):  # array(..., dtype=...) leaves a comma behind
            parts.append(_WORDS.get(token[0], token[0]))
        after_value = token.lastgroup in ("value", "word", "close")
    try:
        return ast.literal_eval("".join(parts))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"{column!r} is no list: {cell[:60]!r}") from None
