"""Bring ratings onto one scale: people differ in where they see its middle and how far they go to its ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Rating", "mean_ratings", "standardise_ratings", "standardise_rows"]


class Rating(NamedTuple):
    """Hold one annotator's rating of one item."""

    annotator: str
    item: Hashable
    value: float


def standardise_ratings(
    ratings: Sequence[Rating | tuple[str, Hashable, float]], *, shrinkage: float = 5.0
) -> list[Rating]:
    """Give every annotator's ratings mean 0 and standard deviation 1, as far as they have enough of them.

    An annotator's mean and variance are shrunk towards the mean and variance of all ratings, which weigh as much as
    `shrinkage` ratings. With many ratings the result is the plain z-score; with one it is close to the z-score over all
    ratings. This supposes that items are given to annotators at random, so that nobody's mean is low because their
    items are bad.

    Args:
        ratings: `(annotator, item, value)`, values finite.
        shrinkage: how many of an annotator's own ratings all ratings weigh as much as; 0 for plain z-scores.

    Returns:
        The standardised ratings in their order. Where all ratings are equal, or (without shrinkage) all ratings of an
        annotator, they are 0.

    Raises:
        ValueError: there are no ratings, one is not finite, or the shrinkage is negative.
    """
    rows = _check(ratings)
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage is {shrinkage}: it must be at least 0")
    values = np.array([row.value for row in rows])
    center, variance = float(values.mean()), float(values.var())
    own: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        own[row.annotator].append(row.value)
    scales: dict[str, tuple[float, float]] = {}
    for annotator, given in own.items():
        n = len(given)
        mean = (n * np.mean(given) + shrinkage * center) / (n + shrinkage)
        deviation = float(np.sqrt((n * np.var(given) + shrinkage * variance) / (n + shrinkage)))
        scales[annotator] = (float(mean), deviation)
    standard = []
    for row in rows:
        middle, width = scales[row.annotator]
        standard.append(row._replace(value=(row.value - middle) / width if width > 1e-12 else 0.0))
    return standard


def standardise_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rating rows (`{"label", "annotator", ...}`) whose labels `standardise_ratings` has standardised."""
    labels = [float("nan") if row["label"] is None else float(row["label"]) for row in rows]
    ratings = standardise_ratings([(str(row["annotator"]), i, labels[i]) for i, row in enumerate(rows)])
    return [{**row, "label": rating.value} for row, rating in zip(rows, ratings, strict=True)]


def mean_ratings(ratings: Sequence[Rating | tuple[str, Hashable, float]]) -> dict[Any, float]:
    """Return the mean rating of every item.

    Raises:
        ValueError: there are no ratings or one is not finite.
    """
    values: dict[Any, list[float]] = defaultdict(list)
    for row in _check(ratings):
        values[row.item].append(row.value)
    return {item: float(np.mean(given)) for item, given in values.items()}


def _check(ratings: Sequence[Rating | tuple[str, Hashable, float]]) -> list[Rating]:
    if not ratings:
        raise ValueError("no ratings: label some items first")
    rows = [Rating(annotator, item, float(value)) for annotator, item, value in ratings]
    for row in rows:
        if not np.isfinite(row.value):
            raise ValueError(f"the rating of {row.item!r} by {row.annotator!r} is {row.value}: it must be a number")
    return rows
