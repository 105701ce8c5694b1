"""Measure how far annotators agree: Krippendorff's alpha, and each annotator's agreement with the others.

Source: Krippendorff, Content Analysis, 2004, chapter 11. Our own: a ranking counts as the pairs that it orders, and
harm flags count one by one, so that every judgement is a set of (unit, number).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .criteria import Criterion
    from .questions import Question
    from .records import Judgement

__all__ = [
    "LEVELS",
    "CrowdFigures",
    "Level",
    "alpha_by_kind",
    "alpha_interval",
    "alpha_of",
    "coded",
    "criterion_votes",
    "krippendorff_alpha",
    "peer_agreement",
    "votes_by_kind",
]

FloatArray = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval", "ratio"]
Coded = tuple[Hashable, str, float]  # unit that was judged, annotator, value


class CrowdFigures(NamedTuple):
    """Hold what the annotators' answers tell of the annotators and of the items.

    Attributes:
        ability: maps annotators to the probability that an answer of theirs is right, and the number of their answers.
        difficulty: maps item ids to 0 (sure) to 1 (the answers leave it open).
    """

    ability: dict[str, tuple[float, int]]
    difficulty: dict[int, float]


# How large the difference between two answers is. A correction is free text and has no level.
LEVELS: dict[str, Level] = {
    "pairwise": "ordinal",
    "ranking": "nominal",
    "rating": "interval",
    "thumbs": "nominal",
    "flags": "nominal",
}


def krippendorff_alpha(votes: Iterable[Coded], level: Level = "nominal") -> float:
    """Return Krippendorff's alpha: 1 is full agreement, 0 is chance, below 0 is systematic disagreement.

    Args:
        votes: (unit, annotator, value). If an annotator judged a unit twice, the last value counts.
        level: "nominal", "ordinal", "interval" or "ratio".

    Returns:
        Alpha, or NaN if it is undefined: no unit was judged by two annotators, or all values are the same.

    Raises:
        ValueError: the level is unknown.
    """
    if level not in get_args(Level):
        raise ValueError(f"unknown level {level!r}: choose {', '.join(get_args(Level))}")
    counts, domain = _shared_counts(votes)
    return _alpha(counts, domain, level) if len(domain) > 1 else math.nan


def _shared_counts(votes: Iterable[Coded]) -> tuple[NDArray[np.int64], FloatArray]:
    """Return (units, values) counts of who gave which value to the units that two or more judged, and the values."""
    units: dict[Hashable, dict[str, float]] = defaultdict(dict)
    for unit, annotator, value in votes:
        units[unit][annotator] = float(value)
    shared = [values for values in units.values() if len(values) > 1]  # a single value has nothing to agree with
    domain = sorted({value for values in shared for value in values.values()})
    column = {value: i for i, value in enumerate(domain)}
    counts = np.zeros((len(shared), len(domain)), dtype=np.int64)
    for row, values in enumerate(shared):
        for value in values.values():
            counts[row, column[value]] += 1
    return counts, np.array(domain)


def _alpha(
    counts: NDArray[np.int64], domain: FloatArray, level: Level, weights: NDArray[np.int64] | None = None
) -> float:
    """Return alpha of units given as counts of values, (units, values); each unit occurs `weights` times."""
    times = np.ones(len(counts), dtype=np.int64) if weights is None else weights
    totals = (times @ counts).astype(np.float64)  # (values,)
    if np.count_nonzero(totals) < 2:
        return math.nan
    distances = _distances(domain, totals.astype(float), level)
    judges = counts.sum(axis=1, keepdims=True)  # (units, 1)
    ordered = counts / (judges - 1)  # each ordered pair of values within a unit counts 1 / (judges - 1)
    n = totals.sum()
    within = np.einsum("ui,uj,ij->u", ordered, counts, distances)  # the diagonal of `distances` is 0
    observed = times @ within / n
    expected = totals @ distances @ totals / (n * (n - 1))
    return float(1 - observed / expected)


def alpha_interval(
    votes: Iterable[Coded], level: Level = "nominal", *, n_resamples: int = 500, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of Krippendorff's alpha, from units that are resampled whole.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. The units are what varies: the
    interval says how far alpha would move with other items, judged by the same people.

    Args:
        votes: as in `krippendorff_alpha`.
        level: as in `krippendorff_alpha`.
        n_resamples: how often the units are drawn anew.
        confidence: the share of resamples inside the interval.
        seed: seeds the draws, so that the same votes have the same interval.

    Returns:
        (low, high). NaN twice if alpha is undefined, or fewer than 10 units were judged by two annotators.
    """
    counts, domain = _shared_counts(votes)
    if len(domain) < 2 or len(counts) < 10:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)  # few: equal units need no second computation
    share = np.bincount(kind.ravel(), minlength=len(kinds)) / len(counts)
    drawn = generator.multinomial(len(counts), share, size=n_resamples)
    found = [_alpha(kinds, domain, level, weights) for weights in drawn]
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(found, [tail, 100 - tail])
    return float(low), float(high)


def _distances(values: FloatArray, totals: FloatArray, level: Level) -> FloatArray:
    """Return the squared difference between each two of the sorted values, shape (values, values).

    Args:
        values: the values that occur, in ascending order, shape (values,).
        totals: how often each occurs, shape (values,).
        level: the level of measurement.
    """
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "ordinal":  # the number of values in between, each end counted by half
        values = np.cumsum(totals) - totals / 2
    difference = values[:, None] - values[None, :]
    if level == "ratio":
        sums = values[:, None] + values[None, :]
        difference = np.divide(difference, sums, out=np.zeros_like(difference), where=difference != 0)
    return difference**2


def coded(kind: str, value: dict[str, Any] | None) -> list[tuple[Hashable, float]]:
    """Turn a judgement's value into (part of the item, number) pairs. Skips and corrections give none.

    A comparison gives 1 if completion 1 is better, -1 if completion 0 is, and 0 for a tie. A ranking gives 1 or 0 for
    every pair i < j: whether i is above j. Flags give 1 for each category set, and `alpha_by_kind` adds the zeros.
    """
    if value is None or kind not in LEVELS:
        return []
    if kind == "pairwise":
        return [("choice", {0: -1.0, 1: 1.0}.get(value["choice"], 0.0))]
    if kind == "rating":
        return [("rating", float(value["rating"]))]
    if kind == "thumbs":
        return [("up", float(value["up"]))]
    if kind == "flags":
        return [(harm, 1.0) for harm in value["harms"]]
    place = {completion: rank for rank, completion in enumerate(value["order"])}
    return [((i, j), float(place[i] < place[j])) for i, j in combinations(sorted(place), 2)]


def votes_by_kind(judgements: Iterable[Judgement]) -> dict[str, list[Coded]]:
    """Turn judgements into votes on units (item, part), per kind."""
    judgements = list(judgements)
    harms = sorted({harm for j in judgements if j.kind == "flags" and j.value for harm in j.value["harms"]})
    votes: dict[str, list[Coded]] = defaultdict(list)
    for judgement in judgements:
        parts = dict(coded(judgement.kind, judgement.value))
        if judgement.kind == "flags" and judgement.value is not None:
            parts = {harm: parts.get(harm, 0.0) for harm in harms}  # a flag not set is a vote too
        for part, number in parts.items():
            votes[judgement.kind].append(((judgement.item_id, part), judgement.annotator, number))
    return dict(votes)


def alpha_by_kind(judgements: Iterable[Judgement]) -> dict[str, float]:
    """Return Krippendorff's alpha per kind that was judged, NaN if it is undefined. Skips do not count."""
    return {kind: krippendorff_alpha(votes, LEVELS[kind]) for kind, votes in votes_by_kind(judgements).items()}


def alpha_of(criterion: Criterion, judgements: Iterable[Judgement]) -> float:
    """Return Krippendorff's alpha of the answers to one of the project's questions, NaN if it is undefined.

    Comparisons are ordinal, ratings interval. Of labels and of marks it is counted, per label, whether it was given.
    Texts have no agreement. Answers to the question's other versions do not count.
    """
    return krippendorff_alpha(*criterion_votes(criterion, judgements))


def criterion_votes(criterion: Criterion, judgements: Iterable[Judgement]) -> tuple[list[Coded], Level]:
    """Turn the answers to one of the project's questions into votes on units (item, part), and return their level."""
    name = criterion.question.name
    votes: list[Coded] = [
        ((judgement.item_id, part), judgement.annotator, number)
        for judgement in judgements
        if judgement.version in criterion.versions and name in judgement.answers
        for part, number in _coded_answer(criterion.question, judgement.answers[name])
    ]
    levels: dict[str, Level] = {"choice": "ordinal", "rating": "interval"}
    return votes, levels.get(criterion.question.type, "nominal")


def _coded_answer(question: Question, answer: Any) -> list[tuple[Hashable, float]]:
    """Turn an answer into (part of the item, number) pairs."""
    if question.type == "choice":
        return coded("pairwise", answer)
    if question.type == "rating":
        return [(place, float(rating)) for place, rating in enumerate(answer if question.each else [answer])]
    if question.type == "labels" and not question.multiple:
        return [("label", float(question.labels.index(answer)))]
    if question.type == "text":
        return []
    given = {span["label"] for span in answer} if question.type == "spans" else {*answer}
    return [(label, float(label in given)) for label in question.labels]


def peer_agreement(judgements: Iterable[Judgement]) -> dict[str, tuple[float, int]]:
    """Return (agreement with others, number of comparisons) per annotator who shares items with others.

    Agreement is the mean of 1 - |difference| / (largest difference of the kind). 1 is the same answer every time.
    """
    totals: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for votes in votes_by_kind(judgements).values():
        values = [value for _, _, value in votes]
        spread = (max(values) - min(values)) or 1.0
        units: dict[Hashable, dict[str, float]] = defaultdict(dict)
        for unit, annotator, value in votes:
            units[unit][annotator] = value
        for answers in units.values():
            for one, other in combinations(answers, 2):
                same = 1.0 - abs(answers[one] - answers[other]) / spread
                for name in (one, other):
                    total, n = totals[name]
                    totals[name] = (total + same, n + 1)
    return {name: (total / n, n) for name, (total, n) in totals.items()}
