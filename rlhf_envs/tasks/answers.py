"""Compare short answers with right ones, as SQuAD does, and tell an answer from an abstention."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

__all__ = ["ABSTENTION", "calibration_error", "exact_match", "is_abstention", "share_found", "squad_normal", "token_f1"]

ABSTENTION = "I don't know"
ABSTENTIONS = ("i dont know", "i do not know", "dont know", "unknown", "not known", "no answer", "unanswerable")
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation + "’")
BINS = 10


def squad_normal(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and further spaces, as SQuAD's evaluation has it."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def is_abstention(text: str) -> bool:
    """Return whether an answer says nothing, or only that one does not know."""
    return squad_normal(text) in ("", *ABSTENTIONS)


def exact_match(text: str, answers: Sequence[str]) -> float:
    """Return 1 if an answer is one of the right ones after SQuAD's normalisation, else 0.

    All abstentions are one answer: where the right answer is one, any of them is right.
    """
    if is_abstention(text):
        return float(any(is_abstention(answer) for answer in answers))
    return float(any(squad_normal(text) == squad_normal(answer) for answer in answers))


def token_f1(text: str, answers: Sequence[str]) -> float:
    """Return the F1 score of the words of an answer, with the right answer for which it is highest.

    As SQuAD 2.0 has it (https://arxiv.org/abs/1806.03822): an abstention is equal to an abstention alone.
    """
    return max((_f1(text, answer) for answer in answers), default=0.0)


def _f1(text: str, answer: str) -> float:
    if is_abstention(text) or is_abstention(answer):
        return float(is_abstention(text) and is_abstention(answer))
    said, right = squad_normal(text).split(), squad_normal(answer).split()
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right))


def share_found(text: str, parts: Sequence[str]) -> float:
    """Return the share of the parts of an answer that a text has as whole words, after SQuAD's normalisation.

    It is FanOutQA's loose accuracy (Zhu et al., 2024, https://arxiv.org/abs/2402.14116), which compares lemmas there;
    words are compared as they are here. A part that is normalised to nothing, such as "the", counts as it is written.
    """
    normal, plain = f" {squad_normal(text)} ", text.lower()
    found = [f" {squad_normal(part)} " in normal if squad_normal(part) else part.lower() in plain for part in parts]
    return sum(found) / len(found)


def calibration_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error of n answers over 10 bins of equal width; NaN for none.

    Guo et al. 2017 (https://arxiv.org/abs/1706.04599), equation 3.

    Args:
        probabilities: (n,) what the answers were given.
        right: (n,) whether they are right.
    """
    if not len(right):
        return float("nan")
    bins = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = [abs((right - probabilities)[bins == one].sum()) for one in range(BINS)]
    return float(np.sum(gaps) / len(right))
