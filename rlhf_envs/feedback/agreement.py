"""Measure how far annotators agree: Krippendorff's alpha, and each annotator's agreement with the others.

Source: Krippendorff, Content Analysis, 2004, chapter 11, through the `krippendorff` package. Our own: a ranking counts
as the pairs that it orders, and harm flags count one by one, so that every judgement is a set of (unit, number).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from .records import Judgement

__all__ = ["LEVELS", "alpha_by_kind", "coded", "krippendorff_alpha", "peer_agreement"]

Level = Literal["nominal", "ordinal", "interval", "ratio"]
Coded = tuple[Hashable, str, float]  # unit that was judged, annotator, value

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
        ImportError: the package `krippendorff` is missing.
        ValueError: the level is unknown.
    """
    if level not in get_args(Level):
        raise ValueError(f"unknown level {level!r}: choose {', '.join(get_args(Level))}")
    try:
        import krippendorff
    except ImportError as error:
        raise ImportError('agreement needs krippendorff: pip install "rlhf-envs[agreement]"') from error
    import numpy as np

    units: dict[Hashable, dict[str, float]] = defaultdict(dict)
    for unit, annotator, value in votes:
        units[unit][annotator] = float(value)
    shared = [values for values in units.values() if len(values) > 1]  # a single value has nothing to agree with
    domain = sorted({value for values in shared for value in values.values()})
    if len(domain) < 2:
        return math.nan
    column = {value: i for i, value in enumerate(domain)}
    counts = np.zeros((len(shared), len(domain)), dtype=int)  # (units, values): how many annotators gave the value
    for row, values in enumerate(shared):
        for value in values.values():
            counts[row, column[value]] += 1
    return float(krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement=level))


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
