"""Mask private data in what a row of a file says, before it is compared with what a store has."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from ..masking import PrivateTexts
from ..store.restoring import PastFinal, PastJudgement
from .entries import Entry, Reading

__all__ = ["mask_entry"]

Past = TypeVar("Past", PastJudgement, PastFinal)


def mask_entry(entry: Entry, texts: PrivateTexts, reading: Reading) -> Entry:
    """Return an entry with its texts masked, if `texts` masks any. Marked pieces of a text move with it."""
    item, places = texts.item_with_places(entry.item)
    if not places:
        return entry
    versions = (*reading.versions.values(), *reading.ours.values(), reading.settings)
    questions = [question for settings in versions for question in settings.questions]

    def masked(past: Past) -> Past:
        answers = texts.answers(past.answers, questions, places)
        return replace(past, value=texts.value(past.value), comment=texts.text(past.comment), answers=answers)

    return replace(
        entry,
        item=item,
        judgements=tuple(masked(judgement) for judgement in entry.judgements),
        final=None if entry.final is None else masked(entry.final),
        suggestions=tuple(replace(one, value=texts.value(one.value)) for one in entry.suggestions),
    )
