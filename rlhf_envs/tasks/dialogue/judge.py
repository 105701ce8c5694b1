"""Judge chats without the reward model: "dialogue-judge", which agents never train against.

It is linear in features of a turn and of what was said before it, their squares and their products, and was fitted to
chats of other people than the reward model (`scripts/models/dialogue/judge.py`). NumPy alone scores it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.models import resolve
from rlhf_envs.overlap import FUNCTION_WORDS, overlap_words
from rlhf_envs.rewards.ngrams import NgramModel, WordScores
from rlhf_envs.rewards.summary import expand

__all__ = ["FEATURES", "FOLDER", "DialogueJudge", "expand_features", "load_judge", "turn_features"]

FOLDER = "dialogue-judge"
LANGUAGE = ("mean_log_prob", "lowest_log_prob", "mean_gain", "lowest_gain", "first_log_prob", "end_log_prob", "length")
OVERLAP = ("shared", "shared_before", "copied_pairs", "own_pairs", "repeated", "function_words", "rarity")
ASKED = ("asked", "asked_what", "greeted", "parted", "asked_length")
ACTS = ("asks", "asks_what", "of_oneself", "of_you", "agrees", "greets", "parts", "laughs")
FEATURES = (*LANGUAGE, *OVERLAP, *ASKED, *ACTS)
BOUND = 3.0  # standard deviations beyond which a feature counts no further
LOWEST, HIGHEST = 1.0, 10.0  # of ratings

WHAT = {"what", "why", "how", "where", "when", "who", "which", "whats"}
GREETINGS = {"hi", "hey", "hello", "morning", "evening", "sup"}
PARTINGS = {"bye", "goodbye", "goodnight", "later", "luck"}
AGREEING = {"yes", "yeah", "yep", "yup", "no", "nope", "nah", "sure", "true", "same", "agree", "right", "ok", "okay"}
LAUGHING = {"haha", "hahaha", "hahahaha", "lol", "ha", "hah"}
ONESELF, YOU = {"i", "i'm", "im", "my", "me", "mine", "we", "our"}, {"you", "your", "yours", "u"}

Turn = tuple[Sequence[str], str]  # what was said before, the last by the other, and what was said then


class DialogueJudge:
    """Tell how probably a person said a turn, and how people would rate the chat.

    Args:
        language: the trigram model of turns.
        arrays: `mean` and `scale` of the features, (m,); `coef` of the expanded ones with `intercept`; the same of
            ratings, which the mean expanded features of a chat's turns give, as `rating_coef` and `rating_intercept`.
    """

    def __init__(self, language: NgramModel, arrays: dict[str, NDArray[np.float64]]) -> None:
        self.language, self.arrays = language, arrays

    def humanness(self, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Return how probably a person said each turn there, as against something else, (n,) float64 in [0, 1]."""
        return np.asarray(1 / (1 + np.exp(-self.log_odds(turns))))

    def log_odds(self, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Return the log-odds of `humanness`, (n,) float64."""
        return self.expanded(turns) @ self.arrays["coef"] + self.arrays["intercept"]

    def rating(self, turns: Sequence[Turn]) -> float:
        """Return the rating of a chat with these turns, in [1, 10]."""
        mean = self.expanded(turns).mean(0)
        return float(np.clip(mean @ self.arrays["rating_coef"] + self.arrays["rating_intercept"], LOWEST, HIGHEST))

    def expanded(self, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Return the standardised features of turns with their squares and products, (n, m + m (m + 1) / 2)."""
        return expand_features((turn_features(self.language, turns) - self.arrays["mean"]) / self.arrays["scale"])

    def save(self, folder: str | Path) -> None:
        """Write `weights.npz` and the files of the trigram model."""
        self.language.save(folder)
        arrays: dict[str, Any] = {name: np.float32(array) for name, array in self.arrays.items()}
        np.savez_compressed(Path(folder) / "weights.npz", **arrays)

    @classmethod
    def load(cls, name: str = FOLDER) -> DialogueJudge:
        """Load a judge that `save` wrote, by the name of an embedded model or from a folder."""
        folder = Path(resolve(name))
        with np.load(folder / "weights.npz", allow_pickle=False) as stored:
            return cls(NgramModel.load(folder), {key: stored[key].astype(np.float64) for key in stored})


@cache
def load_judge() -> DialogueJudge:
    """Return the embedded judge, loaded once."""
    return DialogueJudge.load()


def expand_features(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return standardised features within `BOUND`, with their squares and products, (n, m + m (m + 1) / 2)."""
    return expand(features, BOUND)


def turn_features(language: NgramModel, turns: Sequence[Turn]) -> NDArray[np.float64]:
    """Return the features of turns, (n, len(FEATURES)) float64, in the order of `FEATURES`."""
    scored = language.score([said.lower().strip() for _, said in turns])
    rows = [
        [*_language(words), *_overlap(before, said, words), *_asked(before[-1] if before else ""), *_acts(said)]
        for (before, said), words in zip(turns, scored, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))


def _language(words: WordScores) -> list[float]:
    """Return how well the words follow each other, and how many there are."""
    n, logs = len(words.log_probs), words.log_probs
    if not n:
        return [-10.0, -10.0, 0.0, -5.0, -10.0, words.end, 0.0]
    gains = logs - words.frequencies
    stretches = np.convolve(gains, np.ones(min(3, n)) / min(3, n), mode="valid")
    lowest = float(logs.min()), float(gains.mean()), float(stretches.min())
    return [float(logs.mean()), *lowest, float(logs[0]), words.end, float(np.log(n))]


def _overlap(before: Sequence[str], said: str, words: WordScores) -> list[float]:
    """Return how much of a turn was said before and by whom, how much it repeats, and how rare its words are."""
    given, texts = overlap_words(said), [overlap_words(text) for text in before]
    content = {word for word in given if word not in FUNCTION_WORDS}
    theirs, earlier = texts[-1] if texts else [], {word for text in texts[:-1] for word in text}
    pairs, own = [*itertools.pairwise(given)], {pair for text in texts[:-1] for pair in itertools.pairwise(text)}
    copied = {*itertools.pairwise(theirs)}
    counts, n = Counter(given), max(len(content), 1)
    return [
        len(content & {*theirs}) / n,
        len(content & earlier) / n,
        sum(pair in copied for pair in pairs) / max(len(pairs), 1),
        sum(pair in own for pair in pairs) / max(len(pairs), 1),
        1 - len(counts) / len(given) if given else 0.0,
        1 - len(content) / len(given) if given else 1.0,
        float(-words.frequencies.mean()) if len(words.frequencies) else 0.0,
    ]


def _asked(text: str) -> list[float]:
    """Return what the turn before does: whether it asks, asks what, greets, says good-bye, and its length."""
    words = text.lower().replace("?", " ").replace(",", " ").split()
    asks = float("?" in text)
    what = float(bool(WHAT & {*words}) and asks > 0)
    return [
        asks,
        what,
        float(bool(GREETINGS & {*words})),
        float(bool(PARTINGS & {*words})),
        float(np.log1p(len(words))),
    ]


def _acts(text: str) -> list[float]:
    """Return what the turn does, and of whom it speaks."""
    words = {word.strip(".,!?") for word in text.lower().split()}
    opened = {word.strip(".,!?") for word in text.lower().split()[:2]}
    asks = float("?" in text)
    return [
        asks,
        float(bool(WHAT & words) and asks > 0),
        float(bool(ONESELF & words)),
        float(bool(YOU & words)),
        float(bool(AGREEING & opened)),
        float(bool(GREETINGS & words)),
        float(bool(PARTINGS & words)),
        float(bool(LAUGHING & words)),
    ]
