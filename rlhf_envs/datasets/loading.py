"""Load rows from files, bundled samples, lists and `datasets.Dataset`s, and check them.

Errors name the file, the line and the fix.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_envs.names import did_you_mean, nearest

from .implicit import repeats
from .messages import as_messages, check_text
from .reading import BadRow, Row, read_rows
from .rows import CONVERSATIONS, PARTS, PROMPTS, SYSTEMS, WHOLES, read_prompt
from .splits import log_once, take_split

__all__ = ["BUNDLED", "Data", "check_new_names", "load_rows", "without_repeated_prompts"]

_DATA = Path(__file__).parent / "data"
BUNDLED = {path.name.removesuffix(".jsonl.gz"): path for path in sorted(_DATA.glob("*.jsonl.gz"))}
TEXTS = ("prompt", "completion", "reference", "chosen", "rejected", "messages")  # what models read
MAX_LENGTH = 1_000_000  # characters: more than any model reads, and minutes of tokenization

Data = str | Path | Iterable[Mapping[str, Any]]  # a file, a bundled sample, rows, or a `datasets.Dataset`

_PART = r"""(?:'[^']*'|"[^"]*"|-?[\d.]+)"""
PRINTED_LIST = re.compile(rf"\[{_PART}(?:\s+{_PART})+\]")  # such as ['x y' 'z'] or [1 2]

logger = logging.getLogger(__name__)


def load_rows(
    source: Data,
    split: str | None = None,
    required: Sequence[str] = ("prompt",),
    columns: Mapping[str, str] | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.1,
) -> list[Row]:
    """Load the rows of a bundled sample, of a file, or given as objects.

    Args:
        source: a name of `BUNDLED`; a file that `rlhf_envs.datasets.reading.read_rows` reads; rows; a
            `datasets.Dataset`; or a `DatasetDict`, whose names are splits.
        split: return only the rows of this split, see `rlhf_envs.datasets.splits.take_split`.
        required: columns that every row must have. Text in them must not be blank.
        columns: new names of columns, `{"prompt": "question"}` to take the column `question` as the prompt.
        validation_share: the share of the prompts that is for validation, if there is no column `split`.
        test_share: the share of the prompts that is for tests, if there is no column `split`.

    Returns:
        The rows in the file's order. The values of a table are strings.

    Raises:
        FileNotFoundError: there is no such file or sample.
        ValueError: the extension is unknown, a row is malformed or blank or lacks a required column, there are no
            rows, or none belongs to the split. The message names the file, the line (the item, in a .json) and the
            fix.
    """
    if isinstance(source, str) and source in BUNDLED:
        state = BUNDLED[source].stat()
        given = split, tuple(required), tuple((columns or {}).items()), validation_share, test_share
        return _copied(_load_bundled(source, (BUNDLED[source], state.st_mtime_ns, state.st_size), *given))
    return _load(source, split, required, columns or {}, validation_share, test_share)


@lru_cache(maxsize=16)  # every environment of a run reads the same sample, and so does every evaluation
def _load_bundled(
    name: str,
    version: tuple[Path, int, int],
    split: str | None,
    required: tuple[str, ...],
    columns: tuple[tuple[str, str], ...],
    *shares: float,
) -> list[Row]:
    """Return the rows of a bundled sample, which its callers only copy. `version` tells files of one name apart."""
    return _load(name, split, required, dict(columns), *shares)


def _copied(value: Any) -> Any:
    """Return a copy of what JSON can hold."""
    if isinstance(value, dict):
        return {name: _copied(part) if isinstance(part, dict | list) else part for name, part in value.items()}
    return [_copied(part) if isinstance(part, dict | list) else part for part in value]


def _load(
    source: Data,
    split: str | None,
    required: Sequence[str],
    columns: Mapping[str, str],
    validation_share: float,
    test_share: float,
) -> list[Row]:
    name = str(source) if isinstance(source, str | Path) else "the data"
    rows: list[Row] = []
    for where, found in _read(source):
        row = _rename(where, found, columns)
        if "prompt" in required:
            row = _with_prompt(name, where, row)
        _check(where, row, required)
        if ("split" in row) != ("split" in (rows or [row])[0]):
            raise ValueError(f"{where}: some rows have a column 'split' and some have none: give it to all or to none")
        rows.append(row)
    if not rows:
        raise ValueError(
            f"{name}: there are no rows: put one object per line (jsonl), a header and rows (csv), or one prompt per "
            "line (txt)"
        )
    rows = without_repeated_prompts(rows, name)
    if split is None:
        return rows
    return take_split(rows, split, name, validation_share, test_share, column=(*required, "prompt")[0])


def without_repeated_prompts(rows: list[Row], name: str) -> list[Row]:
    """Return rows whose completions all begin with their prompts, being whole texts, without that beginning.

    A few completions may quote their prompts; then the rows stay as they are, and so does a row by itself.
    """
    texts = [(row.get("prompt"), row.get("completion")) for row in rows]
    if len(rows) < 2 or not all(isinstance(p, str) and isinstance(c, str) and repeats(p, c) for p, c in texts):
        return rows
    log_once(logging.WARNING, f"{name}: all {len(rows)} completions repeat their prompts, which are taken off them")
    return [{**row, "completion": row["completion"][len(row["prompt"]) :]} for row in rows]


def _read(source: Data) -> Iterator[tuple[str, Row]]:
    """Yield the rows with their places, such as "file:line"."""
    if isinstance(source, str | Path):
        path, said = _locate(source), set[str]()
        for found in read_rows(path):
            if isinstance(found, BadRow):
                raise ValueError(f"{found.where}: {found.reason}")
            if {".csv", ".tsv"} & set(path.suffixes):
                _warn_about_lists(*found, said)
            yield found
    elif isinstance(source, Mapping):  # a DatasetDict
        for split, part in source.items():
            yield from ((f"{split}, {where}", {**row, "split": split}) for where, row in _read(part))
    elif not isinstance(source, Iterable):
        raise ValueError(f"data={source!r}: expected a file, rows, or a datasets.Dataset")
    else:
        _warn_about_timestamps(source)
        for number, row in enumerate(source):
            if not isinstance(row, Mapping):
                raise ValueError(f"row {number} of the data is {row!r}, not an object such as {{'prompt': '...'}}")
            yield f"row {number} of the data", dict(row)


def _warn_about_lists(where: str, row: Row, said: set[str]) -> None:
    """Say once per column which cells are lists that NumPy has printed: `to_csv` loses where their parts end."""
    for name, value in row.items():
        if isinstance(value, str) and name not in said and PRINTED_LIST.fullmatch(value):
            said.add(name)
            logger.warning(
                "%s: %r is the text %s, as `to_csv` of a Dataset writes a list: rewards get this text; save the "
                "data as .jsonl or .parquet to keep lists",
                where,
                name,
                value[:40],
            )


def _warn_about_timestamps(source: Any) -> None:
    """Say which columns of a `datasets.Dataset` hold timestamps: it makes them of texts that look like dates."""
    features = getattr(source, "features", None) or {}
    dates = [name for name, feature in features.items() if str(getattr(feature, "dtype", "")).startswith("timestamp")]
    if dates:
        logger.warning(
            "the Dataset has timestamps in %s: `datasets` reads texts that look like dates so, and the reward gets "
            "datetime objects; give the file itself as data to keep the texts",
            ", ".join(dates),
        )


def _locate(path_or_name: str | Path) -> Path:
    if path_or_name in BUNDLED:
        return BUNDLED[str(path_or_name)]
    path = Path(path_or_name)
    if not path.is_file():
        hint = did_you_mean(path.name, [*BUNDLED, *(file.name for file in path.parent.glob("*"))])
        there = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise FileNotFoundError(
            f"{str(path)!r} is neither a file{there} nor a bundled sample ({', '.join(sorted(BUNDLED))})"
            + (f"; {hint}" if hint else "")
        )
    return path


def check_new_names(columns: Mapping[str, str], read: Iterable[str], reader: str) -> None:
    """Check that every new name of a column is one that is read.

    A name that is not may be given to a column whose own name another one gets, or that seems to hold a part of the
    prompt.

    Raises:
        ValueError: nothing reads the new name. The message has it, and the nearest name that is read.
    """
    for new, old in columns.items():
        if new not in (names := {*read}) and old not in (*columns, *PARTS, *WHOLES):
            raise ValueError(
                f"columns={{{new!r}: {old!r}}}: {reader} reads no column {new!r}; {nearest(new, names)} (the name that "
                "is read comes first)"
            )


def _rename(where: str, row: Row, columns: Mapping[str, str]) -> Row:
    """Return the row with its columns renamed."""
    if missing := [old for old in columns.values() if old not in row]:
        hint = did_you_mean(missing[0], map(str, row))
        raise ValueError(
            f"{where}: no column {missing[0]!r} to rename (it has: {', '.join(map(str, row)) or 'none'})"
            + (f"; {hint}" if hint else "")
        )
    names = {old: new for new, old in columns.items()}
    renamed = {names.get(name, name): value for name, value in row.items()}
    if len(renamed) < len(row):
        taken = sorted(columns.keys() & row.keys())[0]
        raise ValueError(
            f"{where}: {columns[taken]!r} cannot be renamed to {taken!r}, which is a column too: rename that one as "
            f"well, such as columns={{'other_{taken}': {taken!r}}}"
        )
    return renamed


def _with_prompt(name: str, where: str, row: Row) -> Row:
    """Return the row with its prompt where other columns have it or a part of it: `question`, `system`, ...

    Reward models and `rlhf sft` read such rows by `read_prompt` too, so that all read the same text.
    """
    given, columns = row.get("prompt"), [column for column in (*SYSTEMS, *PROMPTS) if column in row]
    blank = isinstance(given, str) and not given.strip()
    if blank or (given is not None and not set(SYSTEMS) & row.keys()):
        return row
    if given is None and columns in [[name] for name in CONVERSATIONS]:
        return {**row, "prompt": row[columns[0]]}
    if not columns or set(CONVERSATIONS) & row.keys():
        return row
    try:
        prompt = read_prompt(row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if prompt is None:
        return row
    log_once(logging.INFO, f"{name}: prompts are messages of the columns {', '.join(columns)}")
    return {**row, "prompt": prompt}


def _check(where: str, row: Row, required: Sequence[str]) -> None:
    for column in dict.fromkeys([*required, *(["split"] if "split" in row else [])]):
        if column not in row:
            raise ValueError(
                f"{where}: no column {column!r} (it has: {', '.join(map(str, row)) or 'none'}): add it, or rename one "
                f"with columns={{{column!r}: 'NAME'}}"
            )
        value = row[column]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ValueError(f"{where}: {column!r} is empty: fill it or remove the row")
        if column == "prompt":
            try:
                messages = as_messages(value, column)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            for message in messages:
                check_text(message["content"], f"{where}: 'prompt'")
    for column in (name for name in TEXTS if name in row):
        n = len(row[column] if isinstance(row[column], str) else str(row[column]))
        if n > MAX_LENGTH:
            raise ValueError(
                f"{where}: {column!r} has {n:,} characters, more than {MAX_LENGTH:,}: cut it, or put one row per line"
            )
