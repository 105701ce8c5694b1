"""Weigh people by how well their ratings go with those of the others who judged the same items."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_SHARED", "rater_weights"]

MIN_SHARED = 10  # items that somebody has to share with others before their weight is their own
SHRINKAGE = 5.0  # how many of a person's items the mean correlation of all weighs as much as
ROUNDS = 20
HIGHEST = 0.95  # of a correlation: nobody decides alone


def rater_weights(ratings: Iterable[tuple[str, Hashable, float]]) -> dict[str, float]:
    """Return a weight for every person, with mean 1 over those whose weight is their own.

    A person's weight is `r / (1 - r^2) / s`. s is the standard deviation of their ratings. r is the correlation of
    their ratings with the weighted mean of the others' ratings of the same items (the item-rest correlation), shrunk
    towards the mean r of all. Weights and correlations are computed in turns. If a rating is the item's worth plus
    noise, these are the weights of the best linear estimate of the worth (Bartlett 1937, "The statistical conception of
    mental factors", https://doi.org/10.1111/j.2044-8295.1937.tb00863.x, for one factor). Who rates at random gets about
    0, and who rates against the others 0. Everybody's own mean is taken off first: who is strict is not unreliable.

    Somebody who shares fewer than `MIN_SHARED` items with others has weight 1.

    Args:
        ratings: `(annotator, item, value)`, values finite; one per annotator and item counts, the last.
    """
    rows = list(ratings)
    people, items = sorted({row[0] for row in rows}), list(dict.fromkeys(row[1] for row in rows))
    place = {item: i for i, item in enumerate(items)}
    number = {name: a for a, name in enumerate(people)}
    values = np.full((len(people), len(items)), np.nan)
    for name, item, value in rows:
        values[number[name], place[item]] = value
    there = ~np.isnan(values)
    shared = (there & (there.sum(axis=0) > 1)).sum(axis=1)
    known = shared >= MIN_SHARED
    weights = np.ones(len(people))
    if known.sum() > 1:
        means = np.nansum(values, axis=1) / np.maximum(there.sum(axis=1), 1)
        weights = _weights(np.where(there, values - means[:, None], 0.0), there, known)
    return {name: float(weights[a]) for name, a in number.items()}


def _weights(centred: NDArray[np.float64], there: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weights, (people,), from ratings without their means, (people, items), 0 where there is none."""
    weights = np.ones(len(centred))
    deviations = np.sqrt((centred**2).sum(axis=1) / np.maximum(there.sum(axis=1), 1))
    deviations = np.where(deviations > 1e-9, deviations, np.inf)  # who says always the same says nothing
    for _ in range(ROUNDS):
        of_item, total = weights @ centred, weights @ there  # (items,)
        rest_weight = total - weights[:, None] * there
        with_rest = there & (rest_weight > 1e-9)
        rest = np.where(with_rest, of_item - weights[:, None] * centred, 0.0) / np.where(with_rest, rest_weight, 1.0)
        n = with_rest.sum(axis=1)
        correlations = _correlations(np.where(with_rest, centred, 0.0), rest, np.maximum(n, 1))
        usual = np.average(correlations[known], weights=n[known] + 1e-9)
        shrunk = (n * correlations + SHRINKAGE * usual) / (n + SHRINKAGE)
        r = np.clip(shrunk, 0.0, HIGHEST)
        found = np.where(known, r / (1 - r**2) / deviations, 0.0)
        if not found[known].sum() > 0:
            return np.ones(len(centred))
        found = found / found[known].mean()
        weights = np.where(known, found, 1.0)
    return weights


def _correlations(one: NDArray[np.float64], other: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the correlation of each row of two arrays over its n entries that are not 0; 0 where one is constant."""
    first, second = one.sum(axis=1) / n, other.sum(axis=1) / n
    covariance = (one * other).sum(axis=1) / n - first * second
    spread = ((one**2).sum(axis=1) / n - first**2) * ((other**2).sum(axis=1) / n - second**2)
    return np.where(spread > 1e-12, covariance / np.sqrt(np.maximum(spread, 1e-12)), 0.0)
