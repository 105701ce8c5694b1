"""Read the rows of JSON lines, CSV, JSON and parquet files. Bad rows are reported with their places and the reasons.

`load_rows` stops at the first bad row, which is right for data that somebody has prepared. The import of feedback goes
on and sets bad rows aside, since exports of other programs have thousands of rows and a few broken ones.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .messages import list_in_cell

__all__ = ["BadRow", "Row", "read_jsonl", "read_rows"]

Row = dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """Hold a row that was not taken.

    Attributes:
        where: "file:line", or "file, item 3" in a .json. A row that spans lines is named by its first line.
        reason: what is wrong and what to do.
        row: the row, or its text if it could not be parsed.
    """

    where: str
    reason: str
    row: Any


Read = Iterator[tuple[str, Row] | BadRow]


def read_rows(path: Path) -> Read:
    """Read the objects of a .jsonl, .csv, .json (a list) or .parquet file, which may be compressed (.gz at the end).

    Yields:
        ("file:line", row), or a `BadRow` where a row cannot be read. The values of a CSV are strings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the extension is unknown, or the file as a whole cannot be read.
        ModuleNotFoundError: a .parquet needs the package pyarrow.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    extension = Path(path.name.removesuffix(".gz")).suffix.lower()
    readers = {".jsonl": read_jsonl, ".csv": _read_csv, ".json": _read_json, ".parquet": _read_parquet}
    if extension not in readers:
        raise ValueError(f"{path}: unknown extension {extension!r}: save it as {', '.join(readers)} (or .gz of these)")
    try:
        data = path.read_bytes()
        if path.name.endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not readable ({error}): check that the file is whole") from error
    return readers[extension](path, data)


def read_jsonl(path: str | Path, data: bytes) -> Read:
    """Read the objects of JSON lines. `path` is their place in messages.

    Raises:
        ValueError: the text is UTF-16 or UTF-32.
    """
    _check_encoding(path, data)
    # Split at newlines only: str.splitlines would also cut inside strings, at U+2028 and the like.
    lines = data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines if lines != [b""] else [], start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield BadRow(where, _not_utf8(line, error), line.decode("utf-8", "replace"))
            continue
        try:
            yield _checked(where, json.loads(text))
        except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
            reason = f"{_not_json(error)}: {text[:60]!r}" if text.strip() else "the line is blank: remove it"
            yield BadRow(where, reason, text)


def _read_json(path: Path, data: bytes) -> Read:
    text = _decode(path, data)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = "; if it has one object per line, name it .jsonl" if "Extra data" in str(error) else ""
        raise ValueError(f"{path}:{getattr(error, 'lineno', 1)}: {_not_json(error)}{lines}") from error
    if not isinstance(items, list):
        raise ValueError(f"{path}:1: {type(items).__name__} where a list of objects is expected")
    for number, item in enumerate(items, start=1):
        yield _checked(f"{path}, item {number}", item)


def _read_csv(path: Path, data: bytes) -> Read:
    text = _decode(path, data)
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = re.split("\r\n|\r|\n", text)  # as the reader counts them
    header: list[str] | None = None
    while True:
        first = reader.line_num
        where = f"{path}:{first + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on at the next line
            reason = f"not CSV, {error}: quote the cell and double the quotes in it"
            if header is None:
                raise ValueError(f"{where}: {reason}") from error
            yield BadRow(where, reason, "\n".join(lines[first : reader.line_num]))
            continue
        if not any(cell.strip() for cell in cells):
            yield BadRow(where, "the line is blank: remove it", "")
        elif header is None:
            header = cells
            if len(set(header)) < len(header):
                raise ValueError(f"{where}: a column name is there twice: {', '.join(header)}")
        elif len(cells) != len(header):
            reason = f"{len(cells)} cells where the header has {len(header)}: quote cells that hold a comma"
            yield BadRow(where, reason, cells)
        else:
            row = dict(zip(header, cells, strict=True))
            if (column := list_in_cell(row)) is not None:
                yield BadRow(where, f"{column!r} is a list of messages, which a CSV cannot hold: save as .jsonl", row)
            else:
                yield where, row


def _read_parquet(path: Path, data: bytes) -> Read:
    try:
        from pyarrow import ArrowInvalid, parquet  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: a .parquet needs pyarrow: pip install 'rlhf-envs[train]'") from error
    try:
        table = parquet.read_table(io.BytesIO(data))
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not parquet ({error}): check that the file is whole") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield _checked(f"{path}, row {number}", row)


def _checked(where: str, value: Any) -> tuple[str, Row] | BadRow:
    if isinstance(value, dict):
        return where, value
    return BadRow(where, f'{type(value).__name__} where an object is expected, such as {{"prompt": "..."}}', value)


def _check_encoding(path: str | Path, data: bytes) -> None:
    """Raise ValueError if a file is UTF-16 or UTF-32, with its mark or without: its first letter has zero bytes."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in data[:2]:
        name = "UTF-32" if b"\0\0" in data[:4] else "UTF-16"
        raise ValueError(f"{path}:1: the file is {name}: save it as UTF-8")


def _decode(path: Path, data: bytes) -> str:
    _check_encoding(path, data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: {_not_utf8(data, error)}") from error


def _not_utf8(data: bytes, error: UnicodeDecodeError) -> str:
    return f"byte {data[error.start]:#04x} is not UTF-8: save the file as UTF-8"


def _not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON, {error.msg} (column {error.colno})"
    what = "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
    return f"not JSON that can be read: {what}"
