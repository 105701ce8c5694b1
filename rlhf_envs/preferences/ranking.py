"""Score items by who won against whom, also where some annotators do not always look.

Sources: Bradley and Terry, 1952 (https://doi.org/10.2307/2334029); Bugakova et al., 2019
(https://arxiv.org/abs/1906.03711) for annotators who click. Departure: weak priors. An item that never lost gets a
finite score, and an annotator with one answer is not judged by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from .aggregation import PairVote

__all__ = ["Ranking", "bradley_terry", "noisy_bradley_terry"]

LOOKED, CLICKED = 3.0, 1.0  # pseudo-answers with which every annotator starts


class Ranking(NamedTuple):
    """Hold the scores of compared items, and how reliable the annotators are."""

    scores: dict[Any, float]  # item -> log strength; the sigmoid of a difference is the probability to win
    reliability: dict[str, float]  # annotator -> share of the answers given after looking, 0 to 1


def bradley_terry(comparisons: Sequence[PairVote]) -> Ranking:
    """Score items by the Bradley-Terry model, all annotators counting the same.

    Every item also won and lost once against an imagined item of score 0, so that all scores are finite and comparable.

    Raises:
        ValueError: there is no comparison, or the winner of one is not one of two different sides.
        ImportError: choix is not installed.
    """
    try:
        import choix
    except ImportError as error:
        raise ImportError(f'ranking items needs choix ({error}): pip install "rlhf-envs[agreement]"') from error

    codes = _codes(comparisons)
    imagined = len(codes)
    wins = [(codes[c.winner], codes[c.right if c.winner == c.left else c.left]) for c in comparisons]
    wins += [pair for code in codes.values() for pair in ((code, imagined), (imagined, code))]
    strengths = choix.opt_pairwise(imagined + 1, wins, alpha=0.0, tol=1e-9)
    scores = {item: float(strengths[code] - strengths[imagined]) for item, code in codes.items()}
    return Ranking(scores, {c.annotator: 1.0 for c in comparisons})


def noisy_bradley_terry(comparisons: Sequence[PairVote], n_iter: int = 200, *, seed: int = 0) -> Ranking:
    """Score items where every annotator looks only at a share of the pairs.

    At the other pairs an annotator clicks, with a liking for one side that is their own. An item's prior is one win and
    one loss against an imagined item of score 0. An annotator's prior is three answers with a look and one without.

    Args:
        comparisons: at least one.
        n_iter: steps of L-BFGS, at most.
        seed: draws the point where the search starts.

    Raises:
        ValueError: as in `bradley_terry`.
    """
    codes = _codes(comparisons)
    names = {name: i for i, name in enumerate(dict.fromkeys(c.annotator for c in comparisons))}
    left, right, workers = np.array([(codes[c.left], codes[c.right], names[c.annotator]) for c in comparisons]).T
    sign = np.array([1.0 if c.winner == c.left else -1.0 for c in comparisons])
    start = np.random.default_rng(seed).normal(scale=0.1, size=len(codes) + 2 * len(names))
    arguments = (left, right, sign, workers, len(codes), len(names))
    found = minimize(
        _noisy_loss, start, arguments, jac=True, method="L-BFGS-B", options={"maxiter": n_iter, "ftol": 1e-12}
    )
    scores, _, skill = np.split(found.x, [len(codes), len(codes) + len(names)])
    reliability = {name: float(expit(skill[i])) for name, i in names.items()}
    return Ranking({item: float(scores[code]) for item, code in codes.items()}, reliability)


def _noisy_loss(
    x: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    sign: np.ndarray,
    workers: np.ndarray,
    n_items: int,
    n_workers: int,
) -> tuple[float, np.ndarray]:
    """Return minus the log posterior of the noisy model, and its gradient.

    Args:
        x: the items' scores, then each annotator's liking for the left side, then their skills; the last two as logits.
        left: items on the left, (comparisons,); `right` likewise.
        right: see above.
        sign: 1 where the left item won, -1 where the right one did, (comparisons,).
        workers: who answered, (comparisons,).
        n_items: how many items there are.
        n_workers: how many annotators there are.
    """
    scores, liking, skill = np.split(x, [n_items, n_items + n_workers])
    looks = expit(skill[workers])
    by_look, by_click = expit(sign * (scores[left] - scores[right])), expit(sign * liking[workers])
    chance = looks * by_look + (1 - looks) * by_click  # (comparisons,), of the answer that was given
    prior = sum((log_expit(z) + log_expit(-z)).sum() for z in (scores, liking))
    prior += (LOOKED * log_expit(skill) + CLICKED * log_expit(-skill)).sum()
    d_score = looks * sign * by_look * (1 - by_look) / chance
    d_liking = (1 - looks) * sign * by_click * (1 - by_click) / chance
    d_skill = (by_look - by_click) * looks * (1 - looks) / chance
    g_scores = np.bincount(left, d_score, n_items) - np.bincount(right, d_score, n_items) + 1 - 2 * expit(scores)
    g_liking = np.bincount(workers, d_liking, n_workers) + 1 - 2 * expit(liking)
    g_skill = np.bincount(workers, d_skill, n_workers) + LOOKED - (LOOKED + CLICKED) * expit(skill)
    return -float(np.log(chance).sum() + prior), -np.concatenate([g_scores, g_liking, g_skill])


def _codes(comparisons: Sequence[PairVote]) -> dict[Any, int]:
    """Return a number for every compared item."""
    if not comparisons:
        raise ValueError("no comparisons to score items by: label some pairs first")
    for comparison in comparisons:
        if comparison.left == comparison.right or comparison.winner not in (comparison.left, comparison.right):
            raise ValueError(f"{comparison}: the winner must be one of two different sides (leave ties out)")
    sides = (side for comparison in comparisons for side in (comparison.left, comparison.right))
    return {item: code for code, item in enumerate(dict.fromkeys(sides))}
