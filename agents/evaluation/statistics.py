"""Estimate quantities over episodes and over runs, with standard errors and 95% intervals.

Every interval is the percentile bootstrap (Efron 1979) of `scipy.stats.bootstrap`, except for that of
`mean_over_runs`. Over the runs of a comparison the estimates are the ones that Agarwal et al. 2021
(https://arxiv.org/abs/2108.13264) ask for: the interquartile mean, by `scipy.stats.trim_mean`, and the probability of
improvement, by `scipy.stats.mannwhitneyu`. Their stratified bootstrap has one stratum here, because a comparison has
one environment: the runs of each algorithm are resampled separately.
Their package rliable 1.2.0 computes the same, but it raises with the arch (7) that installs beside NumPy 2, and it
draws from NumPy's global generator.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median_high
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import bootstrap, mannwhitneyu, t, trim_mean

from rlhf_envs.words import ngrams

__all__ = [
    "Estimate",
    "Reached",
    "bootstrap_mean",
    "bootstrap_perplexity",
    "check_episodes",
    "improvement",
    "iqm",
    "jackknife_distinct_bigrams",
    "mean_over_runs",
    "reach",
]

N_RESAMPLES = 2000


def check_episodes(n_episodes: int) -> None:
    """Raise a ValueError for too few episodes to estimate a standard error from."""
    if n_episodes < 2:
        raise ValueError(f"n_episodes={n_episodes}: a standard error needs at least 2")


class Estimate(NamedTuple):
    """Hold an estimate, its standard error and its 95% interval; NaN stands for what is not known.

    Attributes:
        sem: the standard error; not known for what is estimated over runs.
        low, high: the bounds of the 95% interval; not known for a single episode or run.
        n: the number of episodes or runs.
    """

    mean: float
    sem: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        """Return the entry of a run's report."""
        return {"mean": self.mean, "sem": self.sem, "low": self.low, "high": self.high}

    def over_runs(self) -> dict[str, float | None]:
        """Return the entry of a comparison's report, with None for bounds that are not known."""
        low, high = (None if math.isnan(bound) else bound for bound in (self.low, self.high))
        return {"value": self.mean, "low": low, "high": high, "n": self.n}

    def __str__(self) -> str:
        """Return the estimate with its standard error, else with its interval, else alone."""
        mean = f"{round(self.mean, 3) + 0.0:.3f}"  # + 0.0: no minus before a zero
        if not math.isnan(self.sem):
            return f"{mean} ± {self.sem:.3f}"
        return mean if math.isnan(self.low) else f"{mean} [{self.low:.3f}, {self.high:.3f}]"


class Reached(NamedTuple):
    """Hold how many of n runs reached a threshold, and by how many tokens and seconds half of these did (else None)."""

    reached: int
    n: int
    tokens: float | None
    seconds: float | None


def bootstrap_mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of `(n,)` values with its standard error `s / sqrt(n)` and its interval."""
    values = np.asarray(values, dtype=np.float64)
    sem = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan
    low, high, _ = _bootstrap((values,), np.mean, seed)
    return Estimate(float(values.mean()), sem, low, high, len(values))


def bootstrap_perplexity(nats: np.ndarray, tokens: np.ndarray, seed: int = 0) -> Estimate:
    """Return `exp(sum(nats) / sum(tokens))` of n episodes, `(n,)` each; error and interval are bootstrapped."""
    pair = (np.asarray(nats, dtype=np.float64), np.asarray(tokens, dtype=np.float64))

    def perplexity(nats: np.ndarray, tokens: np.ndarray, axis: int = -1) -> Any:
        return np.exp(nats.sum(axis=axis) / tokens.sum(axis=axis))

    with np.errstate(over="ignore", invalid="ignore"):
        low, high, sem = _bootstrap(pair, perplexity, seed, paired=True)
        return Estimate(float(perplexity(*pair)), sem, low, high, len(pair[0]))


def jackknife_distinct_bigrams(texts: Sequence[str]) -> Estimate:
    """Return the share of distinct word bigrams of n texts together, with its jackknife error (Quenouille 1956).

    Resampling would draw some texts twice and so count too few distinct bigrams. Leaving out one text at a time does
    not.
    """
    counts = [Counter(ngrams(text, 2)) for text in texts]
    together = Counter(pair for count in counts for pair in count.elements())
    n, total, distinct = len(texts), together.total(), len(together)
    if not total:
        return Estimate(0.0, 0.0, 0.0, 0.0, n)
    alone = np.array([sum(together[pair] == count[pair] for pair in count) for count in counts])  # in no other text
    sizes = np.array([count.total() for count in counts])
    share = distinct / total
    left_out = (distinct - alone) / np.maximum(total - sizes, 1)
    sem = float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())) if n > 1 else math.nan
    return Estimate(share, sem, max(share - 1.96 * sem, 0.0), min(share + 1.96 * sem, 1.0), n)


def iqm(values: Sequence[float] | np.ndarray, seed: int = 0) -> Estimate:
    """Return the interquartile mean of `(n,)` runs: the mean without the lowest and the highest quarter.

    A quarter is rounded down to whole runs, as rliable does it: below four runs this is the mean.

    Raises:
        ValueError: there is no run, or a value is not finite.
    """
    return _over_runs(partial(trim_mean, proportiontocut=0.25), seed, values)


def mean_over_runs(values: Sequence[float] | np.ndarray) -> Estimate:
    """Return the mean of `(n,)` runs with its 95% Student-t interval, which holds for few runs too; none for one run.

    Raises:
        ValueError: there is no run, or a value is not finite.
    """
    runs = _checked(values)
    n, mean = len(runs), float(runs.mean())
    if n < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, n)
    reach = float(t.ppf(0.975, n - 1) * runs.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, math.nan, mean - reach, mean + reach, n)


def improvement(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, seed: int = 0) -> Estimate:
    """Return the probability that a run of x `(n,)` is better than a run of y `(m,)`; ties count half.

    With fewer than 3 runs of one there is no interval: resampling so few gives [1, 1] wherever they do not overlap.

    Raises:
        ValueError: there is no run, or a value is not finite.
    """

    def statistic(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        with warnings.catch_warnings():  # the p-value, which is not used, is not defined where all values are tied
            warnings.simplefilter("ignore", RuntimeWarning)
            u = mannwhitneyu(a, b, alternative="greater", axis=axis, method="asymptotic").statistic
        return u / (a.shape[axis] * b.shape[axis])

    found = _over_runs(statistic, seed, x, y)
    return found if found.n >= 3 else found._replace(low=math.nan, high=math.nan)


def reach(runs: Sequence[Sequence[tuple[float, float, float]]], threshold: float) -> Reached:
    """Return how many runs reached a threshold, and by when half of these had reached it.

    A run is its evaluations in their order: tokens, seconds, value. It reaches the threshold at the first evaluation
    that is at or above it.
    """
    first = [next(((t, s) for t, s, value in run if value >= threshold), None) for run in runs]
    found = [entry for entry in first if entry is not None]
    tokens, seconds = map(median_high, zip(*found, strict=True)) if found else (None, None)
    return Reached(len(found), len(runs), tokens, seconds)


def _over_runs(statistic: Callable[..., Any], seed: int, *samples: Sequence[float] | np.ndarray) -> Estimate:
    """Return a statistic of independent samples of runs, with its interval."""
    arrays = tuple(map(_checked, samples))
    low, high, _ = _bootstrap(arrays, statistic, seed)
    return Estimate(float(statistic(*arrays)), math.nan, low, high, min(map(len, arrays)))


def _checked(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return a value per run, `(n,)` float64. Raise ValueError if there is none, or one that is not finite."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"expected one finite value per run, got {scores}")
    return scores


def _bootstrap(
    samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], seed: int, paired: bool = False
) -> tuple[float, float, float]:
    """Return the bounds of the 95% interval of a statistic and its standard error; NaN if a sample has one value."""
    if min(len(sample) for sample in samples) < 2:
        return math.nan, math.nan, math.nan
    found = bootstrap(samples, statistic, n_resamples=N_RESAMPLES, method="percentile", paired=paired, rng=seed)
    return float(found.confidence_interval.low), float(found.confidence_interval.high), float(found.standard_error)
