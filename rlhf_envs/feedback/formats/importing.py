"""Import files of questions and judgements into a store. Bad rows go to a quarantine file, each with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...datasets.loading import without_repeated_prompts
from ...datasets.reading import BadRow, Row, read_rows
from ...files import replace_file
from ...names import did_you_mean
from ..masking import PrivateTexts
from .detecting import detect_formats
from .entries import Entry, Reading
from .file_settings import FileSettings
from .masking import mask_entry
from .merging import Merge
from .potato import SCHEMES, by_potato_id
from .reading import EXPECTED_ANSWERS, FORMATS, read_entries

if TYPE_CHECKING:
    from ..store.store import FeedbackStore

__all__ = ["FORMATS", "Import", "import_file"]

_ANSWERS = {  # what an answer looks like, for a message
    "pairwise": '"choice": 0 where the first completion is better',
    "ranking": '"order": [1, 0, 2], best first',
    "rating": '"rating": 4',
    "thumbs": '"up": true',
    "correction": '"text": "the better completion"',
    "flags": '"harms": ["hate"], or [] for none',
}


@dataclass(frozen=True)
class Import:
    """Report what an import did.

    Attributes:
        format: the format of the rows; of rows of several formats their names, joined by commas.
        rows: the number of rows in the file.
        items: the number of new items in the store.
        judgements: the number of new judgements in the store, skips among them.
        bad: the rows that were not taken, among them duplicates and contradictions.
        quarantine: the file that holds `bad`, or None if there are no such rows.
        settings: the names of the store's settings that the file has changed.
        kinds: the number of new items of each kind.
        finals: the number of new final answers in the store.
        suggestions: the number of new suggestions in the store.
        masked: how much private data was masked, by kind, where the store's settings ask for it.
    """

    format: str
    rows: int
    items: int
    judgements: int
    bad: tuple[BadRow, ...] = field(repr=False)
    quarantine: Path | None
    settings: tuple[str, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)
    finals: int = 0
    suggestions: int = 0
    masked: Mapping[str, int] = field(default_factory=dict)

    def in_audit(self, file: str) -> dict[str, Any]:
        """Return what the audit keeps of the import of a file of this name: the counts, and the settings it changed."""
        counts = {"items": self.items, "judgements": self.judgements}
        counts |= {"final answers": self.finals} if self.finals else {}
        counts |= {"suggestions": self.suggestions} if self.suggestions else {}
        settings = {"settings": list(self.settings)} if self.settings else {}
        masked = {"masked": dict(self.masked)} if self.masked else {}
        return {"file": file, **counts, "not taken": len(self.bad), **settings, **masked}


def import_file(
    store: FeedbackStore,
    path: str | Path,
    format: str = "auto",
    *,
    kind: str | None = None,
    question: str | None = None,
    annotator: str = "import",
    overlap: int = 1,
    gold: bool = False,
    columns: Mapping[str, str] | None = None,
    quarantine: str | Path | None = None,
) -> Import:
    """Put the questions and the judgements of a file into a store.

    The formats, as .jsonl, .json, .csv or .tsv, each also compressed with .gz at the end (the guide "Files of
    feedback" has a line of each, and what is refused):

    - "items": our own, which `export_file` writes: `{prompt, completions}` or `{prompt, completion}`, and if wanted the
      other fields of `NewItem`, `judgements`, `final` and `suggestions`. Without judgements the rows are questions to
      ask. Such a file may have `store_settings` (the scale, the harms, the questions, the guidelines). A store without
      items takes them over, if they come before all items and for the first time. Any other store keeps its own, and
      takes no ratings on another scale and no answers to other questions.
      Conversations (`{messages}`, or ShareGPT's `{conversations}`) are read too: the last answer is the completion.
    - "preference": TRL's `{prompt, chosen, rejected}`, strings or messages. Without a prompt, the beginning that both
      texts share is the prompt.
    - "kto": TRL's `{prompt, completion, label}`, with the label true or false. They become thumbs.
    - "ratings": the same with a whole number as the label.
    - "argilla", "label-studio": see these modules for the columns.
    - "potato": annotations of items that this store has written for Potato, see `potato`.
    - "shp", "ultrafeedback", "oasst": rows of published datasets, see `published`.

    Rows of several formats may stand in one file: each row is told by its own columns.

    An item that is in the store already is not made again. An annotator judges an item once: the same judgement again
    is a duplicate, a different one is a contradiction, and both go to the quarantine. So a file can be imported again
    after a crash.

    Args:
        store: the store that takes the rows.
        path: the file.
        format: one of the formats, or "auto" to tell it by the columns of each row, and labels by all rows.
        kind: the kind of items whose rows do not say it (only in "items", and in "argilla" with a `question`).
        question: the question of Argilla's records whose answers are read, if they answer several or its name is none
            of `argilla.QUESTIONS`. Two questions of one kind about the same texts need two stores.
        annotator: who judged, if a row does not say. Give files of different unnamed people different names.
        overlap: how many judgements an item needs, if its row does not say.
        gold: make the judgements the expected answers of gold questions. A question of "items" may also have its
            answer beside its texts: `{"prompt", "completions", "choice": 0}`, or `order`, `rating`, `up`, `text`,
            `harms`.
        columns: maps our name of a column to the file's, if they differ: `{"prompt": "instruction"}`.
        quarantine: the file for bad rows, JSON lines `{"where": "file:line", "reason", "row"}`. By default it is next
            to `path`.

    Raises:
        ValueError: the format is unknown or cannot be told, the file as a whole cannot be read, or there is a
            `question` and the file is not Argilla's.
        FileNotFoundError: there is no such file.
        StoreError: the store cannot be written.
    """
    if format not in ("auto", *FORMATS):
        raise ValueError(f"unknown format {format!r}: choose auto, {', '.join(FORMATS)}")
    path = Path(path)
    found = list(read_rows(path))
    rows = _renamed([row for row in found if not isinstance(row, BadRow)], columns or {})
    if not found:
        raise ValueError(f"{path}: there are no rows")
    formats: list[str | ValueError] = [format] * len(rows)
    if format == "auto" and rows:
        formats, format = _detected(rows, store.settings.scale, gold)
    if question is not None and format not in ("argilla", "auto"):
        raise ValueError(f"{path}: question={question!r} is for Argilla's records, and the format is {format}")
    reading = Reading(
        store.settings, kind, question, annotator, path.name, overlap, path.parent, gold, ours=store.versions()
    )
    if "potato" in formats:
        asked = [item for item in store.items() if item.gold is None and item.kind in SCHEMES]
        reading = replace(reading, potato=by_potato_id(asked))
    merge, file_settings = Merge(store), FileSettings(store)
    masked = _merge_rows(found, _whole_rows(rows, formats, str(path)), reading, merge, file_settings)
    items, judgements = merge.store_all()
    at = Path(quarantine) if quarantine is not None else path.with_name(f"{path.name}.quarantine.jsonl")
    bad, aside = tuple(merge.bad), _write_quarantine(at, merge.bad) if merge.bad else None
    new = (merge.new_kinds(), merge.n_finals, merge.n_suggestions, masked)
    return Import(format, len(found), items, judgements, bad, aside, file_settings.changed, *new)


class _ReadRow(NamedTuple):
    """Hold a row that the file's reader could read."""

    where: str
    row: Row  # as it stands in the file
    named: Row  # with our names of columns, and with its prompt not repeated
    format: str | ValueError  # or why it cannot be taken


def _whole_rows(
    rows: Sequence[tuple[str, Row, Row]], formats: Sequence[str | ValueError], path: str
) -> Iterator[_ReadRow]:
    """Return the rows of `_renamed` with their formats, without prompts that their completions repeat."""
    places = [row[:2] for row in rows]
    whole = without_repeated_prompts([named for _, _, named in rows], path)
    return (_ReadRow(*place, named, of) for place, named, of in zip(places, whole, formats, strict=True))


def _merge_rows(
    found: Iterable[tuple[str, Row] | BadRow],
    rows: Iterator[_ReadRow],
    reading: Reading,
    merge: Merge,
    file_settings: FileSettings,
) -> Mapping[str, int]:
    """Add all rows of a file to `merge`, in order: the entries of those that can be read, and bad rows.

    Args:
        found: all rows of the file.
        rows: those of them that are no bad rows.
        reading: how rows are read, until settings in the file say otherwise.
        merge: takes entries and bad rows.
        file_settings: takes the settings in the file.

    Returns:
        How much private data was masked, by kind.
    """
    texts = PrivateTexts(reading.settings)  # no file changes whether texts are masked
    for either in found:
        if isinstance(either, BadRow):
            merge.bad.append(either)
            continue
        where, row, named, of = next(rows)
        try:
            if isinstance(of, ValueError):
                raise of
            if of == "items" and "store_settings" in named:
                settings = file_settings.take(named["store_settings"], is_new=not merge.known)
                versions, ours = file_settings.versions, merge.store.versions()
                reading = replace(reading, settings=settings, versions=versions, ours=ours)
            for entry in read_entries(of, named, reading):
                file_settings.check(entry)
                whole = mask_entry(entry, texts, reading)
                merge.add(where, row, _as_gold(whole, reading.overlap) if reading.gold else whole)
        except (ValueError, OverflowError) as error:
            merge.bad.append(BadRow(where, str(error), row))
        except RecursionError:
            merge.bad.append(BadRow(where, "the row is nested too deeply", "(nested too deeply to be written)"))
    return dict(texts.counts)


def _detected(
    rows: Sequence[tuple[str, Row, Row]], scale: tuple[int, int], gold: bool
) -> tuple[list[str | ValueError], str]:
    """Return the format of each row, or why it cannot be taken, and the names of the formats.

    Raises:
        ValueError: no row can be told. The message names the first one.
    """
    try:
        formats = detect_formats([named for _, _, named in rows], scale, gold=gold)
    except ValueError as error:
        raise ValueError(f"{rows[0][0]}: {error}") from error
    return formats, ", ".join(dict.fromkeys(found for found in formats if isinstance(found, str)))


def _write_quarantine(path: Path, bad: Sequence[BadRow]) -> Path:
    lines = (json.dumps({"where": row.where, "reason": row.reason, "row": row.row}, default=str) for row in bad)
    replace_file(path, "".join(f"{line}\n" for line in lines).encode())
    return path


def _renamed(rows: Sequence[tuple[str, Row]], columns: Mapping[str, str]) -> list[tuple[str, Row, Row]]:
    """Return (where, row, row with the columns renamed) for each row. A renamed column takes the place of its name."""
    for ours, theirs in columns.items():
        if rows and not any(theirs in row for _, row in rows):
            where, row = rows[0]
            hint = did_you_mean(theirs, map(str, row))
            raise ValueError(
                f"{where}: no column {theirs!r} to read as {ours!r} (there are: {', '.join(map(str, row))})"
                + (f"; {hint}" if hint else "")
            )
    renamed = []
    for where, row in rows:
        named = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
        kept = {column: value for column, value in row.items() if column not in columns.values()}
        renamed.append((where, row, {**kept, **named}))
    return renamed


def _as_gold(entry: Entry, overlap: int) -> Entry:
    """Return the entry as a gold question that was not asked yet, with its judgement as the expected answer.

    The column "expected_answers" has those to the project's own questions.
    """
    expected = [judgement.value for judgement in entry.judgements] or [entry.item.gold]
    meta = {name: value for name, value in entry.item.meta.items() if name != EXPECTED_ANSWERS}
    own = {"answers": entry.item.meta[EXPECTED_ANSWERS]} if EXPECTED_ANSWERS in entry.item.meta else {}
    if own and entry.item.kind == "questions":
        expected = [{}]
    if expected[0] is None or any(value != expected[0] for value in expected):
        raise ValueError(
            "a gold question needs one expected answer: a judgement, or several that agree, or the answer beside the "
            f"texts, {_ANSWERS.get(entry.item.kind, '')}"
        )
    item = replace(entry.item, gold={**expected[0], **own}, meta=meta, overlap=max(overlap, entry.item.overlap))
    return replace(entry, item=item, judgements=())
