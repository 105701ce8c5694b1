"""Compute what stands in a cell of the matrix: a metric, its change from the start, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_envs.names import nearest

from ...evaluation.statistics import Estimate, mean_over_runs

__all__ = ["Cell", "estimate", "over_prompts", "resample"]

N_RESAMPLES = 2000


@dataclass(frozen=True)
class Cell:
    """Hold what the agents of a row came to on an environment.

    Attributes:
        value: the metric, the mean over seeds.
        change: its change from the start, paired by prompt: the mean over seeds, with a 95% Student-t interval over
            seeds, or of one seed a bootstrap interval over prompts.
        per_seed: the change by seed.
        kl: the KL to the start there in nats per episode, the mean over seeds; None if it is not known.
        prompts: what the prompts are, see `Evaluation.prompts`.
    """

    value: float
    change: Estimate
    per_seed: dict[int, float]
    kl: float | None
    prompts: str

    @property
    def sign(self) -> int:
        """Return 1 or -1 if the interval of the change is above or below 0, else 0."""
        return int(self.change.low > 0) - int(self.change.high < 0)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `report.json`."""
        per_seed = {str(seed): change for seed, change in self.per_seed.items()}
        change = self.change.over_runs()
        return {"value": self.value, "change": change, "per_seed": per_seed, "kl": self.kl, "prompts": self.prompts}


def resample(record: Mapping[str, Any], metric: str) -> np.ndarray:
    """Return a metric of an evaluation, and of bootstrap samples of its prompts, `(1 + r,)`.

    Two evaluations of n prompts have the same samples: differences of what this returns are paired by prompt.

    Raises:
        ValueError: the evaluation has no such metric.
    """
    if metric in record["corpus"]:
        return np.array(record["corpus"][metric], dtype=float)
    if metric not in record["values"]:
        known = [*record["values"], *record["corpus"]]
        raise ValueError(f"an evaluation of {record['source']} has no metric {metric!r}; {nearest(metric, known)}")
    values = np.array(record["values"][metric], dtype=float)  # NaN where an episode has none
    draws = np.random.default_rng(0).integers(len(values), size=(N_RESAMPLES, len(values)))
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    sums, counts = filled[draws].sum(axis=1), there[draws].sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.concatenate([[filled.sum() / there.sum()], sums / counts])


def estimate(values: Sequence[np.ndarray]) -> Estimate:
    """Return the mean over seeds of `(1 + r,)` each, with an interval over seeds, or of one seed over prompts."""
    return mean_over_runs([value[0] for value in values]) if len(values) > 1 else over_prompts(values[0])


def over_prompts(values: np.ndarray) -> Estimate:
    """Return an estimate from `(1 + r,)` values: of all prompts, then of r bootstrap samples of them."""
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) > 1 else (math.nan, math.nan)
    return Estimate(float(values[0]), math.nan, float(low), float(high), 1)
