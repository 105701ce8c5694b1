"""Merge the entries of a file with the items and judgements that a store has already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ...datasets.reading import BadRow
from ..answers import span_place
from ..records import Item, NewItem
from ..store.restoring import PastFinal, PastJudgement, PastSuggestion, restore
from ..store.store import FeedbackStore
from .entries import Entry

__all__ = ["Merge"]


@dataclass
class _Known:
    """Hold an item of the store (it has an id) or of the file, and what each annotator has said of it."""

    item: NewItem
    created: datetime | None
    id: int | None = None
    id_in_file: Any = None
    # annotator -> (value, answers to the project's questions, where)
    said: dict[str, tuple[dict[str, Any] | None, dict[str, Any], str]] = field(default_factory=dict)
    new: list[tuple[str, Any, PastJudgement]] = field(default_factory=list)  # (where, row, judgement)
    where: str = ""
    row: Any = None
    is_new: bool = False
    withdrawn: bool = False
    final: tuple[dict[str, Any], dict[str, Any]] | None = None  # of the store or of the file, with its own answers
    suggested: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # (source, version) -> value
    new_final: PastFinal | None = None
    new_suggestions: list[PastSuggestion] = field(default_factory=list)


class Merge:
    """Merge the entries of a file with what is in the store."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.bad: list[BadRow] = []
        self.known: dict[Any, list[_Known]] = {}
        self.touched: dict[int, _Known] = {}  # by Python's id(), in the file's order
        self.names = {annotator.name for annotator in store.annotators()}
        self.withdrawn = {annotator.name for annotator in store.annotators() if annotator.withdrawn is not None}
        by_id = {}
        judgements = store.judgements(include_skips=True)  # before the items, so that no judgement lacks its item
        for item in store.items():
            known = by_id[item.id] = _Known(_as_new(item), item.created, item.id, where="the store")
            self.known.setdefault(_identity(known.item), []).append(known)
        for judgement in judgements:
            by_id[judgement.item_id].said[judgement.annotator] = (judgement.value, judgement.answers, "the store")
        for item_id, final in store.adjudications().items():
            by_id[item_id].final = (final.value, final.answers)
        for suggestion in store.suggestions():
            by_id[suggestion.item_id].suggested[suggestion.source, suggestion.version] = suggestion.value
        self.n_finals = self.n_suggestions = 0  # what `store_all` has written

    def add(self, where: str, row: Any, entry: Entry) -> None:
        """Take an entry. A judgement that was given already goes to the bad rows."""
        known, is_new = self._find(where, row, entry)
        self.touched.setdefault(id(known), known)
        if is_new and entry.pictures:  # at once: a file's pictures may not fit into memory
            self.store.add_pictures(entry.pictures)
        flipped = known.item.completions != entry.item.completions
        has_more = self._add_beside(where, row, entry, known, flipped)
        if not is_new and not entry.judgements and not has_more:
            self.bad.append(BadRow(where, f"duplicate: the item is in {known.where} already", row))
        for judgement in entry.judgements:
            value = _flipped(judgement.value) if flipped else judgement.value
            sides = tuple(1 - side for side in judgement.sides) if flipped else judgement.sides
            answers = _flipped_answers(judgement.answers) if flipped else judgement.answers
            if judgement.annotator in self.withdrawn:
                self.bad.append(BadRow(where, f"withdrawn: {judgement.annotator!r} has taken all labels back", row))
                continue
            if judgement.annotator in known.said:
                before, others, place = known.said[judgement.annotator]
                same = before == value and others == answers
                before = before if before != value else others
                what = "duplicate: " if same else "contradiction: "
                reason = f"{what}{judgement.annotator!r} has judged this item in {place} already"
                self.bad.append(BadRow(where, reason if same else f"{reason}, as {before}", row))
                continue
            if not self._add_annotator(judgement.annotator, where, row):
                continue
            known.said[judgement.annotator] = (value, answers, where)
            known.new.append((where, row, replace(judgement, value=value, sides=sides, answers=answers)))

    def _add_beside(self, where: str, row: Any, entry: Entry, known: _Known, flipped: bool) -> bool:
        """Take an entry's final answer and suggestions. Return whether there is anything new among them.

        What is there already is passed over. What contradicts it goes to the bad rows.
        """
        has_more = False
        if (final := entry.final) is not None:
            value = _turned(final.value) if flipped else final.value
            answers = _flipped_answers(final.answers) if flipped else final.answers
            if final.by in self.withdrawn:
                self.bad.append(BadRow(where, f"withdrawn: {final.by!r} has taken the final answer back", row))
            elif known.final is not None and known.final != (value, answers):
                stored = known.final[0] if known.final[0] != value else known.final[1]
                reason = f"contradiction: the item has the final answer {stored} already"
                self.bad.append(BadRow(where, reason, row))
            elif known.final is None and self._add_annotator(final.by, where, row):
                known.final, has_more = (value, answers), True
                known.new_final = replace(final, value=value, answers=answers)
        for suggestion in entry.suggestions:
            value = _turned(suggestion.value) if flipped else suggestion.value
            key = suggestion.source, suggestion.version
            if (before := known.suggested.get(key)) is None:
                known.suggested[key] = value
                known.new_suggestions.append(replace(suggestion, value=value))
                has_more = True
            elif before != value:
                reason = f"contradiction: {key[0]!r}, version {key[1]!r}, suggests {before} already"
                self.bad.append(BadRow(where, reason, row))
        return has_more

    def store_all(self) -> tuple[int, int]:
        """Write what is new. Return how many items and judgements were written."""
        touched = list(self.touched.values())
        new = [known for known in touched if known.id is None]
        self._add_items(new)
        given = [(known.id, entry) for known in touched for entry in known.new if known.id is not None]
        now = datetime.now(UTC)
        given.sort(key=lambda pair: pair[1][2].created or now)  # `undo` takes the last judgement back
        created = {known.id: known.created for known in new if known.id is not None and known.created is not None}
        past = [(item_id, judgement) for item_id, (_, _, judgement) in given]
        stored = [(known.id, known) for known in touched if known.id is not None]
        finals = {item_id: known.new_final for item_id, known in stored if known.new_final is not None}
        suggested = [(item_id, one) for item_id, known in stored for one in known.new_suggestions]
        self.n_finals, self.n_suggestions = len(finals), len(suggested)
        withdrawn = [known.id for known in new if known.id is not None and known.withdrawn]
        late = []
        if not self.store.is_rehearsal:
            late = restore(self.store, past, created, finals=finals, suggested=suggested, withdrawn=withdrawn)
        for place in late:
            where, row, judgement = given[place][1]
            reason = f"duplicate: {judgement.annotator!r} has judged this item while the file was read"
            self.bad.append(BadRow(where, reason, row))
        return sum(known.id is not None for known in new), len(given) - len(late)

    def new_kinds(self) -> dict[str, int]:
        """Count the items that `store_all` has made, by kind."""
        return dict(
            Counter(known.item.kind for known in self.touched.values() if known.is_new and known.id is not None)
        )

    def _add_items(self, new: list[_Known]) -> None:
        """Store the new items. If the store refuses one, the others are stored all the same."""
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
        """Return the item that an entry is about, and whether it is new.

        The same question may have been asked twice. The date, and the id in the store from which an entry comes, tell
        such entries apart. A conversation is not the question of a text that reads the same.
        """
        group = self.known.setdefault(_identity(entry.item), [])
        messages = entry.item.meta.get("messages")
        for known in group:
            if messages not in (None, known.item.meta.get("messages")):
                continue
            same_date = entry.created is None or known.created == entry.created
            if same_date and (entry.id is None or known.id_in_file in (None, entry.id)):
                known.id_in_file = entry.id
                return known, False
        group.append(
            _Known(
                entry.item,
                entry.created,
                id_in_file=entry.id,
                where=where,
                row=row,
                is_new=True,
                withdrawn=entry.withdrawn,
            )
        )
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
    """Return what makes two items the same question. The order of a pair does not count."""
    completions: Iterable[str] = sorted(item.completions) if item.kind == "pairwise" else item.completions
    images = item.meta.get("images")
    pictures = [str(image.get("id")) for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    return (item.kind, item.gold is not None, item.prompt, *completions, tuple(pictures))


def _flipped(value: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else _turned(value)


def _turned(value: dict[str, Any]) -> dict[str, Any]:
    return value if value.get("choice") is None else {**value, "choice": 1 - value["choice"]}


def _flipped_answers(answers: dict[str, Any]) -> dict[str, Any]:
    """Return answers to the project's questions about a pair whose completions are stored in the other order."""
    return {name: _flipped_answer(answer) for name, answer in answers.items()}


def _flipped_answer(answer: Any) -> Any:
    if isinstance(answer, dict):  # a choice
        return _flipped(answer)
    if isinstance(answer, list) and all(isinstance(rating, int) for rating in answer):  # a rating of each completion
        return answer[::-1]
    if isinstance(answer, list) and all(isinstance(span, dict) for span in answer):
        spans = [
            span if span["completion"] is None else {**span, "completion": 1 - span["completion"]} for span in answer
        ]
        return sorted(spans, key=span_place)
    return answer


def _as_new(item: Item) -> NewItem:
    return NewItem(item.kind, item.prompt, item.completions, meta=item.meta, gold=item.gold)
