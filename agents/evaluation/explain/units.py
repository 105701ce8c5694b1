"""Cut a prompt and a completion into the pieces that an explanation speaks of."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_envs.rewards.reward_model import encode, model_length
from rlhf_envs.words import split_words

__all__ = ["ReadText", "Unit", "cut_at", "read_text", "spread", "word_starts"]

Part = Literal["prompt", "completion"]
JOINERS = "\u200d\ufe0e\ufe0f"  # they stand within an emoji


class Unit(NamedTuple):
    """Hold one piece: `text` is `[start:end]` of the prompt's or the completion's text."""

    part: Part
    start: int
    end: int
    text: str


class ReadText(NamedTuple):
    """Hold a text as a reward model reads it.

    Attributes:
        ids: the tokens that are scored, with special tokens; the beginning of a long text is missing.
        spans: where in the text each token stands, `(start, end)`; None for special tokens.
        first: where the first token that is read begins: what stands before it was cut off.
    """

    ids: list[int]
    spans: list[tuple[int, int] | None]
    first: int


def read_text(model: Any, tokenizer: Any, text: str) -> ReadText:
    """Return a text as `score_texts` gives it to a reward model, with the place of each token.

    Raises:
        ValueError: the tokenizer does not say where its tokens stand.
    """
    (ids,) = encode(tokenizer, [text], model_length(model))
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer {type(tokenizer).__name__} does not say where a token stands: {_OTHER}")
    found = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    plain, offsets = found["input_ids"], found["offset_mapping"]
    for before, after in sorted(((b, a) for b in range(4) for a in range(4)), key=sum):
        n = len(ids) - before - after  # tokens of the text, the last ones of `plain`
        if 0 <= n <= len(plain) and ids[before : before + n] == plain[len(plain) - n :]:
            spans = [(int(start), int(end)) if end > start else None for start, end in offsets[len(plain) - n :]]
            first = next((span[0] for span in spans if span), len(text)) if n < len(plain) else 0
            return ReadText(ids, [*[None] * before, *spans, *[None] * after], first)
    raise ValueError(f"the tokens of {text[:40]!r} cannot be found again in the text: {_OTHER}")


_OTHER = "take method='leave_one_out'"


def word_starts(text: str) -> list[int]:
    """Return where the words of a text begin, each with the white space before it."""
    starts, end = [], 0
    for word in split_words(text):
        starts.append(end)
        end = text.index(word, end) + len(word)
    return starts


def cut_at(part: Part, text: str, starts: Iterable[int]) -> list[Unit]:
    """Return the units of a text, which begin at `starts`: together they are the whole text.

    No unit begins within a character: at a mark on the letter before it, or within an emoji.
    """
    places = sorted({0, *(start for start in starts if 0 < start < len(text) and not _is_within(text, start))})
    ends = [*places[1:], len(text)]
    return [Unit(part, start, end, text[start:end]) for start, end in zip(places, ends, strict=True) if end > start]


def _is_within(text: str, place: int) -> bool:
    """Return whether a character goes on at a place."""
    here, before = text[place], text[place - 1]
    modifies = "\U0001f3fb" <= here <= "\U0001f3ff"  # the colour of a skin
    return unicodedata.category(here).startswith("M") or here in JOINERS or before == "\u200d" or modifies


def spread(
    values: np.ndarray, spans: Sequence[tuple[int, int] | None], units: Sequence[Unit], starts: dict[Part, int]
) -> tuple[np.ndarray, float]:
    """Give the tokens' values to the units that they overlap, in proportion, and the rest to nobody.

    Args:
        values: (n_tokens,) one per token.
        spans: the tokens' places in the text that was read.
        units: the pieces of prompt and completion.
        starts: where in that text the prompt and the completion begin; -1 for a part that is not in it.

    Returns:
        the units' values, (n_units,), and the sum of what belongs to no unit, such as special tokens and templates.
    """
    places = [(starts[u.part] + u.start, starts[u.part] + u.end) if starts[u.part] >= 0 else (0, 0) for u in units]
    given = np.zeros(len(units))
    for value, span in zip(values, spans, strict=True):
        if span is None:
            continue
        for i, (start, end) in enumerate(places):
            overlap = min(end, span[1]) - max(start, span[0])
            if overlap > 0:
                given[i] += value * overlap / (span[1] - span[0])
    return given, float(values.sum() - given.sum())
