"""Find spammers: annotators whose answers agree with the others' no more than random clicks would."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .aggregation import Vote, dawid_skene
from .ratings import Rating

__all__ = ["AnnotatorMetrics", "SpamReport", "find_spammers"]

MAX_ROUNDS = 30
MAX_SPREAD = 0.3  # standard deviation of honest annotators, as a share of how far their mean is above chance
PRIOR_ANNOTATORS = 10  # how much the expected share of spammers weighs


class AnnotatorMetrics(NamedTuple):
    """Hold how one annotator's answers agree with the others'."""

    n: int  # answers to items that others (who are no spammers) answered too
    agreement: float  # with the others: probability of the same vote, or correlation of ratings; nan if n is 0
    probability: float  # that the annotator chooses at random


class SpamReport(NamedTuple):
    """Hold the annotators found to be spammers, and how all annotators agree with the others."""

    spammers: set[str]
    metrics: dict[str, AnnotatorMetrics]


def find_spammers(
    answers: Sequence[Vote] | Sequence[Rating],
    *,
    min_answers: int = 10,
    prior: float = 0.1,
    threshold: float = 0.5,
) -> SpamReport:
    """Find annotators who answer without looking (or against their knowledge).

    Each annotator's answers are compared with the others' answers to the same items: votes with the others' answer by
    Dawid-Skene, ratings with the others' mean. In that mean an annotator weighs more who agrees with it and is unlikely
    to be a spammer. The agreements are a mixture of two kinds of annotators: spammers, who agree by chance, and honest
    ones, whose agreements are supposed to be about normal. The mixture is fitted by expectation maximisation. An
    annotator who agrees less than a spammer (or always says the opposite) counts as one.

    Args:
        answers: votes or ratings, not both.
        min_answers: an annotator who shares fewer items with others is never called a spammer.
        prior: the expected share of spammers, which weighs as much as ten annotators.
        threshold: the lowest probability at which an annotator is called a spammer.

    Returns:
        The spammers and everybody's metrics. An annotator who is alone is compared with nobody and never found.

    Raises:
        ValueError: there are no answers, they are not all votes or all ratings, or prior or threshold is not in (0, 1).
    """
    if not answers:
        raise ValueError("no answers to find spammers in: label some items first")
    if not (0 < prior < 1 and 0 < threshold < 1):
        raise ValueError(f"prior ({prior}) and threshold ({threshold}) must be between 0 and 1")
    votes = [answer for answer in answers if isinstance(answer, Vote)]
    ratings = [answer for answer in answers if isinstance(answer, Rating)]
    if len(answers) not in (len(votes), len(ratings)):
        kinds = ", ".join(sorted({type(answer).__name__ for answer in answers}))
        raise ValueError(f"answers are of type {kinds}: pass either Votes or Ratings, one kind per call")
    metrics = _of_votes(votes, prior) if votes else _of_ratings(ratings, prior)
    spammers = {name for name, f in metrics.items() if f.n >= min_answers and f.probability >= threshold}
    return SpamReport(spammers, metrics)


def _of_votes(votes: Sequence[Vote], prior: float) -> dict[str, AnnotatorMetrics]:
    compared = _compare_votes(votes)
    names = [name for name, (agreed, _) in compared.items() if agreed]
    n = np.array([len(compared[name][0]) for name in names])
    rates = np.array([np.mean(compared[name][0]) for name in names])
    chance = np.array([compared[name][1] for name in names])
    # An agreement of n votes varies by p (1 - p) / n; one more vote keeps that above 0 for who always agrees.
    smooth = (n * rates + chance) / (n + 1)
    probabilities = _spam_probabilities(rates, smooth * (1 - smooth) / n, chance, chance * (1 - chance) / n, prior)
    found = {
        name: AnnotatorMetrics(int(k), float(r), float(p))
        for name, k, r, p in zip(names, n, rates, probabilities, strict=True)
    }
    return {name: found.get(name, AnnotatorMetrics(0, float("nan"), prior)) for name in compared}


def _of_ratings(ratings: Sequence[Rating], prior: float) -> dict[str, AnnotatorMetrics]:
    own: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        own[rating.annotator].append(rating)
    weights = dict.fromkeys(own, 1.0)  # in the others' mean
    for _ in range(MAX_ROUNDS):
        compared = _compare_ratings(own, weights)
        metrics = {name: AnnotatorMetrics(len(pairs), _correlation(pairs), prior) for name, pairs in compared.items()}
        names = [name for name, f in metrics.items() if f.n > 3]
        if not names:
            break
        # Fisher's z: arctanh of a correlation of n pairs is about normal with variance 1 / (n - 3).
        z = np.arctanh(np.clip([metrics[name].agreement for name in names], -0.99, 0.99))
        noise = 1.0 / (np.array([metrics[name].n for name in names]) - 3)
        probabilities = _spam_probabilities(z, noise, np.zeros_like(z), noise, prior)
        before = dict(weights)
        for name, probability in zip(names, probabilities, strict=True):
            metrics[name] = metrics[name]._replace(probability=float(probability))
            # How much a rating with this correlation tells about the truth (Spearman's one-factor model).
            r = float(np.clip(metrics[name].agreement, 0.01, 0.95))
            weights[name] = max((1.0 - float(probability)) * r / (1 - r**2), 1e-6)
        if max(abs(weights[name] - before[name]) for name in names) < 1e-2:
            break
    return metrics


def _spam_probabilities(
    values: np.ndarray, noise: np.ndarray, chance: np.ndarray, chance_noise: np.ndarray, prior: float
) -> np.ndarray:
    """Return the probability that each annotator is a spammer, by a mixture of two normal distributions.

    Args:
        values: how much each annotator agrees, (annotators,) like all other arrays.
        noise: the variance of `values` that comes from the finite number of answers.
        chance: how much a spammer would agree in the annotator's place.
        chance_noise: the variance of `chance`.
        prior: the expected share of spammers.
    """
    if not len(values):
        return values
    values = np.maximum(values, chance)
    share, clicking = prior, np.full(len(values), prior)
    for k in range(MAX_ROUNDS):
        if k == 0:
            mean, spread = float(np.median(values)), 0.0  # of honest annotators; spread is a variance
        else:
            looks = (1 - clicking) / (noise + spread + 1e-6)
            mean = float(looks @ values / looks.sum())
            above = (1 - clicking) * (values >= mean)  # the lower half may hold spammers, and would grow to hold all
            spread = float(above @ ((values - mean) ** 2 - noise) / max(above.sum(), 1e-9))
            spread = min(max(spread, 0.0), (MAX_SPREAD * max(mean - float(chance.mean()), 0.0)) ** 2)
        odds = np.log(share / (1 - share)) + _log_normal(values, chance, chance_noise + 1e-6)
        odds -= _log_normal(values, np.maximum(mean, chance), noise + spread + 1e-6)
        clicking = 1 / (1 + np.exp(-np.clip(odds, -500, 20)))  # never quite 1: somebody must be honest
        share = float((clicking.sum() + PRIOR_ANNOTATORS * prior) / (len(values) + PRIOR_ANNOTATORS))
    return clicking


def _log_normal(values: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * (np.log(variance) + (values - mean) ** 2 / variance)


def _compare_votes(votes: Sequence[Vote]) -> dict[str, tuple[list[float], float]]:
    """Return for each annotator the probability of each vote by the others' votes, and a spammer's probability."""
    together = dawid_skene(votes)
    own: dict[str, list[Vote]] = defaultdict(list)
    voters: dict[object, set[str]] = defaultdict(set)
    for vote in votes:
        own[vote.annotator].append(vote)
        voters[vote.item].add(vote.annotator)
    compared: dict[str, tuple[list[float], float]] = {}
    for name, given in own.items():
        mine: dict[object, np.ndarray] = {}
        for vote in given:
            likelihood = together.confusion[name][:, vote.label]  # (n_labels,) of this vote, by the truth
            mine[vote.item] = mine.get(vote.item, 1.0) * likelihood
        shared = [vote for vote in given if len(voters[vote.item]) > 1]
        others = [together.probabilities[vote.item] / mine[vote.item] for vote in shared]  # without the own votes
        others = [p / p.sum() for p in others]
        frequencies = np.bincount([v.label for v in shared], minlength=len(next(iter(together.probabilities.values()))))
        # A spammer gives each label as often as this annotator does, whatever the item.
        chance = float(frequencies / len(shared) @ np.mean(others, axis=0)) if shared else 0.5
        compared[name] = ([float(p[vote.label]) for p, vote in zip(others, shared, strict=True)], chance)
    return compared


def _compare_ratings(
    own: Mapping[str, Sequence[Rating]], weights: Mapping[str, float]
) -> dict[str, list[tuple[float, float]]]:
    """Return for each annotator their ratings, each with the weighted mean of the others' ratings."""
    sums: dict[object, np.ndarray] = defaultdict(lambda: np.zeros(3))  # item -> weighted sum, weight, raters
    for name, given in own.items():
        for rating in given:
            sums[rating.item] += (weights[name] * rating.value, weights[name], 1)
    compared: dict[str, list[tuple[float, float]]] = {}
    for name, given in own.items():
        mine: dict[object, np.ndarray] = defaultdict(lambda: np.zeros(3))
        for rating in given:
            mine[rating.item] += (weights[name] * rating.value, weights[name], 1)
        others = [(rating.value, *(sums[rating.item] - mine[rating.item])) for rating in given]
        compared[name] = [(value, total / weight) for value, total, weight, raters in others if raters > 0]
    return compared


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Pearson's correlation; 0 where one side never varies, which tells as little as random clicks do."""
    if not pairs:
        return float("nan")
    x, y = np.asarray(pairs, float).T
    if x.std() < 1e-12 or y.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
