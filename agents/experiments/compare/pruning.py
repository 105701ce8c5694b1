"""Find the arms of a comparison that are clearly worse than the best one: they get no further seeds.

This is a race (Birattari et al., 2002, "A Racing Algorithm for Configuring Metaheuristics"), as irace runs it with a
paired t-test (López-Ibáñez et al., 2016, https://doi.org/10.1016/j.orp.2016.09.002). A round is one seed of every arm
that is left. After a round each arm is compared with the arm of the highest mean, seed by seed. It is pruned if the 95%
Student-t interval of the mean difference lies above 0. That takes two seeds.

Every run that was begun goes on to its end. So the decisions depend on results of whole runs alone: they are the same
with any number of processes, and after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...evaluation.statistics import Estimate, mean_over_runs
from .plan import Outcome

__all__ = ["RULE", "Pruned", "find_pruned"]

RULE = (
    "After each seed every algorithm is compared with the one of the highest mean so far, seed by seed. It gets no "
    "further seeds if the 95% interval (Student's t) of the mean difference lies above 0."
)
MIN_SEEDS = 2


@dataclass(frozen=True)
class Pruned:
    """Hold why an arm was pruned.

    Attributes:
        seeds: how many seeds had been run then.
        best: the name of the arm of the highest mean.
        difference: the mean over the seeds by which the best arm was ahead, with its interval.
    """

    seeds: int
    best: str
    difference: Estimate

    def describe(self, metric: str) -> str:
        """Return when the arm was pruned, and by how much it was behind."""
        return f"after {self.seeds} seeds: {self.best} is ahead by {self.difference} in {metric}"

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `report.json`."""
        return {"seeds": self.seeds, "best": self.best, "difference": self.difference.over_runs()}


def find_pruned(outcomes: Sequence[Outcome], metric: str) -> dict[str, Pruned]:
    """Return the pruned arms by name, round by round up to the first round that is not finished.

    A failed run is left out of the comparison. An arm that has all its runs is not pruned.
    """
    scores: dict[str, dict[int, float]] = {outcome.run.arm.name: {} for outcome in outcomes}
    ended: dict[int, set[str]] = {outcome.run.seed: set() for outcome in outcomes}
    for outcome in outcomes:
        name, seed = outcome.run.arm.name, outcome.run.seed
        if outcome.result:
            scores[name][seed] = outcome.last()[metric]
        if outcome.result or outcome.error is not None:
            ended[seed].add(name)
    pruned: dict[str, Pruned] = {}
    for seed in sorted(ended):
        left = {name: values for name, values in scores.items() if name not in pruned}
        if not left.keys() <= ended[seed]:
            break
        so_far = {name: {s: v for s, v in values.items() if s <= seed} for name, values in left.items()}
        begun = {name for name in left if any(name not in names for names in ended.values())}
        found = _behind({name: values for name, values in so_far.items() if values})
        pruned |= {name: Pruned(seed + 1, best, gap) for name, (best, gap) in found.items() if name in begun}
    return pruned


def _behind(scores: dict[str, dict[int, float]]) -> dict[str, tuple[str, Estimate]]:
    """Return the arms that are clearly behind the best, each with the name of the best and the difference."""
    if not scores:
        return {}
    best = max(scores, key=lambda name: float(np.mean(list(scores[name].values()))))
    found = {}
    for name, values in scores.items():
        shared = sorted(values.keys() & scores[best].keys())
        if name != best and len(shared) >= MIN_SEEDS:
            gap = mean_over_runs([scores[best][seed] - values[seed] for seed in shared])
            if gap.low > 0:
                found[name] = (best, gap)
    return found
