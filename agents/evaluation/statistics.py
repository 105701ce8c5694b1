"""Means over episodes with how sure one may be of them: standard errors and bootstrap intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

__all__ = ["Estimate", "bootstrap_mean", "bootstrap_ratio", "jackknife_distinct_bigrams"]

N_RESAMPLES = 2000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A figure, its standard error and its 95% interval."""

    mean: float
    sem: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{round(self.mean, 3) + 0.0:.3f} ± {self.sem:.3f}"  # + 0.0: no minus before a zero


def bootstrap_mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """The mean of `(n,)` values, its standard error s / sqrt(n), and its percentile bootstrap interval (Efron 1979)."""
    values = np.asarray(values, dtype=np.float64)
    sem = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    low, high = _interval(_resample(len(values), seed) @ values / len(values))
    return Estimate(float(values.mean()), sem, low, high)


def bootstrap_ratio(
    numerators: np.ndarray,
    denominators: np.ndarray,
    transform: Callable[[np.ndarray], np.ndarray] = np.asarray,
    seed: int = 0,
) -> Estimate:
    """`transform(sum(numerators) / sum(denominators))` over n episodes, with error and interval from resampling them.

    Perplexity is one: the exponential of all nats over all tokens.
    """
    numerators, denominators = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    weights = _resample(len(numerators), seed)
    with np.errstate(over="ignore"):
        resampled = transform((weights @ numerators) / (weights @ denominators))
        mean = float(transform(numerators.sum() / denominators.sum()))
    low, high = _interval(resampled)
    return Estimate(mean, float(resampled.std(ddof=1)) if len(numerators) > 1 else float("nan"), low, high)


def jackknife_distinct_bigrams(texts: Sequence[str]) -> Estimate:
    """The share of distinct word bigrams of n texts together, with the jackknife's standard error (Quenouille 1956).

    Resampling would put texts in twice and so count too few distinct bigrams; leaving out one text at a time does not.
    """
    counts = [Counter(pairwise(text.split())) for text in texts]
    together: Counter[tuple[str, str]] = Counter()
    for count in counts:
        together.update(count)
    total = together.total()
    if not total:
        return Estimate(0.0, 0.0, 0.0, 0.0)
    distinct = len(together)
    alone = np.array([sum(together[pair] == count[pair] for pair in count) for count in counts])  # in no other text
    sizes = np.array([count.total() for count in counts])
    share = distinct / total
    n = len(texts)
    left_out = (distinct - alone) / np.maximum(total - sizes, 1)
    sem = float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())) if n > 1 else float("nan")
    return Estimate(share, sem, max(share - 1.96 * sem, 0.0), min(share + 1.96 * sem, 1.0))


def _resample(n: int, seed: int) -> np.ndarray:
    """How often each of n episodes comes in each resample, `(N_RESAMPLES, n)`."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES).astype(np.float64)


def _interval(resampled: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
