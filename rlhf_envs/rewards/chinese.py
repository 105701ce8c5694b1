"""Score Chinese reviews: the reward "chinese-reward", and "chinese-judge", which agents never train against.

The two are apart in what they are and in what they learned from. The reward is discriminative: logistic regression on
n-grams of characters, from the training split. The judge is generative: it compares how probable a text is in
favourable and in unfavourable reviews, and asks whether it is written at all, from other texts and other kinds of them.
`scripts/models/chinese.py` fits both. NumPy alone scores them.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.datasets.messages import Prompt, in_role_lines
from rlhf_envs.rewards.bag_of_words import BagOfWords
from rlhf_envs.rewards.base import Reward
from rlhf_envs.rewards.judge import read_judge
from rlhf_envs.rewards.ngrams import NgramModel
from rlhf_envs.rewards.scores import Columns

__all__ = ["FEATURES", "ChineseJudge", "ChineseReward", "as_characters", "chinese_judge", "chinese_reward", "fold"]

LONGEST = 3  # characters of a feature of the reward
FEATURES = ("order", "worst stretch", "end", "repeated")
STRETCH = 8  # characters
REPLACED = "\ufffd"  # what tokens that are no whole character are decoded to
MADE_BY = "scripts/models/chinese.py"


def fold(text: str) -> str:
    """Return a text without differences in case, width and spaces: "ＯＫ， 好" is "ok,好"."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


def as_characters(text: str) -> str:
    """Return a folded text with a space between all characters, so that each is a word to `NgramModel`."""
    return " ".join(fold(text))


class ChineseReward(BagOfWords):
    """Score how favourable the review `prompt + completion` is: 0 on average, with a standard deviation of 1.

    The features are 1 to 3 neighbouring characters of the folded text, weighed as in `BagOfWords`. So
    `sklearn.feature_extraction.text.TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)` has them.
    The score is the log-odds, over their standard deviation on whole reviews of the training split, which `coef` and
    `intercept` contain. A text of no known feature, such as an empty one, has the score of the intercept.
    """

    name = "chinese-reward"
    made_by = MADE_BY

    def count_features(self, text: str) -> Counter[str]:
        """Return how often each feature is in a text."""
        folded = fold(text)
        return Counter(folded[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(folded) - n + 1))

    def score(self, prompts: Sequence[str], completions: Sequence[str], **columns: object) -> NDArray[np.float64]:
        """Score the texts, (n,) float64."""
        return self.logits([prompt + completion for prompt, completion in zip(prompts, completions, strict=True)])


class ChineseJudge(Reward):
    """Return meaning times language, within [0, 1], of the review `prompt + completion`.

    - meaning: the probability that the text is favourable, from how much more probable the trigram model of favourable
      reviews finds its characters than that of unfavourable ones, a character and in all;
    - language: the probability that it is written and not garbled, by a logistic regression on `language_features`.

    A text without characters scores 0, and so does one with a broken character, U+FFFD. `evaluate` also returns the
    components "chinese-judge_meaning" and "chinese-judge_language".

    Args:
        favourable, unfavourable: the trigram models of characters.
        meaning: weights (2,) of the difference of the log-probabilities a character and in all, and the intercept.
        language: weights (4,) of `FEATURES`, and the intercept.
    """

    name = "chinese-judge"

    def __init__(
        self,
        favourable: NgramModel,
        unfavourable: NgramModel,
        meaning: tuple[Sequence[float], float],
        language: tuple[Sequence[float], float],
    ) -> None:
        self.models = favourable, unfavourable
        (weights, self.meaning_intercept), (others, self.language_intercept) = meaning, language
        self.meaning_weights, self.language_weights = np.asarray(weights, float), np.asarray(others, float)
        if self.meaning_weights.shape != (2,) or self.language_weights.shape != (len(FEATURES),):
            raise ValueError(f"a judge needs 2 weights of its meaning and {len(FEATURES)} of its language")

    def as_texts(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> tuple[list[str], list[str]]:
        """Return the texts of prompts and completions, conversations in role lines."""
        return in_role_lines(prompts, completions)

    def score(self, prompts: Sequence[str], completions: Sequence[str], **columns: object) -> NDArray[np.float64]:
        """Score the texts, (n,) float64."""
        meaning, language = self._parts(prompts, completions)
        return meaning * language

    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Return the scores and their parts, (n,) float64 each."""
        meaning, language = self._parts(*self.as_texts(prompts, completions))
        names = self.name, f"{self.name}_meaning", f"{self.name}_language"
        return meaning * language, dict(zip(names, (meaning * language, meaning, language), strict=True))

    def _parts(self, prompts: Sequence[str], completions: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
        """Return meaning and language, (n,) float64 each."""
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        differences, features = judge_features(*self.models, texts)
        meaning = _sigmoid(differences @ self.meaning_weights + self.meaning_intercept)
        language = _sigmoid(np.nan_to_num(features) @ self.language_weights + self.language_intercept)
        written = ~np.isnan(features[:, 0]) & np.array([REPLACED not in text for text in texts], dtype=bool)
        return meaning, np.where(written, language, 0.0)

    def save(self, folder: str | Path) -> None:
        """Write the judge into a folder: `favourable/`, `unfavourable/` and `judge.json`."""
        folder = Path(folder)
        for name, model in zip(("favourable", "unfavourable"), self.models, strict=True):
            model.save(folder / name)
        found = {
            "meaning": {"weights": self.meaning_weights.tolist(), "intercept": self.meaning_intercept},
            "language": {"weights": self.language_weights.tolist(), "intercept": self.language_intercept},
        }
        (folder / "judge.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, name: str = "chinese-judge") -> ChineseJudge:
        """Load a judge by the name of an embedded model or from a folder that `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no judge.
        """
        folder, found = read_judge(name, MADE_BY)
        meaning, language = ((found[part]["weights"], found[part]["intercept"]) for part in ("meaning", "language"))
        return cls(NgramModel.load(folder / "favourable"), NgramModel.load(folder / "unfavourable"), meaning, language)


def judge_features(
    favourable: NgramModel, unfavourable: NgramModel, texts: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the two models say of n texts.

    Returns:
        (n, 2) float64, by how much the favourable model finds the text more probable, a character and in all; and
        (n, 4) float64, the `language_features`. Rows of texts without characters are 0 and NaN.
    """
    spaced = [as_characters(text) for text in texts]
    differences, features = np.zeros((len(texts), 2)), np.full((len(texts), len(FEATURES)), np.nan)
    for i, (good, bad) in enumerate(zip(favourable.score(spaced), unfavourable.score(spaced), strict=True)):
        if len(good.log_probs):
            gap = good.log_probs - bad.log_probs
            differences[i] = gap.mean(), gap.sum() / 10
            gains = np.maximum(good.log_probs - good.frequencies, bad.log_probs - bad.frequencies)
            features[i] = language_features(gains, max(good.end, bad.end), fold(texts[i]))
    return differences, features


def language_features(gains: NDArray[np.float64], end: float, folded: str) -> NDArray[np.float64]:
    """Return what is wrong with the language of a text, (4,) float64: the lower, the worse.

    The gain of a character is `log p(character | two before) - log p(character)`, by the model that gives more.

    - order: the mean gain, times the square root of the number of characters over 5;
    - worst stretch: the least mean gain of 8 successive characters;
    - end: log p(the text may end here), at least -6;
    - repeated: the share of triples of characters that stood in the text before, negative.
    """
    gains = np.clip(gains, -6, 8)
    sums = np.cumsum([0.0, *gains])
    worst = ((sums[STRETCH:] - sums[:-STRETCH]) / STRETCH).min() if len(gains) >= STRETCH else gains.mean()
    triples = [folded[i : i + 3] for i in range(len(folded) - 2)]
    repeated = 1 - len({*triples}) / max(len(triples), 1)
    return np.array([gains.mean() * np.sqrt(len(gains)) / 5, min(worst, 1.0), max(end, -6.0), -repeated])


def chinese_reward() -> ChineseReward:
    """Load the embedded reward (the registry's "chinese-reward")."""
    return ChineseReward.load("chinese-reward")


def chinese_judge() -> ChineseJudge:
    """Load the embedded judge (the registry's "chinese-judge")."""
    return ChineseJudge.load()


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))
