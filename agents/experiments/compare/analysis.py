"""What the runs of a comparison come to: `report.json` as a dict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ...evaluation.statistics import improvement, iqm, reach
from .config import CompareConfig
from .plan import Arm, Run

__all__ = ["Outcome", "analyse", "read_outcomes"]

MAX_PAIRED = 8  # arms of which every pair gets an interval; of more, each against the best
OVERSHOOT = 0.05  # of the budget


@dataclass(frozen=True)
class Outcome:
    """How a run stands: finished with a result, failed with an error, or neither."""

    run: Run
    result: dict[str, Any] | None
    error: str | None

    def curve(self, name: str) -> dict[int, float]:
        """A figure by step."""
        assert self.result is not None
        return {
            entry["step"]: entry["estimates"][name]["mean"]
            for entry in self.result["evaluations"]
            if name in entry["estimates"]
        }

    def last(self) -> dict[str, float]:
        """All figures at the end."""
        assert self.result is not None
        return {name: estimate["mean"] for name, estimate in self.result["evaluations"][-1]["estimates"].items()}


def spent(entry: Mapping[str, Any]) -> int:
    """The tokens an evaluation stands for: those trained for, or its step's where nothing is trained."""
    return max(entry["tokens"], entry["step"])


def read_outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """How runs stand, from their files."""
    outcomes = []
    for run in runs:
        result = json.loads(run.result.read_text(encoding="utf-8")) if run.result.is_file() else None
        error = None
        if result is None and run.error.is_file():
            error = json.loads(run.error.read_text(encoding="utf-8"))["error"]
        outcomes.append(Outcome(run, result, error))
    return outcomes


def analyse(config: CompareConfig, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every figure of the report, as JSON takes it."""
    finished = [outcome for outcome in outcomes if outcome.result is not None]
    arms = {outcome.run.arm.name: outcome.run.arm for outcome in outcomes}
    metric = _metric(config, finished)
    by_arm = {name: [outcome for outcome in finished if outcome.run.arm.name == name] for name in arms}
    rows = [_row(arm, by_arm[name], outcomes, metric) for name, arm in arms.items()]
    ranked = sorted(rows, key=lambda row: -row["figures"][metric]["value"] if row["figures"] else np.inf)
    threshold = _threshold(config, ranked, metric)
    for row in ranked:
        found = reach([_series(outcome, metric) for outcome in by_arm[row["name"]]], threshold)
        row["reached"] = found._asdict()
    _mark_frontier(ranked, metric)
    return {
        "env": config.env_id,
        "tokens": config.tokens,
        "seeds": config.seeds,
        "metric": metric,
        "threshold": threshold,
        "notes": _notes(config, outcomes, finished, metric),
        "failed": [{"run": o.run.name, "error": o.error} for o in outcomes if o.error is not None],
        "unfinished": [o.run.name for o in outcomes if o.error is None and o.result is None],
        "arms": ranked,
        "improvement": _improvements([row for row in ranked if row["figures"]], by_arm, metric),
        "samples": _samples(ranked, by_arm),
        "config": json.loads(config.model_dump_json()),
    }


def _metric(config: CompareConfig, finished: Sequence[Outcome]) -> str:
    """What is compared: as given, or the first judge, or the reward."""
    if config.metric is not None:
        if finished and config.metric not in (known := finished[0].last()):
            raise ValueError(f"no run has the metric {config.metric!r}: there are {', '.join(known)}")
        return config.metric
    judges: list[str] = next((outcome.result["judges"] for outcome in finished if outcome.result), [])
    return judges[0] if judges else "reward"


def _row(arm: Arm, finished: list[Outcome], outcomes: Sequence[Outcome], metric: str) -> dict[str, Any]:
    """The figures of an arm over its finished runs."""
    mine = [outcome for outcome in outcomes if outcome.run.arm.name == arm.name]
    row: dict[str, Any] = {
        "name": arm.name,
        "label": arm.label,
        "algo": arm.algo,
        "kl_coef": arm.kl_coef,
        "finished": len(finished),
        "failed": sum(outcome.error is not None for outcome in mine),
        "runs": len(mine),
        "figures": {},
        "curve": [],
    }
    if not finished:
        return row
    last = [outcome.last() for outcome in finished]
    names = [name for name in last[0] if all(name in figures for figures in last)]
    row["figures"] = {name: iqm([figures[name] for figures in last]).over_runs() for name in names}
    row["per_seed"] = {str(o.run.seed): figures[metric] for o, figures in zip(finished, last, strict=True)}
    row["gain"] = _gain([figures[metric] - o.curve(metric)[0] for o, figures in zip(finished, last, strict=True)])
    for name in ("tokens", "seconds"):
        row[name] = iqm([outcome.result[name] for outcome in finished if outcome.result]).over_runs()
    row["curve"] = _curve(finished, metric)
    result = finished[0].result
    assert result is not None
    row["settings"] = {name: value for name, value in result["config"].items() if _is_setting(name, value)}
    return row


def _gain(gains: Sequence[float]) -> dict[str, float | None]:
    """What was gained since before training: the mean over the seeds, and its standard error."""
    error = float(np.std(gains, ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else None
    return {"mean": float(np.mean(gains)), "standard_error": error}


def _is_setting(name: str, value: Any) -> bool:
    shown = ("n_envs", "train", "kl_coef", "kl_target", "learning_rate", "hyperparams")
    return name in shown and value is not None


def _curve(finished: list[Outcome], metric: str) -> list[dict[str, Any]]:
    """The interquartile mean at the steps that all runs of an arm were evaluated at, and the tokens it had by then."""
    curves = [outcome.curve(metric) for outcome in finished]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    results = [outcome.result for outcome in finished if outcome.result is not None]
    tokens = [{entry["step"]: spent(entry) for entry in result["evaluations"]} for result in results]
    return [
        {
            "step": step,
            "tokens": float(np.mean([by_step[step] for by_step in tokens])),
            **iqm([curve[step] for curve in curves]).over_runs(),
        }
        for step in steps
    ]


def _series(outcome: Outcome, metric: str) -> list[tuple[float, float, float]]:
    assert outcome.result is not None
    entries = outcome.result["evaluations"]
    return [(e["tokens"], e["seconds"], e["estimates"][metric]["mean"]) for e in entries if metric in e["estimates"]]


def _threshold(config: CompareConfig, ranked: list[dict[str, Any]], metric: str) -> float:
    """As given, or half of the rise of the best arm that rises at all."""
    if config.threshold is not None:
        return config.threshold
    ends = [(row["curve"][0]["value"], row["figures"][metric]["value"]) for row in ranked if row["curve"]]
    first, last = next((pair for pair in ends if pair[1] > pair[0]), ends[0] if ends else (0.0, 0.0))
    return float((first + last) / 2)


def _mark_frontier(rows: list[dict[str, Any]], metric: str) -> None:
    """Say of each arm whether no other has at least its metric for at most its KL, and one of the two better."""
    points = {
        row["name"]: (row["figures"]["kl"]["value"], row["figures"][metric]["value"])
        for row in rows
        if "kl" in row["figures"]
    }
    for row in rows:
        point = points.get(row["name"])
        row["on_frontier"] = point is not None and not any(
            kl <= point[0] and value >= point[1] and (kl, value) != point for kl, value in points.values()
        )


def _improvements(rows: list[dict[str, Any]], by_arm: dict[str, list[Outcome]], metric: str) -> list[dict[str, Any]]:
    """The probability that a run of the first arm ends better than one of the second, the better arm first."""
    scores = {row["name"]: [outcome.last()[metric] for outcome in by_arm[row["name"]]] for row in rows}
    names = list(scores)
    pairs = combinations(names, 2) if len(names) <= MAX_PAIRED else ((names[0], other) for other in names[1:])
    return [{"better": x, "than": y, **improvement(scores[x], scores[y]).over_runs()} for x, y in pairs]


def _notes(config: CompareConfig, outcomes: Sequence[Outcome], finished: Sequence[Outcome], metric: str) -> list[str]:
    """What a reader has to know before the figures."""
    notes = []
    if config.seeds == 1:
        notes.append(
            "One seed: no intervals are given, since one run says nothing about how runs differ, and no order of the "
            "algorithms is shown by this. Run it with --seeds 5."
        )
    elif config.seeds < 4:
        notes.append(
            f"{config.seeds} seeds: the interquartile mean is the mean, and a bootstrap over so few runs gives "
            "intervals that are too narrow. Run it with --seeds 5 or more."
        )
    failed = sum(outcome.error is not None for outcome in outcomes)
    missing = len(outcomes) - len(finished) - failed
    if failed or missing:
        text = f"{failed} of {len(outcomes)} runs failed" + (f" and {missing} are not finished" if missing else "")
        notes.append(f"{text}: the figures are of the others, which flatters an algorithm that fails on bad seeds.")
    return notes + _inequalities(config, finished, metric) + _coincidences(finished, metric)


def _coincidences(finished: Sequence[Outcome], metric: str) -> list[str]:
    """Figures that are equal to the last digit, of which a reader would think otherwise."""
    curves: dict[str, dict[int, tuple[float, ...]]] = {}
    for outcome in finished:
        curves.setdefault(outcome.run.arm.name, {})[outcome.run.seed] = tuple(outcome.curve(metric).values())
    notes = []
    fixed = [name for name, runs in curves.items() if len(runs) > 1 and len(set(runs.values())) == 1]
    if fixed:
        notes.append(
            f"All runs of {', '.join(fixed)} came to the same: nothing in them depends on the seed, and intervals of "
            "no width say nothing of the prompts."
        )
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, runs in curves.items():
        alike.setdefault(tuple(sorted(runs.items())), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            notes.append(f"{' and '.join(names)} came to the same in every run: what tells them apart had no effect.")
    return notes


def _inequalities(config: CompareConfig, finished: Sequence[Outcome], metric: str) -> list[str]:
    """What was found not to be equal, though it should be."""
    notes = []
    results = [outcome.result for outcome in finished if outcome.result is not None]
    if len({result["prompts"] for result in results}) > 1:
        notes.append("The held-out prompts differ between runs: the data has changed under the comparison.")
    if len({result["reference"] for result in results}) > 1:
        notes.append("The reference that KL is measured to differs between runs.")
    arms = [outcome.run.arm.name for outcome in finished]
    shares = {name: result["tokens"] / config.tokens - 1 for name, result in zip(arms, results, strict=True)}
    if far := {name: share for name, share in shares.items() if abs(share) > OVERSHOOT}:
        listed = ", ".join(f"{name} {share:+.0%}" for name, share in far.items())
        notes.append(f"Tokens are not equal, whole rollouts are trained on or no training is done: {listed}.")
    parts = {name: str(result["config"].get("train") or "full") for name, result in zip(arms, results, strict=True)}
    usual = max(parts.values(), key=list(parts.values()).count, default="full")
    if odd_parts := {name: part for name, part in parts.items() if part != usual}:
        listed = ", ".join(f"{name} {part}" for name, part in odd_parts.items())
        notes.append(f"Not the same part of the model is trained: train={usual}, but {listed}.")
    if own := {o.run.arm.name: " and ".join(o.run.arm.own_decoding) for o in finished if o.run.arm.own_decoding}:
        listed = ", ".join(f"{name} has a {options} of its own" for name, options in own.items())
        notes.append(f"Not all decode alike: {listed}.")
    starts: dict[int, dict[float, list[str]]] = {}
    for outcome in finished:
        start = outcome.curve(metric).get(0)
        if start is not None:
            starts.setdefault(outcome.run.seed, {}).setdefault(round(start, 4), []).append(outcome.run.arm.name)
    minorities = [names for group in starts.values() for names in sorted(group.values(), key=len)[:-1]]
    odd = sorted({name for names in minorities for name in names})
    if odd:
        notes.append(f"Before training {', '.join(odd)} wrote something else than the others from the same start.")
    return notes


def _samples(ranked: list[dict[str, Any]], by_arm: dict[str, list[Outcome]]) -> list[dict[str, Any]]:
    """What the first finished run of each arm wrote for the same prompts: at first, halfway, and at the end."""
    samples = []
    for row in ranked:
        for outcome in by_arm[row["name"]][:1]:
            assert outcome.result is not None
            entries = outcome.result["evaluations"]
            chosen = sorted({0, len(entries) // 2, len(entries) - 1})
            samples += [
                {"arm": row["name"], "run": outcome.run.name, "step": entries[i]["step"], **sample}
                for i in chosen
                for sample in entries[i]["samples"][:2]
            ]
    return samples
