"""Score filled documents: the slots that are right, and the words of the template that are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.tasks.document.templates import SLOT

__all__ = ["DocumentReward", "Filled", "edit_similarity", "keeps_form", "read_document"]

WORD = re.compile(r"\w+|[^\w\s]")


class Filled(NamedTuple):
    """Hold how a document was filled.

    Attributes:
        slots: the share of the slots that have their fact, and nothing else, in their place.
        form: how much of the template's words is kept and nothing added, 0 to 1.
    """

    slots: float
    form: float


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text, without differences in case and space."""
    return WORD.findall(text.casefold())


def read_document(text: str, template: str, facts: Mapping[str, str]) -> Filled:
    """Return how a text fills a template with facts.

    The words of the text are aligned with those of the right document by a longest common subsequence. A slot is right
    if all its words and the neighbour on each side are matched without a gap. The form is the Dice coefficient of
    the template's own words: twice those matched over those of the template and those of the text that are no slot's.
    """
    expected, owners = _expected(template, facts)
    given = words_of(text)
    places = _align(expected, given)
    slots = sorted({owner for owner in owners if owner >= 0})
    right = [_is_right([i for i, owner in enumerate(owners) if owner == slot], places, len(given)) for slot in slots]
    fixed = [place for place, owner in zip(places, owners, strict=True) if owner < 0]
    kept = sum(place >= 0 for place in fixed)
    others = len(given) - sum(place >= 0 for place, owner in zip(places, owners, strict=True) if owner >= 0)
    form = 2 * kept / (len(fixed) + others) if len(fixed) + others else 1.0
    return Filled(sum(right) / len(right), form)


def _expected(template: str, facts: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """Return the words of the right document, and for each the number of its slot, -1 for the template's own."""
    words, owners = [], []
    for i, part in enumerate(SLOT.split(template)):
        new = words_of(facts[part] if i % 2 else part)
        words += new
        owners += [i if i % 2 else -1] * len(new)
    return words, owners


def _align(expected: Sequence[str], given: Sequence[str]) -> list[int]:
    """Return for each expected word its place in the given ones, -1 where it is none of the common subsequence."""
    table = np.zeros((len(expected) + 1, len(given) + 1), dtype=np.int64)
    for i in range(len(expected) - 1, -1, -1):
        for j in range(len(given) - 1, -1, -1):
            same = expected[i] == given[j]
            table[i, j] = table[i + 1, j + 1] + 1 if same else max(table[i + 1, j], table[i, j + 1])
    places, j = [-1] * len(expected), 0
    for i in range(len(expected)):
        while j < len(given) and expected[i] != given[j] and table[i, j + 1] > table[i + 1, j]:
            j += 1
        if j < len(given) and expected[i] == given[j]:
            places[i], j = j, j + 1
    return places


def _is_right(at: Sequence[int], places: Sequence[int], n_given: int) -> bool:
    """Return whether the expected words `at` and their neighbours are matched one after the other."""
    if any(places[i] < 0 for i in at):
        return False
    before = places[at[0] - 1] if at[0] else -1
    after = places[at[-1] + 1] if at[-1] + 1 < len(places) else n_given
    together = [before, *(places[i] for i in at), after]
    return all(b - a == 1 for a, b in pairwise(together))


def keeps_form(text: str, template: str) -> bool:
    """Return whether a text is the template with any one to four words in each slot, and without a bracket."""
    parts = [re.escape(" ".join(words_of(part))) for part in SLOT.split(template)[::2]]
    pattern = r" ?(?:[^\s\[\]]+ ){0,3}[^\s\[\]]+ ?".join(parts)
    return re.fullmatch(pattern, " ".join(words_of(text))) is not None


def edit_similarity(text: str, reference: str) -> float:
    """Return 1 less the Levenshtein distance of characters over the longer text's length: 1 if equal, 0 at least."""
    one, other = " ".join(text.split()).casefold(), " ".join(reference.split()).casefold()
    if not one or not other:
        return float(one == other)
    row = np.arange(len(other) + 1)
    letters = np.array(list(other))
    for i, letter in enumerate(one, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (letters != letter))
        steps = np.concatenate([[i], best]) - np.arange(len(other) + 1)
        row = np.minimum.accumulate(steps) + np.arange(len(other) + 1)
    return 1.0 - float(row[-1]) / max(len(one), len(other))


class DocumentReward:
    """Score a text with the share of right slots times the form kept: 1 for the right document, 0 for the template."""

    def __call__(
        self, completions: Sequence[Prompt], template: Sequence[str], facts: Sequence[Mapping[str, str]], **columns: Any
    ) -> list[float]:
        """Return one score per completion."""
        rows = zip(completions, template, facts, strict=True)
        filled = [read_document(said(text), one, dict(known)) for text, one, known in rows]
        return [one.slots * one.form for one in filled]
