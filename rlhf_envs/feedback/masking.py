"""Mask private data in what comes into a store, where the project's settings ask for it (`mask_private`)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from ..privacy import Masker, Span
from .questions import Question
from .records import NewItem
from .settings import Settings

__all__ = ["PrivateTexts", "check_masking"]

_LABELS = {"national_id": "ID"}


def check_masking(settings: Settings) -> None:
    """Raise a ValueError if the settings ask for masks and what makes them is not installed."""
    if settings.mask_private:
        try:
            _masker()
        except ImportError as error:
            raise ValueError(f"mask_private: {error}") from error


@cache
def _masker() -> Masker:
    return Masker()


class PrivateTexts:
    """Mask texts if the settings ask for it, and count what was masked. Otherwise every text stays as it is.

    Args:
        settings: those of the store.
    """

    def __init__(self, settings: Settings) -> None:
        self.counts: Counter[str] = Counter()  # by kind of private data
        self._masker = _masker() if settings.mask_private else None

    def text(self, text: str) -> str:
        """Return a text with placeholders."""
        return self._masked(text)[0]

    def plain(self, value: Any) -> Any:
        """Return a value as JSON has it, with all its texts masked. The keys of objects stay."""
        if self._masker is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.plain(inner) for key, inner in value.items()}
        return [self.plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    def item(self, item: NewItem) -> NewItem:
        """Return a question with its texts, what else its file had in its row, and the expected text masked."""
        return self.item_with_places(item)[0]

    def item_with_places(self, item: NewItem) -> tuple[NewItem, dict[int | None, _Places]]:
        """Return a masked question, and where places in its completions (None: in its prompt) are now."""
        if self._masker is None or not isinstance(item.prompt, str) or isinstance(item.completions, str):
            return item, {}
        prompt, in_prompt = self._masked(item.prompt)
        masked = [self._masked(text) if isinstance(text, str) else (text, _Places([])) for text in item.completions]
        places: dict[int | None, _Places] = {None: in_prompt}
        places |= {index: moved for index, (_, moved) in enumerate(masked)}
        gold = None if item.gold is None else self.value(item.gold)
        # Pictures are named by a digest, which is no secret.
        meta = {key: value if key == "images" else self.plain(value) for key, value in item.meta.items()}
        texts = tuple(text for text, _ in masked)
        return replace(item, prompt=prompt, completions=texts, gold=gold, meta=meta), places

    def value(self, value: Any) -> Any:
        """Return an answer to an item: the text of a correction is masked."""
        if self._masker is None or not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
            return value
        return {**value, "text": self.text(value["text"])}

    def answers(
        self,
        answers: Mapping[str, Any] | None,
        questions: Sequence[Question],
        places: Mapping[int | None, _Places] | None = None,
    ) -> Any:
        """Return answers to the project's questions with texts and notes masked.

        Args:
            answers: the answers by the names of their questions.
            questions: the questions.
            places: where the marked pieces are now, if the item was masked after they were marked.
        """
        if self._masker is None or not answers:
            return answers
        types = {question.name: question.type for question in questions}
        masked = dict(answers)
        for name, answer in answers.items():
            if types.get(name) == "text" and isinstance(answer, str):
                masked[name] = self.text(answer)
            elif types.get(name) == "spans" and isinstance(answer, list):
                moved = [self._span(span, places or {}) for span in answer]
                # Two pieces of one placeholder are the same piece now.
                masked[name] = [*{(s["completion"], s["start"], s["end"], s["label"]): s for s in moved}.values()]
        return masked

    def _span(self, span: dict[str, Any], places: Mapping[int | None, _Places]) -> dict[str, Any]:
        moved = {**span, "note": self.text(span["note"])} if isinstance(span.get("note"), str) else dict(span)
        if (place := places.get(span["completion"])) is not None:
            moved["start"], moved["end"] = place.start(span["start"]), place.end(span["end"])
        return moved

    def _masked(self, text: str) -> tuple[str, _Places]:
        spans = [] if self._masker is None else self._masker.find(text)
        if not spans:
            return text, _Places([])
        parts, position, changes = [], 0, []
        for span in spans:
            self.counts[span.kind] += 1
            placeholder = f"[{_LABELS.get(span.kind, span.kind.upper())}]"
            parts += [text[position : span.start], placeholder]
            changes.append((span, len(placeholder)))
            position = span.end
        return "".join([*parts, text[position:]]), _Places(changes)


class _Places:
    """Say where a place of a text is in the masked text. A place within what was masked moves to its end or start."""

    def __init__(self, changes: Sequence[tuple[Span, int]]) -> None:
        self._changes = changes
        self._starts = [span.start for span, _ in changes]

    def start(self, place: int) -> int:
        """Return where a piece begins that began at `place`."""
        return self._moved(place, at_end=False)

    def end(self, place: int) -> int:
        """Return where a piece ends that ended at `place`."""
        return self._moved(place, at_end=True)

    def _moved(self, place: int, at_end: bool) -> int:
        before = self._changes[: bisect_right(self._starts, place - 1 if at_end else place)]
        shift = sum(size - (span.end - span.start) for span, size in before)
        if before and place < before[-1][0].end:  # within the last of them
            span, size = before[-1]
            shift -= size - (span.end - span.start)
            return span.start + shift + (size if at_end else 0)
        return place + shift
