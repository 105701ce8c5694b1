"""Judge how probably a text is a positive review, by TF-IDF and logistic regression.

It is the part of "gold" that reads the meaning (see `rlhf_envs.rewards.judge`), and by itself the older judge
"gold-bow". It is stored as plain arrays and a word list. NumPy alone scores it, as scikit-learn would (a test holds the
two equal).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.datasets.messages import Prompt, in_role_lines
from rlhf_envs.models import resolve
from rlhf_envs.rewards.base import Reward

__all__ = ["BagOfWords", "gold_bow"]

_WORD = re.compile(r"(?u)\b\w\w+\b")


class BagOfWords(Reward):
    """Return the probability, in [0, 1], that `prompt + completion` is a positive review.

    The features are lower-cased words of two characters or more and pairs of neighbours, each weighing
    `(1 + ln tf) * idf`, scaled to length 1. This is what
    `sklearn.feature_extraction.text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)` computes.

    Args:
        vocabulary: the features, words and "word word" pairs, (n_features,).
        idf: the inverse document frequency of each, (n_features,).
        coef: the weight of each in the logistic regression, (n_features,).
        intercept: the intercept of the logistic regression.
    """

    name = "gold-bow"
    made_by = "scripts/models/gold/bag_of_words.py"

    def __init__(
        self, vocabulary: Sequence[str], idf: NDArray[np.floating], coef: NDArray[np.floating], intercept: float
    ) -> None:
        self.idf = np.asarray(idf, dtype=np.float64)
        self.coef = np.asarray(coef, dtype=np.float64)
        self.intercept = float(intercept)
        self.vocabulary = {feature: i for i, feature in enumerate(vocabulary)}
        n = len(vocabulary)
        if len(self.vocabulary) != n or self.idf.shape != (n,) or self.coef.shape != (n,):
            raise ValueError(
                f"a judge needs as many distinct features as idf and coef: {len(self.vocabulary)} distinct of {n}, "
                f"{self.idf.shape} and {self.coef.shape}"
            )

    def as_texts(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> tuple[list[str], list[str]]:
        """Return the texts of prompts and completions, conversations in role lines."""
        return in_role_lines(prompts, completions)

    def score(self, prompts: Sequence[str], completions: Sequence[str], **columns: object) -> NDArray[np.float64]:
        """Score the texts, (n,) float64."""
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return self.probabilities(texts)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Score whole texts, (n,) float64."""
        return 1.0 / (1.0 + np.exp(-self.logits(texts)))

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-odds that each text is positive, (n,) float64."""
        return np.array([self._logit(text) for text in texts], dtype=np.float64)

    def loads(self, words: Sequence[str]) -> NDArray[np.float64]:
        """Return how much opinion each word carries, (n,) float64 at least 0: `idf * |coef|`, 0 if it is unknown."""
        indices = [self.vocabulary.get(word) for word in words]
        return np.array([0.0 if i is None else self.idf[i] * abs(self.coef[i]) for i in indices], dtype=np.float64)

    def count_features(self, text: str) -> Counter[str]:
        """Return how often each feature is in a text, also those that are not in the vocabulary."""
        words = _WORD.findall(text.lower())
        counts = Counter(words)
        counts.update(map(" ".join, pairwise(words)))
        return counts

    def _logit(self, text: str) -> float:
        counts = self.count_features(text).items()
        found = [(index, count) for feature, count in counts if (index := self.vocabulary.get(feature)) is not None]
        if not found:
            return self.intercept
        indices, tf = np.array(found, dtype=np.int64).T
        weights = (1.0 + np.log(tf)) * self.idf[indices]  # (features found,)
        return float(weights @ self.coef[indices] / np.linalg.norm(weights)) + self.intercept

    def save(self, folder: str | Path) -> None:
        """Write `weights.npz` and `vocabulary.json` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            folder / "weights.npz",
            idf=self.idf.astype(np.float32),
            coef=self.coef.astype(np.float32),
            intercept=np.array(self.intercept),
        )
        text = json.dumps(list(self.vocabulary), ensure_ascii=False, separators=(",", ":"))
        (folder / "vocabulary.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, name: str = "gold-bow") -> Self:
        """Load a model by the name of an embedded one or from a folder that `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no such model.
        """
        folder = Path(resolve(name))
        for file in ("weights.npz", "vocabulary.json"):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder} holds no judge: {file} is missing ({cls.made_by} makes it)")
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            return cls(vocabulary, weights["idf"], weights["coef"], float(weights["intercept"]))


def gold_bow() -> BagOfWords:
    """Load the older embedded judge (the registry's "gold-bow")."""
    return BagOfWords.load()
