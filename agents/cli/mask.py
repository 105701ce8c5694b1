"""Run the command `rlhf mask`: replace private data in a text or in the columns of rows."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from rlhf_envs import privacy
from rlhf_envs.files import replacing
from rlhf_envs.names import did_you_mean

from ..training.fields import option
from .options import Flags, argument, fail

if TYPE_CHECKING:
    from rlhf_envs.privacy import Masker

__all__ = ["MaskConfig", "mask"]


class MaskConfig(Flags):
    """Hold the flags of `rlhf mask`."""

    source: str = argument("File to read, or - for standard input. Of a .jsonl the rows are read, else the text.")
    output: str = option("-", "File to write; - is standard output.", "-o", "--output")
    column: list[str] = option([], "Column of a .jsonl to mask; repeat the flag. All texts in the rows by default.")
    kind: list[str] = option([], f"What to mask, of {', '.join(privacy.KINDS)}; repeat the flag. All by default.")
    region: list[str] = option([], "Country whose national phone numbers are known, as US; repeat the flag.")
    pseudonyms: bool = option(
        False, "Count what is alike: [EMAIL_1] is one address throughout a text or a row's field."
    )


def mask(config: MaskConfig) -> None:
    """Replace private data by placeholders such as [EMAIL], as the text comes. What was replaced is counted at the end.

    Names are found only after words that announce them: "my name is", "Dr.".
    """
    settings = {"kinds": config.kind, "region": config.region}
    masker = privacy.Masker(**{name: value for name, value in settings.items() if value}, pseudonyms=config.pseudonyms)
    is_rows = config.source.endswith(".jsonl")
    if config.column and not is_rows:
        fail(f"--column {config.column[0]}: {config.source} has no columns: give a .jsonl")
    both = "-" not in (config.source, config.output) and Path(config.output).exists()
    if both and Path(config.output).samefile(config.source):
        fail(f"--output {config.output}: it is the file that is read: give another one")
    counts: Counter[str] = Counter()
    names: Counter[str] = Counter()
    with _opened(config.source) as read, _written(config.output) as write:
        try:
            for part in _rows(masker, read, config, counts, names) if is_rows else _text(masker, read, counts):
                write.write(part)
                write.flush()
        except UnicodeDecodeError as error:
            fail(f"{config.source} is not UTF-8 ({error.reason}, 0x{error.object[error.start]:02x}): save it as UTF-8")
    told = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "nothing"
    typer.echo(f"masked: {told}", err=True)
    if names:
        told = ", ".join(f"{n} {kind}" for kind, n in sorted(names.items()))
        typer.echo(f"NOT masked, in names of columns and fields, which stay as they are: {told}", err=True)


def _text(masker: Masker, lines: Iterable[str], counts: Counter[str]) -> Iterator[str]:
    stream = masker.stream()
    yield from map(stream.feed, lines)
    yield stream.close()
    counts.update(stream.counts)


def _rows(
    masker: Masker, lines: Iterable[str], config: MaskConfig, counts: Counter[str], names: Counter[str]
) -> Iterator[str]:
    """Yield the rows, masked. What is found in names goes into `names`: two that are masked would be one."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            fail(f"{config.source}:{number}: no JSON: {error}")
        if not isinstance(row, dict):
            fail(f"{config.source}:{number}: a row must be an object, got {line[:60]!r}")
        if missing := [name for name in config.column if name not in row]:
            hint = did_you_mean(missing[0], row)
            there = f"(there are: {', '.join(row)})" + (f"; {hint}" if hint else "")
            fail(f"{config.source}:{number}: there is no column {missing[0]!r} {there}")
        chosen = {name: row[name] for name in config.column or row}
        masked = _field(masker, chosen, counts)
        names.update(found.kind for name in _names(chosen) for found in masker.find(name))
        yield json.dumps({**row, **masked}, ensure_ascii=False) + "\n"


def _field(masker: Masker, value: Any, counts: Counter[str]) -> Any:
    if isinstance(value, str):
        return "".join(_text(masker, [value], counts))
    if isinstance(value, dict):
        return {key: _field(masker, inner, counts) for key, inner in value.items()}
    return [_field(masker, inner, counts) for inner in value] if isinstance(value, list) else value


def _names(value: Any) -> Iterator[str]:
    """Yield the names of all fields in a value of JSON."""
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(inner)


def _opened(path: str) -> contextlib.AbstractContextManager[IO[str]]:
    return contextlib.nullcontext(sys.stdin) if path == "-" else _open(path, "r")


@contextlib.contextmanager
def _written(path: str) -> Iterator[IO[str]]:
    """Yield what takes the text: standard output, or a file that takes its place once all has been masked."""
    place = Path(path).resolve() if Path(path).is_symlink() else Path(path)
    if path == "-":
        yield sys.stdout
    elif place.exists() and not place.is_file():  # such as /dev/stderr or a named pipe: nothing can take their places
        with _open(path, "w") as to:
            yield to
    else:
        with replacing(place) as to:
            if place.exists():
                shutil.copymode(place, to.name)
            yield to


def _open(path: str, mode: str) -> IO[str]:
    return open(path, mode, encoding="utf-8", newline="")  # line ends stay as they are
