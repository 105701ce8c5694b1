"""Write the notes of a report: what a reader of a comparison has to know before its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...evaluation.prompt_counts import FEW, describe_few
from .config import CompareConfig
from .plan import Outcome

__all__ = ["write_notes"]

OVERSHOOT = 0.05  # a share of the budget


def write_notes(
    config: CompareConfig, outcomes: Sequence[Outcome], metric: str, pruned: Sequence[str] = ()
) -> list[str]:
    """Return the notes: too few seeds, failed and pruned runs, unequal conditions, metrics equal to the last digit."""
    finished = [outcome for outcome in outcomes if outcome.result]
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
    missing = sum(not o.result and o.error is None and o.run.arm.name not in pruned for o in outcomes)
    if failed or missing:
        text = f"{failed} of {len(outcomes)} runs failed" + (f" and {missing} are not finished" if missing else "")
        notes.append(f"{text}: the metrics cover the other runs, which flatters an algorithm that fails on bad seeds.")
    few = [n for outcome in finished if (n := outcome.result.get("different_prompts")) is not None]
    if min(few, default=FEW) < min(FEW, config.test_episodes) and finished[0].result["described"] != "training prompts":
        text = describe_few(min(few), repr(config.test_split))
        notes.append(f"{text[0].upper()}{text[1:]}.")
    if pruned:
        notes.append(
            f"Pruned: {', '.join(pruned)}. Their metrics are of fewer seeds, the ones on which they looked bad, and so "
            "tend to be too low."
        )
    return notes + _unequal_conditions(config, finished, metric) + _equal_metrics(finished, metric)


def _unequal_conditions(config: CompareConfig, finished: Sequence[Outcome], metric: str) -> list[str]:
    """Return a note for each condition that should be equal for all arms and is not."""
    notes = []
    by_arm = {outcome.run.arm.name: outcome for outcome in finished}
    if len({outcome.result["prompts"] for outcome in finished}) > 1:
        notes.append("The prompts of the evaluations differ between runs: the data has changed under the comparison.")
    if len({outcome.result["reference"] for outcome in finished}) > 1:
        notes.append("The reference that KL is measured to differs between runs.")
    shares = {name: outcome.result["tokens"] / config.tokens - 1 for name, outcome in by_arm.items()}
    if unequal := [f"{name} {share:+.0%}" for name, share in shares.items() if abs(share) > OVERSHOOT]:
        notes.append(
            f"Tokens are not equal to the {config.tokens:,} asked for, because algorithms train on whole rollouts, or "
            f"not at all: {', '.join(unequal)}."
        )
    parts = {name: str(outcome.result["config"].get("train") or "full") for name, outcome in by_arm.items()}
    usual = max(parts.values(), key=list(parts.values()).count, default="full")
    if others := [f"{name} {part}" for name, part in parts.items() if part != usual]:
        notes.append(f"Not the same part of the model is trained: train={usual}, but {', '.join(others)}.")
    decoding = {name: " and ".join(outcome.run.arm.own_decoding) for name, outcome in by_arm.items()}
    if own := [f"{name} has a {options} of its own" for name, options in decoding.items() if options]:
        notes.append(f"Not all decode alike: {', '.join(own)}.")
    if odd := ", ".join(_odd_starts(finished, metric)):
        notes.append(f"Before training {odd} wrote something else than the others from the same start.")
    return notes


def _odd_starts(finished: Sequence[Outcome], metric: str) -> list[str]:
    """Return the arms whose metric before training is not the one that most arms with the same seed have."""
    starts: dict[int, dict[float, list[str]]] = {}
    for outcome in finished:
        start = outcome.curve(metric).get(0)
        if start is not None:
            starts.setdefault(outcome.run.seed, {}).setdefault(round(start, 4), []).append(outcome.run.arm.name)
    odd = (names for group in starts.values() for names in sorted(group.values(), key=len)[:-1])
    return sorted(set().union(*odd))


def _equal_metrics(finished: Sequence[Outcome], metric: str) -> list[str]:
    """Return notes on arms whose runs all have equal metrics, and on arms that have the same metrics as another arm."""
    curves: dict[str, dict[int, tuple[float, ...]]] = {}
    for outcome in finished:
        curves.setdefault(outcome.run.arm.name, {})[outcome.run.seed] = tuple(outcome.curve(metric).values())
    notes = []
    if fixed := [name for name, runs in curves.items() if len(runs) > 1 and len(set(runs.values())) == 1]:
        notes.append(
            f"All runs of {', '.join(fixed)} came to the same: nothing in them depends on the seed, and intervals of "
            "no width say nothing of the prompts."
        )
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, runs in curves.items():
        alike.setdefault(tuple(sorted(runs.items())), []).append(name)
    return notes + [
        f"{' and '.join(names)} came to the same in every run: what tells them apart had no effect."
        for names in alike.values()
        if len(names) > 1
    ]
