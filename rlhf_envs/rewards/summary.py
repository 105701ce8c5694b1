"""Score one-line summaries by a preference model that learned from the synopses of Debian packages.

It is a Bradley-Terry model (Bradley and Terry, 1952), linear in the features of `summary_features`, their squares and
their products. `scripts/models/summary_reward.py` fits it. NumPy alone scores it. Unlike a neural reward model it is
small and fast; it knows words, not meanings, and English alone.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.models import resolve
from rlhf_envs.overlap import FUNCTION_WORDS, overlap_words
from rlhf_envs.rewards.base import Reward
from rlhf_envs.rewards.ngrams import NgramModel, WordScores

__all__ = ["FEATURES", "SummaryReward", "expand", "summary_features", "summary_reward"]

FEATURES = (
    "support", "loose_support", "coverage", "position", "copied_pairs", "longest_copy", "opens_as_text",
    "mean_log_prob", "lowest_log_prob", "mean_gain", "first_log_prob", "end_log_prob", "length", "words",
    "repeated", "function_words", "full_stop", "line_break", "empty",
)  # fmt: skip
FOLDER = "summary-reward"
BOUND = 4.0  # standard deviations beyond which a feature counts no further
HIGHEST = 2.0  # of a score
STEM = 5  # characters by which words of one family are told


class SummaryReward(Reward):
    """Score how much a text reads like a maintainer's one-line summary of the description before it.

    Before it is bent, the score has mean 0 and standard deviation 1 over synopses of the bundled training split. It is
    at most 2, since beyond it would pay for the extremes of single features, and below -1 it falls as a logarithm does,
    so that bad summaries still differ and none outweighs all others.

    Args:
        language: the trigram model of synopses.
        idf: the inverse document frequency of words of descriptions. The greatest is that of unknown words.
        mean, scale: the mean and the standard deviation of each feature, (n_features,).
        coef: the weight of each expanded feature, see `expand`.
        shift, gain: what brings the scores to mean 0 and standard deviation 1.
    """

    name = "summary-reward"

    def __init__(
        self,
        language: NgramModel,
        idf: Mapping[str, float],
        mean: NDArray[np.floating],
        scale: NDArray[np.floating],
        coef: NDArray[np.floating],
        shift: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        self.language, self.idf, self.rare = language, dict(idf), max(idf.values())
        self.mean, self.scale, self.coef = (np.asarray(values, dtype=np.float64) for values in (mean, scale, coef))
        self.shift, self.gain = float(shift), float(gain)

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], text: Sequence[str] | None = None, **columns: object
    ) -> NDArray[np.float64]:
        """Score the summaries, (n,) float64. The description is the column `text`, or without one the prompt."""
        return bend(self.shift + self.gain * self.raw(prompts if text is None else text, completions))

    def raw(self, texts: Sequence[str], summaries: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-odds of the preference model, up to a constant, (n,) float64."""
        features = summary_features(self.language, self.idf, self.rare, texts, summaries)
        return expand((features - self.mean) / self.scale) @ self.coef

    def save(self, folder: str | Path) -> None:
        """Write `weights.npz`, `idf.json` and the files of the trigram model."""
        self.language.save(folder)
        arrays = {name: getattr(self, name).astype(np.float32) for name in ("mean", "scale", "coef")}
        np.savez_compressed(Path(folder) / "weights.npz", **arrays, shift=self.shift, gain=self.gain)
        text = json.dumps(self.idf, ensure_ascii=False, separators=(",", ":"))
        (Path(folder) / "idf.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, name: str = FOLDER) -> SummaryReward:
        """Load a model that `save` wrote, by the name of an embedded model or from a folder."""
        folder = Path(resolve(name))
        idf = json.loads((folder / "idf.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz", allow_pickle=False) as w:
            scales = float(w["shift"]), float(w["gain"])
            return cls(NgramModel.load(folder), idf, w["mean"], w["scale"], w["coef"], *scales)


def summary_reward() -> SummaryReward:
    """Load the embedded model (the registry's "summary-reward")."""
    return SummaryReward.load()


def bend(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores of at most `HIGHEST`; below -1 they are `-1 - ln(-score)`, which has the same value and slope."""
    low = -1 - np.log(np.maximum(-scores, 1.0))
    return np.where(scores < -1, low, np.minimum(scores, HIGHEST))


def expand(features: NDArray[np.float64], bound: float = BOUND) -> NDArray[np.float64]:
    """Return standardised features within `bound`, with their squares and products, (n, m + m (m + 1) / 2)."""
    bounded = np.clip(features, -bound, bound)
    first, second = np.triu_indices(bounded.shape[1])
    return np.concatenate([bounded, bounded[:, first] * bounded[:, second]], axis=1)


def summary_features(
    language: NgramModel, idf: Mapping[str, float], rare: float, texts: Sequence[str], summaries: Sequence[str]
) -> NDArray[np.float64]:
    """Return what the preference model knows of n summaries, (n, len(FEATURES)) float64, in the order of `FEATURES`."""
    scored = language.score([summary.strip() for summary in summaries])
    rows = [
        [*overlap_features(idf, rare, text, summary), *language_features(words), *form_features(summary)]
        for text, summary, words in zip(texts, summaries, scored, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))


def overlap_features(idf: Mapping[str, float], rare: float, text: str, summary: str) -> list[float]:
    """Return how much of a summary stands in the text and how much of the text in it, and how much is copied."""
    source, given = overlap_words(text), overlap_words(summary)
    weight = {word: idf.get(word, rare) for word in {*source, *given} if word not in FUNCTION_WORDS}
    own, there = {word for word in given if word in weight}, {word for word in source if word in weight}
    both, stems = own & there, {word[:STEM] for word in there}
    total = sum(weight[word] for word in own) or 1.0
    loose = [word for word in own if word[:STEM] in stems]
    places = [source.index(word) / len(source) for word in both]
    pairs, known = list(itertools.pairwise(given)), {*itertools.pairwise(source)}
    return [
        sum(weight[word] for word in both) / total,
        sum(weight[word] for word in loose) / total,
        sum(weight[word] for word in both) / (sum(weight[word] for word in there) or 1.0),
        float(np.mean(places)) if places else 0.5,
        sum(pair in known for pair in pairs) / max(len(pairs), 1),
        longest_copy(source, given) / max(len(given), 1),
        float(len(given) > 1 and given[:2] == source[:2]),
    ]


def longest_copy(source: Sequence[str], given: Sequence[str]) -> int:
    """Return the length of the longest run of words that both have."""
    longest, row = 0, [0] * (len(source) + 1)
    for word in given:
        row = [0, *(row[i] + 1 if other == word else 0 for i, other in enumerate(source))]
        longest = max(longest, *row)
    return longest


def language_features(words: WordScores) -> list[float]:
    """Return how well the words follow each other as those of synopses do, and how many there are."""
    n = len(words.log_probs)
    if not n:
        return [-10.0, -10.0, 0.0, -10.0, words.end, 0.0, 0.0]
    gain = float((words.log_probs - words.frequencies).mean())
    logs = words.log_probs
    return [float(logs.mean()), float(logs.min()), gain, float(logs[0]), words.end, float(np.log(n)), float(n)]


def form_features(summary: str) -> list[float]:
    """Return the shares of repeated and of function words, and what a synopsis does not have."""
    words, text = overlap_words(summary), summary.strip()
    counts = Counter(word for word in words if word not in FUNCTION_WORDS)
    repeated = 1 - len(counts) / counts.total() if counts else 0.0
    function = 1 - counts.total() / len(words) if words else 1.0
    return [repeated, function, float(text.endswith(".")), float("\n" in text), float(not words)]
