"""Tell how well the words of a text follow each other, with a trigram language model.

The model is interpolated Kneser-Ney (Kneser and Ney, 1995; Chen and Goodman, 1998,
https://dash.harvard.edu/handle/1/25104739) with one discount. Departures: trigrams seen only once are dropped, which
gives their mass to the bigrams, and words seen fewer than `min_count` times are one unknown word.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NgramModel", "WordScores"]

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
START, UNKNOWN, END = 0, 1, 2  # the first three entries of the vocabulary
_STEPS = 16  # a stored log-probability is a multiple of 1/16 nat
_KEYS = ("bigrams", "contexts", "trigrams")
_VALUES = ("frequency", "unigram", "unigram_backoff", "bigram", "context_backoff", "trigram")


class WordScores(NamedTuple):
    """Hold the scores of one text of n words (a punctuation mark is a word).

    Attributes:
        ids: (n,) int64, the words.
        log_probs: (n,) float64, log p(word | the two words before it).
        frequencies: (n,) float64, log p(word) by its share of all words.
        end: log p(the text ends here | its last two words).
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    end: float


class NgramModel:
    """Score texts by a trigram model. Words are lower-cased.

    Args:
        words: the vocabulary, (V,), after the marks for start, unknown and end.
        arrays: log-probabilities and back-off weights in nats, and sorted keys. A bigram (a, b) has the key
            `a * V + b`; `contexts` are such keys too. A trigram (a, b, c) has the key `(a * V + b) * V + c`.
    """

    def __init__(self, words: Sequence[str], arrays: Mapping[str, NDArray]) -> None:
        self.words = list(words)
        self.index = {word: i for i, word in enumerate(self.words)}
        self.arrays: dict[str, NDArray[Any]] = {name: np.asarray(arrays[name], np.int64) for name in _KEYS}
        self.arrays |= {name: np.asarray(arrays[name], np.float64) for name in _VALUES}

    @classmethod
    def fit(cls, texts: Sequence[str], min_count: int = 3, min_trigram: int = 2, discount: float = 0.8) -> NgramModel:
        """Count the n-grams of texts and smooth them."""
        split = [_WORD.findall(text.lower()) for text in texts]
        counts = Counter(word for words in split for word in words)
        vocabulary = ["<start>", "<unknown>", "<end>", *(w for w, n in counts.most_common() if n >= min_count)]
        index, size = {word: i for i, word in enumerate(vocabulary)}, len(vocabulary)
        first, second, third = _windows([[index.get(word, UNKNOWN) for word in words] for words in split])
        trigrams, n_trigrams = np.unique((first * size + second) * size + third, return_counts=True)
        # Each bigram counts once per word before it, each word once per word before it: Kneser-Ney's continuations.
        bigrams, n_bigrams = np.unique(trigrams % (size * size), return_counts=True)
        n_unigrams = np.bincount(bigrams % size, minlength=size) + 0.1  # so that every word can follow any other
        unigram = n_unigrams / n_unigrams.sum()
        total = np.bincount(bigrams // size, weights=n_bigrams, minlength=size)
        kept = np.bincount(bigrams // size, weights=n_bigrams - discount, minlength=size)
        unigram_backoff = np.where(total > 0, 1 - kept / np.maximum(total, 1), 1)
        bigram = (n_bigrams - discount) / total[bigrams // size]
        bigram += unigram_backoff[bigrams // size] * unigram[bigrams % size]
        contexts, inverse = np.unique(trigrams // size, return_inverse=True)
        total = np.bincount(inverse, weights=n_trigrams)
        discounted = np.where(n_trigrams >= min_trigram, n_trigrams - discount, 0)
        context_backoff = 1 - np.bincount(inverse, weights=discounted) / total
        trigram = discounted / total[inverse]
        trigram += context_backoff[inverse] * bigram[np.searchsorted(bigrams, trigrams % (size * size))]
        seen, followed = n_trigrams >= min_trigram, context_backoff < 1
        frequency = np.bincount(third, minlength=size) + 0.5
        return cls(
            vocabulary,
            {
                "bigrams": bigrams,
                "contexts": contexts[followed],
                "trigrams": trigrams[seen],
                "frequency": np.log(frequency / frequency.sum()),
                "unigram": np.log(unigram),
                "unigram_backoff": np.log(unigram_backoff),
                "bigram": np.log(bigram),
                "context_backoff": np.log(context_backoff[followed]),
                "trigram": np.log(trigram[seen]),
            },
        )

    def score(self, texts: Sequence[str]) -> list[WordScores]:
        """Score the words of every text."""
        rows = [[self.index.get(word, UNKNOWN) for word in _WORD.findall(text.lower())] for text in texts]
        if not rows:
            return []
        first, second, third = _windows(rows)
        log_probs, frequencies = self._log_probs(first, second, third), self.arrays["frequency"][third]
        ends = np.cumsum([len(row) + 1 for row in rows])[:-1]
        parts = (np.split(values, ends) for values in (third, log_probs, frequencies))
        return [
            WordScores(ids[:-1], logs[:-1], shares[:-1], float(logs[-1]))
            for ids, logs, shares in zip(*parts, strict=True)
        ]

    def _log_probs(
        self, first: NDArray[np.int64], second: NDArray[np.int64], third: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return log p(third | first, second), elementwise."""
        arrays, size = self.arrays, len(self.words)
        backed_off = arrays["unigram_backoff"][second] + arrays["unigram"][third]
        bigram = self._look_up("bigrams", "bigram", second * size + third, backed_off)
        backoff = self._look_up("contexts", "context_backoff", first * size + second, np.zeros(len(first)))
        return self._look_up("trigrams", "trigram", (first * size + second) * size + third, backoff + bigram)

    def _look_up(
        self, keys: str, values: str, wanted: NDArray[np.int64], default: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the values of the wanted keys, and the default of the keys that are not there."""
        there = self.arrays[keys]
        places = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
        return np.where(there[places] == wanted, self.arrays[values][places], default)

    def save(self, folder: str | Path) -> None:
        """Write `ngrams.npz` and `words.json`.

        Keys are written as differences, each byte in a row of its own, shape (8, keys), since that compresses best.
        Log-probabilities are written in steps of 1/16 nat.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        steps = {name: np.diff(self.arrays[name], prepend=0).astype("<i8") for name in _KEYS}
        keys = {name: np.ascontiguousarray(step.view(np.uint8).reshape(-1, 8).T) for name, step in steps.items()}
        values = {name: np.clip(np.round(-self.arrays[name] * _STEPS), 0, 255).astype(np.uint8) for name in _VALUES}
        np.savez_compressed(folder / "ngrams.npz", **keys, **values)  # type: ignore[arg-type]
        text = json.dumps(self.words, ensure_ascii=False, separators=(",", ":"))
        (folder / "words.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> NgramModel:
        """Load a model that `save` wrote."""
        words = json.loads((Path(folder) / "words.json").read_text(encoding="utf-8"))
        with np.load(Path(folder) / "ngrams.npz", allow_pickle=False) as stored:
            arrays = {name: np.cumsum(np.ascontiguousarray(stored[name].T).view("<i8")) for name in _KEYS}
            arrays |= {name: stored[name] / -_STEPS for name in _VALUES}
        return cls(words, arrays)


def _windows(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return every word of the rows, and the end of each, after the two words before it; two starts precede a row."""
    flat = np.array([i for row in rows for i in (START, START, *row, END)], dtype=np.int64)
    first, second, third = flat[:-2], flat[1:-1], flat[2:]
    inside = third != START
    return first[inside], second[inside], third[inside]
