"""Rows out of files (JSON lines, CSV, JSON), checked one by one; errors name the file, the line and the fix."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["BUNDLED", "load_rows"]

_DATA = Path(__file__).parent / "data"
BUNDLED = {"sentiment": _DATA / "sentiment.jsonl.gz", "rated_snippets": _DATA / "rated_snippets.jsonl.gz"}

Row = dict[str, object]


def load_rows(path_or_name: str | Path, split: str | None = None, required: Sequence[str] = ("prompt",)) -> list[Row]:
    """Load the rows of a bundled sample or of a file.

    Args:
        path_or_name: a name of `BUNDLED`, or a path ending in .jsonl, .csv or .json (a list of objects), each also
            with .gz behind.
        split: return only the rows whose column "split" holds this value. Rows without such a column belong to every
            split; a file has the column in all of its rows or in none.
        required: columns that every row must have; where the value is text it must not be blank.

    Returns:
        The rows in the file's order. The values of a CSV are strings.

    Raises:
        FileNotFoundError: there is no such file or sample.
        ValueError: the extension is unknown, a row is malformed, blank or lacks a required column, there are no rows,
            or none is of the split; the message has the file, the line (the item, in a .json) and what to do.
    """
    path = _locate(path_or_name)
    rows: list[Row] = []
    for where, row in _reader(path)(path):
        for column in required:
            if column not in row:
                raise ValueError(
                    f"{where}: no column {column!r} (it has: {', '.join(map(str, row)) or 'none'}): add it"
                )
            value = row[column]
            if value is None or (isinstance(value, str) and not value.strip()):
                raise ValueError(f"{where}: {column!r} is empty: fill it or remove the row")
            if column == "prompt" and not isinstance(value, str):
                raise ValueError(f"{where}: 'prompt' is {type(value).__name__}, not a string: write it as text")
        if ("split" in row) != ("split" in (rows or [row])[0]):
            raise ValueError(f"{where}: some rows have a column 'split' and some have none: give it to all or to none")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: there are no rows: put one object a line (jsonl), or a header and rows (csv)")
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


def _reader(path: Path) -> Callable[[Path], Iterator[tuple[str, Row]]]:
    extension = Path(path.name.removesuffix(".gz")).suffix.lower()
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".json": _read_json}
    if extension not in readers:
        raise ValueError(
            f"{path}: unknown extension {extension!r}: save it as {', '.join(readers)} (or with .gz behind)"
        )
    return readers[extension]


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.name.endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not readable ({error}): check that the file is whole") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8: save the file as UTF-8"
        ) from error


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON, {error.msg} (column {error.colno}): {text[:60]!r}") from error


def _as_row(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f'{where}: {type(value).__name__} where an object is expected, such as {{"prompt": "..."}}')
    return value


def _read_jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    # Split at newlines only: str.splitlines would also cut inside strings, at U+2028 and the like.
    lines = _read_text(path).removesuffix("\n").split("\n")
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        where = f"{path}:{number}"
        if not line.strip():
            raise ValueError(f"{where}: the line is blank: remove it")
        yield where, _as_row(_parse(line, where), where)


def _read_json(path: Path) -> Iterator[tuple[str, Row]]:
    text = _read_text(path)
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON, {error.msg} (column {error.colno})") from error
    if not isinstance(items, list):
        raise ValueError(f"{path}:1: {type(items).__name__} where a list of objects is expected")
    for number, item in enumerate(items, start=1):
        where = f"{path}, item {number}"
        yield where, _as_row(item, where)


def _read_csv(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1  # a row that spans lines is named by its first
        where = f"{path}:{line}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{where}: not CSV, {error}: quote the cell and double the quotes in it") from error
        if not any(cell.strip() for cell in cells):
            raise ValueError(f"{where}: the line is blank: remove it")
        if header is None:
            header = cells
            if len(set(header)) < len(header):
                raise ValueError(f"{where}: a column name is there twice: {', '.join(header)}")
        elif len(cells) != len(header):
            raise ValueError(
                f"{where}: {len(cells)} cells where the header has {len(header)}: quote cells that hold a comma"
            )
        else:
            yield where, dict(zip(header, cells, strict=True))
