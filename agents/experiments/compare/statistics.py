"""Figures over seeds, as Agarwal et al., 2021 (https://arxiv.org/abs/2108.13264) ask for them, by SciPy.

The interquartile mean is `scipy.stats.trim_mean`, its interval the percentile bootstrap of `scipy.stats.bootstrap`, the
probability of improvement the statistic of `scipy.stats.mannwhitneyu` over the number of pairs. A comparison has one
environment, so the stratified bootstrap has one stratum: the runs of an algorithm are resampled, each algorithm's by
themselves. The authors' package rliable 1.2.0 computes the same, but raises with the arch (7) that installs beside
NumPy 2, and draws from NumPy's global generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Interval", "Reached", "improvement", "iqm", "reach"]

N_RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A figure over n runs and its 95% interval; None for the bounds where there is one run, of which none is known."""

    value: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Reached(NamedTuple):
    """How many of n runs reached a threshold, and the medians of the tokens and seconds they took; None without any."""

    reached: int
    n: int
    tokens: float | None
    seconds: float | None


def iqm(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """The interquartile mean of a figure of `(n,)` runs: the mean without the lowest and highest quarter.

    A quarter is rounded down to whole runs, as rliable does it: below four runs it is the mean.
    """
    from scipy.stats import trim_mean

    def statistic(x: np.ndarray, axis: int = -1) -> Any:
        return trim_mean(x, 0.25, axis=axis)

    scores = _finite(values)
    low, high = _bootstrap((scores,), statistic, seed)
    return Interval(float(statistic(scores)), low, high, len(scores))


def improvement(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """The probability that a run of x `(n,)` is better than one of y `(m,)`, ties counting half."""
    from scipy.stats import mannwhitneyu

    first, second = _finite(x), _finite(y)

    def statistic(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        with warnings.catch_warnings():  # its p-value, which is not used, has none where all are tied
            warnings.simplefilter("ignore", RuntimeWarning)
            statistic = mannwhitneyu(a, b, alternative="greater", axis=axis, method="asymptotic").statistic
        return statistic / (a.shape[axis] * b.shape[axis])

    low, high = _bootstrap((first, second), statistic, seed)
    return Interval(float(statistic(first, second)), low, high, min(len(first), len(second)))


def reach(runs: Sequence[Sequence[tuple[float, float, float]]], threshold: float) -> Reached:
    """When runs first reached a threshold.

    Args:
        runs: the evaluations of each run in their order: tokens, seconds, value.
        threshold: what a value has to come up to.
    """
    first = [next(((t, s) for t, s, value in run if value >= threshold), None) for run in runs]
    found = np.array([entry for entry in first if entry is not None])  # (reached, 2)
    if not len(found):
        return Reached(0, len(runs), None, None)
    tokens, seconds = np.median(found, axis=0)
    return Reached(len(found), len(runs), float(tokens), float(seconds))


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"expected one finite figure of each run, got {scores}")
    return scores


def _bootstrap(
    samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], seed: int
) -> tuple[float, float] | tuple[None, None]:
    """The 95% interval of a statistic of independent samples; none where a sample is a single run."""
    from scipy.stats import bootstrap

    if min(len(sample) for sample in samples) < 2:
        return None, None
    interval = bootstrap(
        samples,
        statistic,
        n_resamples=N_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
