"""Compute the report of a comparison from the results of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from ...evaluation.statistics import Estimate, Reached, improvement, iqm, reach
from .config import CompareConfig
from .notes import write_notes
from .plan import Arm, Outcome
from .pruning import Pruned, find_pruned

__all__ = ["ArmReport", "ComparisonReport", "Point", "analyse", "compared_metric"]

NEVER = Reached(0, 0, None, None)
MAX_PAIRED = 8  # up to so many arms, every pair gets an interval; with more, each arm against the best
SETTINGS = ("n_envs", "train", "kl_coef", "kl_target", "learning_rate", "sft_coef", "sft_data", "hyperparams")


class Point(NamedTuple):
    """Hold a point of an arm's curve: the metric over its runs, and the mean of the tokens they had by then."""

    step: int
    tokens: float
    metric: Estimate


@dataclass(frozen=True)
class ArmReport:
    """Hold the metrics of an arm over its finished runs. Without any finished run most fields are empty or None.

    Attributes:
        name, label, algo, kl_coef: see `Arm`; `finished`, `failed` and `runs` are numbers of runs.
        metrics: the interquartile mean of every metric at the end.
        curve: the compared metric at the steps that all runs were evaluated at.
        per_seed: the compared metric at the end, by seed.
        gain: the `mean` over the seeds of the rise since before training, and its `standard_error`, None for one seed.
        tokens, seconds, settings: of training; the settings are those that algorithms may differ in.
        defaults: the algorithm's own defaults, which `settings` go before.
        reached: how many runs reached the threshold, and when.
        on_frontier: whether no other arm is at least as good in both metric and KL and better in one (Pareto-optimal).
        pruned: why the arm got no further seeds; None if it was not pruned.
    """

    name: str
    label: str
    algo: str
    kl_coef: float | None
    finished: int
    failed: int
    runs: int
    metrics: dict[str, Estimate]
    curve: list[Point]
    per_seed: dict[str, float] | None = None
    gain: dict[str, float | None] | None = None
    tokens: Estimate | None = None
    seconds: Estimate | None = None
    settings: dict[str, Any] | None = None
    defaults: dict[str, Any] | None = None
    reached: Reached = NEVER
    on_frontier: bool = False
    pruned: Pruned | None = None

    @property
    def title(self) -> str:
        """Return the name, for plots and tables that do not show how many runs there are."""
        return self.name if self.pruned is None else f"{self.name} (pruned, {self.finished} of {self.runs} seeds)"

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `report.json`, without the fields that are None."""
        own = {"figures" if name == "metrics" else name: value for name, value in vars(self).items()}
        found = {name: value for name, value in own.items() if value is not None or name == "kl_coef"}
        found["figures"] = {name: estimate.over_runs() for name, estimate in self.metrics.items()}
        found["curve"] = [{"step": p.step, "tokens": p.tokens, **p.metric.over_runs()} for p in self.curve]
        for name in ("tokens", "seconds"):
            if name in found:
                found[name] = found[name].over_runs()
        if self.pruned is not None:
            found["pruned"] = self.pruned.to_json()
        return found | {"reached": self.reached._asdict()}


@dataclass(frozen=True)
class ComparisonReport:
    """Hold the report of a comparison.

    Attributes:
        prompts: what the prompts of the evaluations are, see `Evaluation.prompts`.
        different_prompts: how many of them are different; None for runs of earlier releases.
        trained, evaluated: the least and the most tokens that finished runs have trained for, and evaluations that they
            had since training began.
        metric: the name of the compared metric; `threshold` is the value of it that `ArmReport.reached` is about.
        failed, unfinished: the errors of failed runs by the names of the runs, and the names of the runs still to do;
            runs of pruned arms are not to do.
        arms: the best first.
        improvement: pairs of arms, and the probability that a run of the first ends better than one of the second.
        samples: completions of the same prompts by the first run of each arm: before, halfway and at the end.
        made: versions, commit, machine and command of the report, see `agents.saving.provenance`.
    """

    env: str
    tokens: int
    seeds: int
    metric: str
    threshold: float
    notes: list[str]
    failed: dict[str, str]
    unfinished: list[str]
    arms: list[ArmReport]
    improvement: list[tuple[str, str, Estimate]]
    samples: list[dict[str, Any]]
    config: dict[str, Any]
    prompts: str = "held-out prompts"
    different_prompts: int | None = None
    trained: tuple[int, int] = (0, 0)
    evaluated: tuple[int, int] = (0, 0)
    made: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `report.json`."""
        pairs = [{"better": better, "than": than, **found.over_runs()} for better, than, found in self.improvement]
        return vars(self) | {
            "failed": [{"run": run, "error": error} for run, error in self.failed.items()],
            "arms": [arm.to_json() for arm in self.arms],
            "improvement": pairs,
        }


def analyse(config: CompareConfig, outcomes: Sequence[Outcome]) -> ComparisonReport:
    """Return the report of a comparison. Raise ValueError if no run has the configured metric."""
    arms = {outcome.run.arm.name: outcome.run.arm for outcome in outcomes}
    of = {name: [outcome for outcome in outcomes if outcome.run.arm.name == name] for name in arms}
    done = {name: [outcome for outcome in of[name] if outcome.result] for name in arms}
    finished = [outcome for outcome in outcomes if outcome.result]
    metric = compared_metric(config, finished)
    pruned = find_pruned(outcomes, metric) if config.prune else {}
    unknown = f"prompts of the {config.test_split} split"  # of runs of earlier releases
    described = dict.fromkeys(outcome.result.get("described", unknown) for outcome in finished)
    ranked = sorted(
        (_summarise(arm, of[name], done[name], metric) for name, arm in arms.items()),
        key=lambda arm: -arm.metrics[metric].mean if arm.metrics else np.inf,
    )
    threshold = _threshold(config, ranked, metric)
    frontier = _frontier(ranked, metric)
    reached = {name: reach([outcome.series(metric) for outcome in done[name]], threshold) for name in arms}
    return ComparisonReport(
        env=config.env_id,
        tokens=config.tokens,
        seeds=config.seeds,
        metric=metric,
        threshold=threshold,
        notes=write_notes(config, outcomes, metric, list(pruned)),
        failed={o.run.name: o.error for o in outcomes if o.error is not None},
        unfinished=[o.run.name for o in outcomes if o.error is None and not o.result and o.run.arm.name not in pruned],
        arms=[
            replace(arm, reached=reached[arm.name], on_frontier=arm.name in frontier, pruned=pruned.get(arm.name))
            for arm in ranked
        ],
        improvement=_improvements({arm.name: list(arm.per_seed.values()) for arm in ranked if arm.per_seed}),
        samples=[sample for arm in ranked for outcome in done[arm.name][:1] for sample in _samples(outcome)],
        config=json.loads(config.model_dump_json()),
        prompts=", ".join(described) or "held-out prompts",
        different_prompts=next((o.result.get("different_prompts") for o in finished), None),
        trained=_range([o.result["tokens"] for o in finished]),
        evaluated=_range([sum(entry["step"] > 0 for entry in o.evaluations) for o in finished]),
    )


def _range(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts, default=0), max(counts, default=0)


def compared_metric(config: CompareConfig, finished: Sequence[Outcome]) -> str:
    """Return the compared metric: the configured one, or the first judge, or the reward."""
    if config.metric is not None:
        if finished and config.metric not in (known := finished[0].last()):
            raise ValueError(f"no run has the metric {config.metric!r}: there are {', '.join(known)}")
        return config.metric
    judges = finished[0].result["judges"] if finished else []
    return str(judges[0]) if judges else "reward"


def _summarise(arm: Arm, outcomes: Sequence[Outcome], finished: Sequence[Outcome], metric: str) -> ArmReport:
    """Return the report of an arm, as far as it depends on no other arm."""
    failed = sum(outcome.error is not None for outcome in outcomes)
    report = ArmReport(arm.name, arm.label, arm.algo, arm.kl_coef, len(finished), failed, len(outcomes), {}, [])
    if not finished:
        return report
    last = [outcome.last() for outcome in finished]  # all metrics of each run
    names = [name for name in last[0] if all(name in ends for ends in last)]
    gains = [ends[metric] - o.curve(metric)[0] for o, ends in zip(finished, last, strict=True)]
    error = float(np.std(gains, ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else None
    chosen = finished[0].result["config"]
    return replace(
        report,
        metrics={name: iqm([ends[name] for ends in last]) for name in names},
        curve=_curve(finished, metric),
        per_seed={str(o.run.seed): ends[metric] for o, ends in zip(finished, last, strict=True)},
        gain={"mean": float(np.mean(gains)), "standard_error": error},
        tokens=iqm([outcome.result["tokens"] for outcome in finished]),
        seconds=iqm([outcome.result["seconds"] for outcome in finished]),
        settings={name: value for name, value in chosen.items() if name in SETTINGS and value is not None},
        defaults=finished[0].result.get("defaults", {}),  # results of earlier releases have none
    )


def _curve(finished: Sequence[Outcome], metric: str) -> list[Point]:
    """Return the interquartile mean at the steps that all runs of an arm were evaluated at.

    An evaluation stands at the tokens trained for, or at its step if nothing is trained.
    """
    curves = [outcome.curve(metric) for outcome in finished]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    tokens = [{e["step"]: max(e["tokens"], e["step"]) for e in outcome.evaluations} for outcome in finished]
    return [
        Point(step, float(np.mean([by_step[step] for by_step in tokens])), iqm([curve[step] for curve in curves]))
        for step in steps
    ]


def _threshold(config: CompareConfig, ranked: Sequence[ArmReport], metric: str) -> float:
    """Return the configured threshold, or half of the rise of the best arm that rises at all."""
    if config.threshold is not None:
        return config.threshold
    ends = [(arm.curve[0].metric.mean, arm.metrics[metric].mean) for arm in ranked if arm.curve]
    first, last = next((pair for pair in ends if pair[1] > pair[0]), ends[0] if ends else (0.0, 0.0))
    return float((first + last) / 2)


def _frontier(arms: Sequence[ArmReport], metric: str) -> set[str]:
    """Return the names of the Pareto-optimal arms, see `ArmReport.on_frontier`."""
    points = {arm.name: (arm.metrics["kl"].mean, arm.metrics[metric].mean) for arm in arms if "kl" in arm.metrics}
    return {
        name
        for name, point in points.items()
        if not any(kl <= point[0] and value >= point[1] and (kl, value) != point for kl, value in points.values())
    }


def _improvements(scores: Mapping[str, Sequence[float]]) -> list[tuple[str, str, Estimate]]:
    """Return `ComparisonReport.improvement` from the metric of each run of each arm, the best arm first."""
    names = list(scores)
    pairs = combinations(names, 2) if len(names) <= MAX_PAIRED else ((names[0], other) for other in names[1:])
    return [(x, y, improvement(scores[x], scores[y])) for x, y in pairs]


def _samples(outcome: Outcome) -> list[dict[str, Any]]:
    """Return what a run wrote for the same prompts: before training, halfway, and at the end."""
    shared, done = {"arm": outcome.run.arm.name, "run": outcome.run.name}, outcome.evaluations
    steps = sorted({0, len(done) // 2, len(done) - 1})
    return [{**shared, "step": done[i]["step"], **sample} for i in steps for sample in done[i]["samples"][:2]]
