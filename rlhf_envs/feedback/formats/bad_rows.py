"""Reading files whose rows may be bad: what cannot be used is set aside, with its place and the reason.

`rlhf_envs.datasets.load_rows` stops at the first bad row, which is right for data that somebody has prepared. Exports
of other programs have thousands of rows of which a few are broken.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BadRow", "read_rows", "write_atomically", "write_quarantine"]

Row = dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that was not taken.

    Attributes:
        where: "file:line", of a row that spans lines the first; "file, item 3" in a .json.
        reason: what is wrong and what to do.
        row: the row, or its text where it could not be parsed.
    """

    where: str
    reason: str
    row: Any


def read_rows(path: str | Path) -> Iterator[tuple[str, Row] | BadRow]:
    """Read the objects of a .jsonl, .csv or .json (a list) file, each also with .gz behind.

    Yields:
        ("file:line", row), or a `BadRow` where a line cannot be parsed. The values of a CSV are strings.

    Raises:
        ValueError: the extension is unknown, or the file as a whole cannot be read.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    extension = Path(path.name.removesuffix(".gz")).suffix.lower()
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".json": _read_json}
    if extension not in readers:
        raise ValueError(
            f"{path}: unknown extension {extension!r}: save it as {', '.join(readers)} (or with .gz behind)"
        )
    return readers[extension](path, _read_bytes(path))


def write_quarantine(path: str | Path, bad: Sequence[BadRow]) -> None:
    """Write bad rows as JSON lines `{"where", "reason", "row"}`, whole or not at all."""
    lines = (json.dumps({"where": row.where, "reason": row.reason, "row": row.row}, default=str) for row in bad)
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file that is there whole or as it was; a name that ends in .gz is compressed.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.name.endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not readable ({error}): check that the file is whole") from error


def _read_jsonl(path: Path, data: bytes) -> Iterator[tuple[str, Row] | BadRow]:
    lines = data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines if lines != [b""] else [], start=1):
        where = f"{path}:{number}"
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            reason = f"byte {line[error.start]:#04x} is not UTF-8: save the file as UTF-8"
            yield BadRow(where, reason, line.decode("utf-8", "replace"))
        except (json.JSONDecodeError, RecursionError) as error:
            reason = "the line is blank" if not line.strip() else f"not JSON ({error})"
            yield BadRow(where, reason, line.decode("utf-8"))
        else:
            yield _checked(where, value)


def _read_json(path: Path, data: bytes) -> Iterator[tuple[str, Row] | BadRow]:
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, list):
        raise ValueError(f"{path}: {type(values).__name__} where a list of objects is expected")
    for number, value in enumerate(values, start=1):
        yield _checked(f"{path}, item {number}", value)


def _checked(where: str, value: Any) -> tuple[str, Row] | BadRow:
    if isinstance(value, dict):
        return where, value
    return BadRow(where, f'{type(value).__name__} where an object is expected, such as {{"prompt": "..."}}', value)


def _read_csv(path: Path, data: bytes) -> Iterator[tuple[str, Row] | BadRow]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8: save it as UTF-8") from error
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = re.split("\r\n|\r|\n", text)  # as the reader counts them
    header: list[str] | None = None
    while True:
        first = reader.line_num  # a row that spans lines is named by its first
        where = f"{path}:{first + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on at the next line
            if header is None:
                raise ValueError(f"{where}: the header is not CSV ({error})") from error
            reason = f"not CSV ({error}): double the quotes within a quoted cell"
            yield BadRow(where, reason, "\n".join(lines[first : reader.line_num]))
            continue
        if header is None:
            header = cells
            if len(set(header)) < len(header):
                raise ValueError(f"{where}: a column name is there twice: {', '.join(header)}")
        elif not any(cell.strip() for cell in cells):
            yield BadRow(where, "the line is blank", "")
        elif len(cells) != len(header):
            reason = f"{len(cells)} cells where the header has {len(header)}: quote cells that hold a comma"
            yield BadRow(where, reason, cells)
        else:
            yield where, dict(zip(header, cells, strict=True))
