"""Files of questions and judgements into a store. What cannot be used goes to a quarantine file, with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets.reading import BadRow, read_rows
from ...files import replace_file
from ..records import MOVING_SETTINGS, Item, NewItem, Settings
from ..store.restoring import PastJudgement, restore
from .reading import FORMATS, Entry, Reading, detect_format, read_row

if TYPE_CHECKING:
    from ..store.store import FeedbackStore

__all__ = ["FORMATS", "Import", "import_file"]


@dataclass(frozen=True)
class Import:
    """What an import did.

    Attributes:
        format: of the file.
        rows: in the file.
        items: new in the store.
        judgements: new in the store, skips among them.
        bad: what was not taken, duplicates and contradictions among it.
        quarantine: the file that holds `bad`; None where there is nothing in it.
        settings: names of the store's settings that the file has changed.
    """

    format: str
    rows: int
    items: int
    judgements: int
    bad: tuple[BadRow, ...] = field(repr=False)
    quarantine: Path | None
    settings: tuple[str, ...] = ()


def import_file(
    store: FeedbackStore,
    path: str | Path,
    format: str = "auto",
    *,
    kind: str | None = None,
    annotator: str = "import",
    overlap: int = 1,
    gold: bool = False,
    columns: Mapping[str, str] | None = None,
    quarantine: str | Path | None = None,
) -> Import:
    """Put the questions and the judgements of a file into a store.

    The formats (.jsonl, .json, of the last two .csv; each also with .gz behind):

    - "items": our own, which `export_file` writes: `{prompt, completions}` or `{prompt, completion}`, and optionally
      the other fields of `NewItem` and `judgements`. Without judgements the rows are questions to ask. The settings
      that such a file brings (`store_settings`: the scale, the harms, the guidelines) become those of a store that has
      no items yet, if they stand before all items and for the first time; otherwise the store keeps its own, and takes
      no ratings that are on another scale.
    - "preference": TRL's `{prompt, chosen, rejected}`, strings or messages; without a prompt, what both begin with.
    - "kto": TRL's `{prompt, completion, label}`, the label true or false; they become thumbs.
    - "ratings": the same with a whole number.
    - "argilla", "label-studio": see these modules for the columns.

    An item that is in the store already is not made again, and an annotator judges an item once: the same judgement
    again is a duplicate, another one a contradiction, and both go to the quarantine. So a file can be imported again
    after a crash. `annotator` names who judged where a row does not say; two files of different unnamed people want
    different names.

    Args:
        store: takes them.
        path: the file.
        format: one of these, or "auto": told by the columns of the first row.
        kind: what to ask about rows of "items" that do not say.
        annotator: see above.
        overlap: how many judgements an item wants, where it does not say.
        gold: make the judgements the expected answers of gold questions.
        columns: our column to the file's, where it has another name: `{"prompt": "instruction"}`.
        quarantine: file for bad rows, JSON lines `{"where": "file:line", "reason", "row"}`; by default beside `path`.

    Raises:
        ValueError: the format is unknown or cannot be told, or the file cannot be read at all.
        FileNotFoundError: there is no such file.
        StoreError: the store cannot be written.
    """
    if format not in ("auto", *FORMATS):
        raise ValueError(f"unknown format {format!r}: choose auto, {', '.join(FORMATS)}")
    path = Path(path)
    reading = Reading(store.settings, kind, annotator, path.name, overlap)
    merge, n_rows = _Merge(store), 0
    moved = _Moved(store)
    for found in read_rows(path):
        n_rows += 1
        if isinstance(found, BadRow):
            merge.bad.append(found)
            continue
        where, row = found
        named = _renamed(row, columns or {})
        if format == "auto":
            try:
                format = detect_format(named)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        try:
            if format == "items" and "store_settings" in named:
                reading = replace(reading, settings=moved.take(named["store_settings"], is_new=not merge.known))
            entry = read_row(format, named, reading)
            moved.check(entry)
            merge.add(where, row, _as_gold(entry, overlap) if gold else entry)
        except ValueError as error:
            merge.bad.append(BadRow(where, str(error), row))
    if n_rows == 0:
        raise ValueError(f"{path}: there are no rows")
    items, judgements = merge.store_all()
    at = Path(quarantine) if quarantine is not None else path.with_name(f"{path.name}.quarantine.jsonl")
    if merge.bad:
        _write_quarantine(at, merge.bad)
    return Import(format, n_rows, items, judgements, tuple(merge.bad), at if merge.bad else None, moved.changed)


def _write_quarantine(path: Path, bad: Sequence[BadRow]) -> None:
    lines = (json.dumps({"where": row.where, "reason": row.reason, "row": row.row}, default=str) for row in bad)
    replace_file(path, "".join(f"{line}\n" for line in lines).encode())


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    theirs = {there: ours for ours, there in columns.items()}
    return {theirs.get(column, column): value for column, value in row.items()}


class _Moved:
    """The settings of the store that a file of items comes from."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.changed: tuple[str, ...] = ()
        self._taken = False
        self._refusal: str | None = None  # of ratings, by the last settings in the file: why they are not taken

    def take(self, given: Any, is_new: bool) -> Settings:
        """Give them to the store, once and only while it `is_new`; the settings that the rows are to be read with.

        Files of items are put one after another, and then each has settings, which hold from there on.
        """
        before = self.store.settings
        if given is None:  # a column of a table, which the other rows have as well
            return before
        self._refusal = "the scale of the file's ratings is not known: its 'store_settings' cannot be read"
        if not isinstance(given, dict) or not set(given) <= set(MOVING_SETTINGS):
            raise ValueError(f"'store_settings' must be an object of {', '.join(MOVING_SETTINGS)}")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        try:
            wanted = replace(before, **settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"'store_settings': {error}") from None
        if is_new and not self._taken:
            changes = {name: getattr(wanted, name) for name in given if getattr(wanted, name) != getattr(before, name)}
            self.changed = tuple(changes)
            updated = self.store.update_settings(**changes)
            self._taken, self._refusal = True, None
            return updated
        self._refusal = None
        if wanted.scale != before.scale:
            (low, high), (our_low, our_high) = wanted.scale, before.scale
            self._refusal = (
                f"the file's ratings are on the scale {low} to {high}, the store's on {our_low} to {our_high}: import "
                "the file into a store of its own"
            )
        return before

    def check(self, entry: Entry) -> None:
        """Refuse ratings that mean something else on the store's scale."""
        if self._refusal and entry.item.kind == "rating" and (entry.judgements or entry.item.gold is not None):
            raise ValueError(self._refusal)


@dataclass
class _Known:
    """An item of the store (it has an id) or of the file, and what each annotator has said of it."""

    item: NewItem
    created: datetime | None
    id: int | None = None
    id_in_file: Any = None
    said: dict[str, tuple[dict[str, Any] | None, str]] = field(default_factory=dict)  # annotator -> (value, where)
    new: list[tuple[str, Any, PastJudgement]] = field(default_factory=list)  # (where, row, judgement)
    where: str = ""
    row: Any = None


class _Merge:
    """The entries of a file laid over what is in the store."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.bad: list[BadRow] = []
        self.known: dict[Any, list[_Known]] = {}
        self.touched: dict[int, _Known] = {}  # by id(), in the file's order
        self.names = {annotator.name for annotator in store.annotators()}
        by_id = {}
        judgements = store.judgements(include_skips=True)  # before the items, so that theirs are among these
        for item in store.items():
            known = by_id[item.id] = _Known(_as_new(item), item.created, item.id, where="the store")
            self.known.setdefault(_identity(known.item), []).append(known)
        for judgement in judgements:
            by_id[judgement.item_id].said[judgement.annotator] = (judgement.value, "the store")

    def add(self, where: str, row: Any, entry: Entry) -> None:
        """Take an entry; a judgement that was given already goes to the bad rows."""
        known, is_new = self._find(where, row, entry)
        self.touched.setdefault(id(known), known)
        if not is_new and not entry.judgements:
            self.bad.append(BadRow(where, f"duplicate: the item is in {known.where} already", row))
        flipped = known.item.completions != entry.item.completions
        for judgement in entry.judgements:
            value = _flipped(judgement.value) if flipped else judgement.value
            sides = tuple(1 - side for side in judgement.sides) if flipped else judgement.sides
            if judgement.annotator in known.said:
                before, place = known.said[judgement.annotator]
                what = "duplicate: " if before == value else "contradiction: "
                reason = f"{what}{judgement.annotator!r} has judged this item in {place} already"
                self.bad.append(BadRow(where, reason if before == value else f"{reason}, as {before}", row))
                continue
            if not self._add_annotator(judgement.annotator, where, row):
                continue
            known.said[judgement.annotator] = (value, where)
            known.new.append((where, row, replace(judgement, value=value, sides=sides)))

    def store_all(self) -> tuple[int, int]:
        """Write what is new; (items, judgements)."""
        touched = list(self.touched.values())
        new = [known for known in touched if known.id is None]
        self._add_items(new)
        given = [(known.id, entry) for known in touched for entry in known.new if known.id is not None]
        now = datetime.now(UTC)
        given.sort(key=lambda pair: pair[1][2].created or now)  # undo takes the last back
        created = {known.id: known.created for known in new if known.id is not None and known.created is not None}
        late = restore(self.store, [(item_id, judgement) for item_id, (_, _, judgement) in given], created)
        for place in late:
            where, row, judgement = given[place][1]
            reason = f"duplicate: {judgement.annotator!r} has judged this item while the file was read"
            self.bad.append(BadRow(where, reason, row))
        return sum(known.id is not None for known in new), len(given) - len(late)

    def _add_items(self, new: list[_Known]) -> None:
        """Give the new items their ids. One that the store does not take leaves the others alone."""
        try:
            for known, item_id in zip(new, self.store.add_items([known.item for known in new]), strict=True):
                known.id = item_id
            return
        except ValueError:
            pass
        for known in new:
            try:
                (known.id,) = self.store.add_items([known.item])
            except ValueError as error:
                reason = str(error).removeprefix("items[0]: ")
                self.bad.append(BadRow(known.where, reason, known.row))
                self.bad += [BadRow(where, reason, row) for where, row, _ in known.new if where != known.where]

    def _find(self, where: str, row: Any, entry: Entry) -> tuple[_Known, bool]:
        """The item that an entry is about, and whether it is a new one.

        The same question may have been asked twice: entries that know their date and their id in the store they come
        from are told apart by these.
        """
        group = self.known.setdefault(_identity(entry.item), [])
        for known in group:
            same_date = entry.created is None or known.created == entry.created
            if same_date and (entry.id is None or known.id_in_file in (None, entry.id)):
                known.id_in_file = entry.id
                return known, False
        group.append(_Known(entry.item, entry.created, id_in_file=entry.id, where=where, row=row))
        return group[-1], True

    def _add_annotator(self, name: str, where: str, row: Any) -> bool:
        if name not in self.names:
            try:
                self.store.add_annotator(name)
            except ValueError as error:
                self.bad.append(BadRow(where, str(error), row))
                return False
            self.names.add(name)
        return True


def _identity(item: NewItem) -> tuple[Any, ...]:
    """What makes two items the same question. The order of a pair does not."""
    completions: Iterable[str] = sorted(item.completions) if item.kind == "pairwise" else item.completions
    return (item.kind, item.gold is not None, item.prompt, *completions)


def _flipped(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value is None or value.get("choice") is None:
        return value
    return {**value, "choice": 1 - value["choice"]}


def _as_new(item: Item) -> NewItem:
    return NewItem(item.kind, item.prompt, item.completions, gold=item.gold)


def _as_gold(entry: Entry, overlap: int) -> Entry:
    """The entry as a question yet to be asked, its judgement being the expected answer."""
    expected = [judgement.value for judgement in entry.judgements] or [entry.item.gold]
    if expected[0] is None or any(value != expected[0] for value in expected):
        raise ValueError("a gold question needs one expected answer: a judgement, or several that agree")
    item = replace(entry.item, gold=expected[0], overlap=max(overlap, entry.item.overlap))
    return replace(entry, item=item, judgements=())
