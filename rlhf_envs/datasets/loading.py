"""Load rows from files and bundled samples, and check them. Errors name the file, the line and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .messages import as_messages
from .reading import BadRow, Row, read_rows

__all__ = ["BUNDLED", "load_rows"]

_DATA = Path(__file__).parent / "data"
BUNDLED = {"sentiment": _DATA / "sentiment.jsonl.gz", "rated_snippets": _DATA / "rated_snippets.jsonl.gz"}


def load_rows(path_or_name: str | Path, split: str | None = None, required: Sequence[str] = ("prompt",)) -> list[Row]:
    """Load the rows of a bundled sample or of a file.

    Args:
        path_or_name: a name of `BUNDLED`, or a path that ends in .jsonl, .csv or .json (a list of objects). Each may
            be compressed, with .gz at the end.
        split: return only the rows whose column "split" holds this value. Rows without such a column belong to every
            split. A file has the column in all of its rows or in none.
        required: columns that every row must have. Text in them must not be blank.

    Returns:
        The rows in the file's order. The values of a CSV are strings.

    Raises:
        FileNotFoundError: there is no such file or sample.
        ValueError: the extension is unknown, a row is malformed or blank or lacks a required column, there are no
            rows, or none belongs to the split. The message names the file, the line (the item, in a .json) and the
            fix.
    """
    path = _locate(path_or_name)
    rows: list[Row] = []
    for found in read_rows(path):
        if isinstance(found, BadRow):
            raise ValueError(f"{found.where}: {found.reason}")
        where, row = found
        _check(where, row, required)
        if ("split" in row) != ("split" in (rows or [row])[0]):
            raise ValueError(f"{where}: some rows have a column 'split' and some have none: give it to all or to none")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: there are no rows: put one object per line (jsonl), or a header and rows (csv)")
    if split is None or "split" not in rows[0]:
        return rows
    chosen = [row for row in rows if row["split"] == split]
    if not chosen:
        there = ", ".join(sorted({str(row["split"]) for row in rows}))
        raise ValueError(f"{path}: no row has split {split!r}; there are: {there}")
    return chosen


def _locate(path_or_name: str | Path) -> Path:
    if path_or_name in BUNDLED:
        return BUNDLED[str(path_or_name)]
    path = Path(path_or_name)
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} is neither a file nor a bundled sample ({', '.join(sorted(BUNDLED))})")
    return path


def _check(where: str, row: Row, required: Sequence[str]) -> None:
    for column in required:
        if column not in row:
            raise ValueError(f"{where}: no column {column!r} (it has: {', '.join(map(str, row)) or 'none'}): add it")
        value = row[column]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ValueError(f"{where}: {column!r} is empty: fill it or remove the row")
        if column == "prompt":
            try:
                as_messages(value, column)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
