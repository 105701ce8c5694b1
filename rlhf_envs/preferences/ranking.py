"""Scores of items from who won against whom: Bradley-Terry, and with annotators who do not always look.

Sources: Bradley and Terry, 1952 (https://doi.org/10.2307/2334029); Bugakova et al., 2019
(https://arxiv.org/abs/1906.03711), as in crowd-kit. Ours: weak priors, so that an item that never lost has a finite
score and an annotator with one answer is not judged by it; and the gradient (see `_noisy_model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .votes import Comparison, crowdkit

if TYPE_CHECKING:
    from crowdkit.aggregation import NoisyBradleyTerry

__all__ = ["Ranking", "bradley_terry", "noisy_bradley_terry"]

LOOKED, CLICKED = 3.0, 1.0  # pseudo-answers with which every annotator starts


class Ranking(NamedTuple):
    """Scores of compared items."""

    scores: dict[Any, float]  # item -> log strength; the sigmoid of a difference is the probability to win
    reliability: dict[str, float]  # annotator -> share of the answers given after looking, 0 to 1


def bradley_terry(comparisons: Sequence[Comparison], n_iter: int = 500) -> Ranking:
    """Score items by who won against whom, all annotators counting the same.

    Every item also won and lost once against an imagined one of score 0, so that all scores are finite and comparable.
    The matrix of wins is dense: for some thousands of items at most.

    Args:
        n_iter: rounds of minorisation and maximisation (Hunter, 2004), all of which are made.

    Raises:
        ValueError: there is no comparison, or the winner of one is not one of two different sides.
        ImportError: crowd-kit is not installed.
    """
    codes = _codes(comparisons)
    imagined = len(codes)
    rows = [(codes[c.left], codes[c.right], codes[c.winner]) for c in comparisons]
    rows += [(code, imagined, winner) for code in codes.values() for winner in (code, imagined)]
    with crowdkit():
        import pandas as pd
        from crowdkit.aggregation import BradleyTerry

        data = pd.DataFrame(rows, columns=["left", "right", "label"])
        # crowd-kit 1.4.2 compares an array with itself and stops at its second round, unless the tolerance is negative.
        strengths = BradleyTerry(n_iter, tol=-1.0).fit_predict(data)
    logs = np.log(strengths.reindex(range(imagined + 1)).to_numpy(float))
    scores = {item: float(logs[code] - logs[imagined]) for item, code in codes.items()}
    return Ranking(scores, {c.annotator: 1.0 for c in comparisons})


def noisy_bradley_terry(comparisons: Sequence[Comparison], n_iter: int = 200, *, seed: int = 0) -> Ranking:
    """Score items by who won against whom, where every annotator looks only at a share of the pairs.

    At the others they click, with a liking for one side that is theirs. An item's prior is one win and one loss
    against an imagined one of score 0, an annotator's three answers with a look and one without.

    Args:
        n_iter: at most so many steps of L-BFGS.
        seed: of the point where it starts.

    Raises:
        ValueError: as in `bradley_terry`.
        ImportError: crowd-kit is not installed.
    """
    codes = _codes(comparisons)
    rows = [(c.annotator, codes[c.left], codes[c.right], codes[c.winner]) for c in comparisons]
    with crowdkit():
        import pandas as pd

        data = pd.DataFrame(rows, columns=["worker", "left", "right", "label"])
        state = np.random.get_state()  # crowd-kit seeds numpy's global generator
        try:
            model = _noisy_model(n_iter, seed).fit(data)
        finally:
            np.random.set_state(state)
    strengths = model.scores_.reindex(range(len(codes))).to_numpy(float)
    logits = np.log(strengths) - np.log1p(-strengths)
    scores = {item: float(logits[code]) for item, code in codes.items()}
    return Ranking(scores, {str(name): float(skill) for name, skill in model.skills_.items()})


def _codes(comparisons: Sequence[Comparison]) -> dict[Any, int]:
    if not comparisons:
        raise ValueError("no comparisons to score items by: label some pairs first")
    for comparison in comparisons:
        if comparison.left == comparison.right or comparison.winner not in (comparison.left, comparison.right):
            raise ValueError(f"{comparison}: the winner must be one of two different sides (leave ties out)")
    sides = (side for comparison in comparisons for side in (comparison.left, comparison.right))
    return {item: code for code, item in enumerate(dict.fromkeys(sides))}


def _noisy_model(n_iter: int, seed: int) -> NoisyBradleyTerry:
    """Return crowd-kit's model with priors and a gradient of its own.

    crowd-kit 1.4.2 writes an annotator's gradient over at every comparison, at the index of the one before, so that it
    hardly learns who looks; its regularisation enters loss and gradient with opposite signs.
    """
    from crowdkit.aggregation import NoisyBradleyTerry
    from scipy.special import expit, log_expit

    class WithPriors(NoisyBradleyTerry):
        # x holds crowd-kit's unused 0, item scores (from 1), side likings and skills, all as logits.
        @staticmethod
        def _compute_log_likelihood(
            x: np.ndarray, np_data: np.ndarray, np_workers: np.ndarray, labels: int, workers: int, _: float
        ) -> float:
            scores, liking, skill = np.split(x[1:], [labels, labels + workers])
            sign = np.where(np_data[:, 0] == np_data[:, 2], 1.0, -1.0)
            looks = expit(skill[np_workers])
            by_look = expit(sign * (scores[np_data[:, 0] - 1] - scores[np_data[:, 1] - 1]))
            by_click = expit(sign * liking[np_workers])
            likelihood = np.log(looks * by_look + (1 - looks) * by_click).sum()
            prior = sum((log_expit(z) + log_expit(-z)).sum() for z in (scores, liking))
            prior += (LOOKED * log_expit(skill) + CLICKED * log_expit(-skill)).sum()
            return -float(likelihood + prior)

        @staticmethod
        def _compute_gradient(
            x: np.ndarray, np_data: np.ndarray, np_workers: np.ndarray, labels: int, workers: int, _: float
        ) -> np.ndarray:
            scores, liking, skill = np.split(x[1:], [labels, labels + workers])
            left, right = np_data[:, 0] - 1, np_data[:, 1] - 1
            sign = np.where(np_data[:, 0] == np_data[:, 2], 1.0, -1.0)
            looks = expit(skill[np_workers])
            by_look, by_click = expit(sign * (scores[left] - scores[right])), expit(sign * liking[np_workers])
            chance = looks * by_look + (1 - looks) * by_click  # (comparisons,) of what was answered
            d_score = looks * sign * by_look * (1 - by_look) / chance
            d_liking = (1 - looks) * sign * by_click * (1 - by_click) / chance
            d_skill = (by_look - by_click) * looks * (1 - looks) / chance
            gradient = np.zeros_like(x)
            g_scores, g_liking, g_skill = np.split(gradient[1:], [labels, labels + workers])  # views
            g_scores += np.bincount(left, d_score, labels) - np.bincount(right, d_score, labels) + 1 - 2 * expit(scores)
            g_liking += np.bincount(np_workers, d_liking, workers) + 1 - 2 * expit(liking)
            g_skill += np.bincount(np_workers, d_skill, workers) + LOOKED - (LOOKED + CLICKED) * expit(skill)
            return -gradient

    return WithPriors(n_iter, tol=1e-10, random_state=seed)
