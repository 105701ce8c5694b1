"""Reward diversity: distinct n-grams, self-BLEU, and novelty against a memory of completions.

Words are those of `rlhf_envs.words`, by which texts without spaces have words too.
A completion is compared with the rest of its call and with the last completions of earlier calls, so that one
completion at a time is judged like many at once. A text too short for an n-gram earns nothing: silence is no diversity.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.rewards.base import Reward
from rlhf_envs.rewards.shaping import whole_number
from rlhf_envs.rewards.state import is_frozen
from rlhf_envs.words import ngrams, split_words

__all__ = ["AgainstOthers", "DistinctNgrams", "Novelty", "SelfBleuDiversity"]

SMALL = 0.1  # matches counted where there is none: "method 1" of Chen & Cherry 2014, as self-BLEU is usually computed


class AgainstOthers(Reward):
    """Compare completions with each other and with completions of earlier calls; a subclass implements `compare`.

    The memory is part of an environment's state, so that a resumed run goes on exactly. Evaluations read it and add
    nothing.

    Args:
        n: words per n-gram.
        memory: how many completions of earlier calls are remembered; 0 for none.
    """

    def __init__(self, n: int, memory: int) -> None:
        self.n = whole_number("n", n)
        self._memory: deque[str] = deque(maxlen=whole_number("memory", memory, least=0))

    @abstractmethod
    def compare(self, completions: Sequence[str], memory: Sequence[str]) -> np.ndarray:
        """Return the scores of n completions, (n,), against each other and the remembered ones."""

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> np.ndarray:
        """Return the scores, (n,) from 0 to 1, and remember the completions unless rewards are frozen."""
        scores = self.compare(completions, list(self._memory))
        if not is_frozen():
            self._memory.extend(completions)
        return scores

    def get_state(self) -> dict[str, Any]:
        """Return the remembered completions, oldest first."""
        return {"memory": list(self._memory)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the remembered completions that `get_state` gave."""
        self._memory = deque(state["memory"], maxlen=self._memory.maxlen)


class DistinctNgrams(AgainstOthers):
    """Score how rare a completion's n-grams are. An n-gram that occurs k times among all texts scores 1/k.

    A completion scores the mean over its n-grams. This splits distinct-n (Li et al. 2016) among the completions:
    without a memory, the mean over a call, weighted by numbers of n-grams, is the distinct-n of its texts.

    Args:
        n: words per n-gram.
        memory: completions of earlier calls whose n-grams are counted too.
    """

    name = "distinct-ngrams"

    def __init__(self, n: int = 2, memory: int = 64) -> None:
        super().__init__(n, memory)

    def compare(self, completions: Sequence[str], memory: Sequence[str]) -> np.ndarray:
        """Return each completion's mean of 1/k over its n-grams, shape (n,)."""
        texts = [ngrams(text, self.n) for text in completions]
        counts = Counter(gram for text in [*texts, *(ngrams(old, self.n) for old in memory)] for gram in text)
        return np.array([sum(1 / counts[gram] for gram in text) / max(len(text), 1) for text in texts], dtype=float)


class Novelty(AgainstOthers):
    """Score 1 minus the largest Jaccard index of a completion's n-grams with another completion's n-grams.

    Novelty search (Lehman & Stanley 2011) with one neighbour, by words; curiosity-driven red-teaming (Hong et al. 2024)
    has the same with embeddings.

    Args:
        n: words per n-gram.
        memory: completions of earlier calls to compare with.
    """

    name = "novelty"

    def __init__(self, n: int = 2, memory: int = 256) -> None:
        super().__init__(n, memory)

    def compare(self, completions: Sequence[str], memory: Sequence[str]) -> np.ndarray:
        """Return 1 minus the largest similarity with another completion, (n,)."""
        texts = [set(ngrams(text, self.n)) for text in [*completions, *memory]]
        scores = np.zeros(len(completions))
        for i in range(len(completions)):
            if texts[i]:
                nearest = max((_jaccard(texts[i], other) for j, other in enumerate(texts) if j != i), default=0.0)
                scores[i] = 1 - nearest
        return scores


def _jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


class SelfBleuDiversity(AgainstOthers):
    """Score 1 minus self-BLEU (Zhu et al. 2018): the smoothed BLEU of a completion with all others as references.

    Departure: a text of fewer than n words is compared up to its own length, else the shortest texts would look the
    most diverse.

    Args:
        n: the longest n-gram.
        memory: completions of earlier calls among the references.
    """

    name = "self-bleu-diversity"

    def __init__(self, n: int = 4, memory: int = 64) -> None:
        super().__init__(n, memory)

    def compare(self, completions: Sequence[str], memory: Sequence[str]) -> np.ndarray:
        """Return 1 minus BLEU, (n,); 1 where there is nothing to compare with."""
        texts = [*completions, *memory]
        lengths = [len(split_words(text)) for text in texts]
        counts = [[Counter(ngrams(text, k)) for text in texts] for k in range(1, self.n + 1)]
        most = [_most_elsewhere(of_order) for of_order in counts]
        scores = np.zeros(len(completions))
        for i, length in enumerate(lengths[: len(completions)]):
            if length:
                matches = [_matches(counts[k][i], most[k], i) for k in range(min(self.n, length))]
                scores[i] = 1 - _bleu(matches, length, lengths[:i] + lengths[i + 1 :])
        return scores


Most = dict[tuple[str, ...], tuple[int, int, int]]


def _most_elsewhere(counts: Sequence[Counter[tuple[str, ...]]]) -> Most:
    """Return for every n-gram its highest count in a text, which text that is, and the highest count in any other.

    So all completions are scored against all others in one pass; a library's BLEU would take one pass per completion.
    """
    most: Most = {}
    for i, of_text in enumerate(counts):
        for gram, count in of_text.items():
            first, owner, second = most.get(gram, (0, -1, 0))
            most[gram] = (count, i, first) if count > first else (first, owner, max(second, count))
    return most


def _matches(counts: Counter[tuple[str, ...]], most: Most, i: int) -> int:
    """Count the n-grams of text i that are matched, each at most as often as it occurs in one other text."""
    return sum(min(n, most[gram][2 if most[gram][1] == i else 0]) for gram, n in counts.items())


def _bleu(matches: Sequence[int], length: int, others: Sequence[int]) -> float:
    """Return BLEU (Papineni et al. 2002) by the matches of every order, the text's length and the others' lengths."""
    if not others or matches[0] == 0:
        return 0.0
    closest = min(others, key=lambda other: (abs(other - length), other))
    brevity = min(0.0, 1 - closest / length)
    precisions = [max(matched, SMALL) / (length - k) for k, matched in enumerate(matches)]
    return math.exp(brevity + sum(map(math.log, precisions)) / len(precisions))
