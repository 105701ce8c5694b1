"""Read the rows of files: JSON, tables and texts. Bad rows are reported with their places and the reasons.

`load_rows` stops at the first bad row, which is right for data that somebody has prepared. The import of feedback goes
on and sets bad rows aside, since exports of other programs have thousands of rows and a few broken ones.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import logging
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from .rows import list_in_cell
from .splits import log_once

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
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of a byte that is not UTF-8
_MARKS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
MAX_LINE = 16 * 2**20  # bytes of a line of JSON, characters of a row of CSV: more than any row of texts that is read


def read_rows(path: Path) -> Read:
    """Read the rows of a file: .jsonl, .csv, .tsv, .json, .parquet or .txt. It may be compressed (.gz).

    A .json holds a list of objects, or an object of columns (lists of one length).

    The cells of a .tsv are separated by tabs. Those of a .csv are separated by commas, unless its header has no comma
    outside of quotes and is made columns by ";" or tabs; the log says so. A line of a .txt is a prompt; blank lines are
    no rows.

    JSON lines, tables and texts are read a row at a time, in bounded memory: a row of over `MAX_LINE` bytes is bad.

    Yields:
        ("file:line", row), or a `BadRow` where a row cannot be read. The values of a table are strings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the extension is unknown, or the file as a whole cannot be read.
        ModuleNotFoundError: a .parquet needs the package pyarrow.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    extension = Path(path.name.removesuffix(".gz")).suffix.lower()
    readers: dict[str, Callable[[Path, Any], Read]] = {
        ".jsonl": read_jsonl,
        ".csv": _read_csv,
        ".tsv": _read_table,
        ".json": _read_json,
        ".parquet": _read_parquet,
        ".txt": _read_prompts,
    }
    if extension not in readers:
        raise ValueError(f"{path}: unknown extension {extension!r}: save it as {', '.join(readers)} (or .gz of these)")
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            yield from readers[extension](path, file)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not readable ({error}): check that the file is whole") from error


def read_jsonl(path: str | Path, file: IO[bytes]) -> Read:
    """Read the objects of JSON lines. `path` is their place in messages.

    Raises:
        ValueError: the text is UTF-16 or UTF-32.
    """
    for found in _read_lines(path, file):
        if isinstance(found, BadRow):
            yield found
            continue
        where, text = found
        try:
            yield _checked(where, json.loads(text))
        except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
            reason = f"{_not_json(error)}: {text[:60]!r}" if text.strip() else "the line is blank: remove it"
            yield BadRow(where, reason, text)


def _read_prompts(path: Path, file: IO[bytes]) -> Read:
    for found in _read_lines(path, file):
        if isinstance(found, BadRow):
            yield found
        elif found[1].strip():
            yield found[0], {"prompt": found[1].removesuffix("\r")}


def _read_lines(path: str | Path, file: IO[bytes]) -> Iterator[tuple[str, str] | BadRow]:
    """Yield the lines of a file with their places, or a `BadRow` for a line that is too long or not UTF-8."""
    # Newlines only end lines: str.splitlines would also cut inside strings, at U+2028 and the like.
    for number in itertools.count(1):
        line, where = file.readline(MAX_LINE + 1), f"{path}:{number}"
        if not line:
            return
        if number == 1:
            _check_encoding(path, line)
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_LINE:
            yield _too_long(where, line[:80].decode("utf-8", "replace"))
            while line and not line.endswith(b"\n"):
                line = file.readline(2**16)
            continue
        line = line.removesuffix(b"\n")
        try:
            yield where, line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield BadRow(where, _not_utf8(line[error.start]), line.decode("utf-8", "replace"))


def _too_long(where: str, beginning: str) -> BadRow:
    reason = (
        f"the row has more than {MAX_LINE:,} bytes, more than any model reads: put one row per line, close the quotes "
        "of a CSV, or cut the text"
    )
    return BadRow(where, reason, f"{beginning}… (too long to be written)")


def _read_json(path: Path, file: IO[bytes]) -> Read:
    text = _decode(path, file.read())
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = "; if it has one object per line, name it .jsonl" if "Extra data" in str(error) else ""
        raise ValueError(f"{path}:{getattr(error, 'lineno', 1)}: {_not_json(error)}{lines}") from error
    if isinstance(items, dict) and items and all(isinstance(column, list) for column in items.values()):
        items = _rows_of_columns(path, items)
    if not isinstance(items, list):
        raise ValueError(f"{path}:1: {type(items).__name__} where a list of objects is expected")
    for number, item in enumerate(items, start=1):
        yield _checked(f"{path}, item {number}", item)


def _rows_of_columns(path: Path, columns: dict[str, list[Any]]) -> list[Row]:
    """Return the rows of an object of columns, which `to_dict` of pandas ("list"), `datasets` and Argilla give."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len({*lengths.values()}) > 1:
        raise ValueError(f"{path}:1: an object of columns must have lists of one length, got {str(lengths)[:200]}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class _TooLong(Exception):
    """Signal that a row of a CSV is longer than `MAX_LINE`."""


class _Lines:
    """Give the lines of a CSV to its reader, and keep those of the row that is being read.

    Raises:
        _TooLong: the row is longer than `MAX_LINE`. The reader can go on at the next line.
        ValueError: a line is not UTF-8, or the file is UTF-16 or UTF-32.
    """

    def __init__(self, path: Path, text: IO[str]) -> None:
        self.path, self.number, self.row = path, 0, list[str]()
        self._text = text

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            _check_encoding(self.path, line[:4].encode("utf-8", "surrogateescape"))
        if bad := _ESCAPED_BYTE.search(line):
            raise ValueError(f"{self.path}:{self.number}: {_not_utf8(ord(bad[0]) - 0xDC00)}")
        self.row.append(line)
        if sum(map(len, self.row)) > MAX_LINE:
            while line and line[-1] not in "\r\n":
                line = self._text.readline(2**16)
            raise _TooLong
        return line


def _read_csv(path: Path, file: IO[bytes]) -> Read:
    separator = _separator(file.readline(MAX_LINE).decode("utf-8-sig", "replace").rstrip("\r\n"))
    file.seek(0)
    if separator != ",":
        log_once(logging.INFO, f"{path}: {_MARKS[separator]} separates the cells, as in the header")
    yield from _read_table(path, file, separator)


def _read_table(path: Path, file: IO[bytes], separator: str = "\t") -> Read:
    with io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _read_cells(path, _Lines(path, text), separator)


def _separator(header: str) -> str:
    """Return the mark that separates the cells of a CSV: the comma, unless only another one makes columns."""
    columns = dict.fromkeys(_MARKS, 0)
    for mark in columns:
        with suppress(csv.Error):
            columns[mark] = len(next(csv.reader([header], delimiter=mark, strict=True), []))
    return "," if columns[","] > 1 else max(columns, key=columns.__getitem__)


def _read_cells(path: Path, lines: _Lines, separator: str) -> Read:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    header: list[str] | None = None
    while True:
        lines.row.clear()
        where = f"{path}:{lines.number + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLong:
            if header is None:
                raise ValueError(f"{where}: {_too_long(where, '').reason}") from None
            yield _too_long(where, lines.row[0][:80])
            continue
        except csv.Error as error:  # the reader goes on at the next line
            reason = f"not CSV, {error}: quote the cell and double the quotes in it"
            if header is None:
                raise ValueError(f"{where}: {reason}") from error
            yield BadRow(where, reason, "".join(lines.row).rstrip("\r\n"))
            continue
        if not any(cell.strip() for cell in cells):
            yield BadRow(where, "the line is blank: remove it", "")
        elif header is None:
            header = cells
            if len(set(header)) < len(header):
                raise ValueError(f"{where}: a column name is there twice: {', '.join(header)}")
        elif len(cells) != len(header):
            reason = f"{len(cells)} cells where the header has {len(header)}: quote cells that hold {_MARKS[separator]}"
            yield BadRow(where, reason, cells)
        else:
            row = dict(zip(header, cells, strict=True))
            if (column := list_in_cell(row)) is not None:
                yield BadRow(where, f"{column!r} is a list of messages, which a CSV cannot hold: save as .jsonl", row)
            else:
                yield where, row


def _read_parquet(path: Path, file: IO[bytes]) -> Read:
    try:
        from pyarrow import ArrowInvalid, parquet  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: a .parquet needs pyarrow: pip install 'rlhf-envs[train]'") from error
    try:
        table = parquet.read_table(io.BytesIO(file.read()))
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
        raise ValueError(f"{path}:{line}: {_not_utf8(data[error.start])}") from error


def _not_utf8(byte: int) -> str:
    return f"byte {byte:#04x} is not UTF-8: save the file as UTF-8"


def _not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON, {error.msg} (column {error.colno})"
    what = "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
    return f"not JSON that can be read: {what}"
