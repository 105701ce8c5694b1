"""Measure how long it takes until a held-out judge finds a model better: our algorithms and TRL's trainers.

`python -m benchmarks.time_to_quality --out FOLDER` trains "tiny" with each contender and seed, in turns, every run in a
process of its own on one thread. A run ends as soon as "gold", which nobody trains against, has gained 0.15 on held-out
prompts, at a KL of at most 6 nats and with at least 0.8 of the start's share of distinct bigrams; or at a limit of
tokens. It looks after every iteration, and the clock stands still meanwhile. What `racing.py` says is
the same for everybody. Results stay in the folder, a file per run, and the same command goes on from them.

The settings of all are the best of `--grid`, which is run on the validation split and seeds 100 to 105. Both sides have
the same grid: rates, group sizes and completions per iteration, then, around the best, KL coefficients and epochs
(`GRIDS`). All arms of the first step run on one seed, the best 4 and those of the second step on two, the best 4 on all
six. A run of the grid is given up once it has taken 2.5 times as long as the best one. The best arm reaches the target
with the most seeds, and of several such is the fastest. What `CHOSEN` does not name has its value of
`agents/training/settings` for ours, and TRL's default for TRL's.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..worker import spread
from .racing import Race, save

__all__ = ["grid", "main", "report"]

OURS, TRL = ("ppo", "grpo", "rloo", "reinforce", "online_dpo"), ("trl-grpo", "trl-rloo")


@dataclass(frozen=True)
class Grid:
    """Hold the choices of the two steps of a search.

    Args:
        first: the choices of the first step.
        second: the choices of the second step, around the best arm of the first.
        start: the values of those in the first step.
        fixed: what all arms share.
    """

    first: dict[str, tuple[Any, ...]]
    second: dict[str, tuple[Any, ...]]
    start: dict[str, Any]
    fixed: dict[str, Any] = field(default_factory=dict)


RATES, GROUPS, COMPLETIONS = (3e-4, 4e-4, 6e-4, 8e-4), (4, 8), (32, 64)
_TRL = Grid(
    {"learning_rate": RATES, "num_generations": GROUPS, "completions": COMPLETIONS},
    {"beta": (0.0, 0.04), "num_iterations": (1, 2)},
    {"beta": 0.0, "num_iterations": 1},
)
# Ours too take a step for every 32 completions, and Adam's epsilon is torch's: with SB3's 1e-5 the steps are shorter.
_FIXED = {"batch_size": 1024, "optimizer_kwargs": {"eps": 1e-8}}
_RATES = {"learning_rate": RATES, "n_envs": COMPLETIONS}
_PENALTY = {"kl_coef": (0.0, 0.04), "n_epochs": (1, 2)}
_SINGLE = Grid(_RATES, _PENALTY, {"kl_coef": 0.0, "n_epochs": 1}, {**_FIXED, "kl_target": None})
_GROUPED = replace(_SINGLE, first={**_RATES, "group_size": GROUPS})
_PAIRS = Grid(
    {**_RATES, "group_size": (2, 4)},
    {"beta": (0.1, 0.35), "n_epochs": (1, 2)},
    {"beta": 0.1, "n_epochs": 1},
    _FIXED,
)
GRIDS = {
    "ppo": _SINGLE,
    "grpo": replace(_GROUPED, fixed={**_GROUPED.fixed, "clip_range": None}),
    "rloo": _GROUPED,
    "reinforce": _SINGLE,
    "online_dpo": _PAIRS,
    "trl-grpo": _TRL,
    "trl-rloo": _TRL,
}
# What `--grid --tokens 8000` chose, see `benchmarks/RESULTS.md`.
_BEST = {"n_envs": 32, "n_epochs": 1}
_NO_PENALTY = {**_BEST, "kl_coef": 0.0, "kl_target": None}
CHOSEN: dict[str, dict[str, Any]] = {
    "ppo": {**_FIXED, "kl_target": None, "learning_rate": 3e-4, "n_envs": 64, "kl_coef": 0.04, "n_epochs": 1},
    "grpo": {**_FIXED, **_NO_PENALTY, "learning_rate": 3e-4, "n_envs": 64, "group_size": 8, "clip_range": None},
    "rloo": {**_FIXED, **_NO_PENALTY, "learning_rate": 3e-4, "group_size": 4},
    "reinforce": {**_FIXED, **_NO_PENALTY, "learning_rate": 3e-4},
    "online_dpo": {**_FIXED, **_BEST, "learning_rate": 4e-4, "group_size": 4, "beta": 0.1},
    "trl-grpo": {"learning_rate": 4e-4, "num_generations": 8, "completions": 32, "beta": 0.0, "num_iterations": 1},
    "trl-rloo": {"learning_rate": 4e-4, "num_generations": 8, "completions": 32, "beta": 0.0, "num_iterations": 1},
}
PATIENCE, FINALISTS = 2.5, 4
# What every process needs is imported once.
PRELOAD = ["agents.evaluation.evaluate", "torch._dynamo", "transformers.models.gpt2.modeling_gpt2"]
PRELOAD += ["trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer"]


def combinations(choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return all settings of a grid."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def rank(results: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return what is lower for better runs: the share that missed the target, and the mean seconds of CPU of all."""
    missed = statistics.mean(not r["reached"] for r in results)
    return missed, statistics.mean(r["curve"][-1]["cpu"] for r in results)


def run_all(races: Sequence[Race], folder: Path, jobs: int, patience: float = math.inf) -> list[dict[str, Any]]:
    """Run the races whose results are not in the folder, each in a process of its own, and return the results of all.

    Args:
        races: which.
        folder: holds the results, one file per race.
        jobs: races at a time.
        patience: give up a race that takes so many times as long as the best result of its contender in the folder.
    """
    files = [folder / f"{race.arm.replace(' ', ',')},seed={race.seed}.json" for race in races]
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    waiting = [(race, file) for race, file in zip(races, files, strict=True) if not file.is_file()]
    for start in range(0, len(waiting), jobs):
        with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as workers:
            done = []
            for race, file in waiting[start : start + jobs]:
                reached = [r for r in read(folder) if r["contender"] == race.contender and r["reached"]]
                best = min((r["curve"][-1]["cpu"] for r in reached), default=math.inf)
                done.append(workers.submit(save, replace(race, cpu_seconds=patience * best), file))
        for (_, file), future in zip(waiting[start : start + jobs], done, strict=True):
            future.result()
            print(describe(json.loads(file.read_text(encoding="utf-8"))), flush=True)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the results in a folder."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def describe(result: Mapping[str, Any]) -> str:
    """Return a line about a run."""
    end = result["curve"][-1]
    shown = f"gain {end['gain']:.3f}, KL {end['kl']:.2f}, distinct x {end['distinct']:.2f}"
    took = f"{end['tokens']} tokens, {end['cpu']:.1f} s of CPU, {end['wall']:.1f} s"
    return f"{result['arm']}, seed {result['seed']}: {'' if result['reached'] else 'NOT '}reached, {took}, {shown}"


def grid(like: Race, seeds: Sequence[int], folder: Path, jobs: int) -> dict[str, Any]:
    """Return the best settings of a contender, see the module.

    Args:
        like: the contender and what all races share.
        seeds: the first for all arms of the first step, the first two for those of the second, all for the best ones.
        folder: holds the results.
        jobs: races at a time.
    """

    def ranked(arms: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Run arms on some seeds, and return them, the best first."""
        races = [replace(like, settings=arm, seed=seed) for arm in arms for seed in seeds]
        results = run_all(races, folder, jobs, PATIENCE)
        of_arm = {race.arm: [r for r in results if r["arm"] == race.arm] for race in races}
        return sorted(map(dict, arms), key=lambda arm: rank(of_arm[replace(like, settings=arm).arm]))

    choices = GRIDS[like.contender]
    arms = [{**choices.fixed, **arm, **choices.start} for arm in combinations(choices.first)]
    best = ranked(ranked(arms, seeds[:1])[:FINALISTS], seeds[:2])
    around = [{**best[0], **arm} for arm in combinations(choices.second)]
    both = ranked([*around, *(arm for arm in best if arm not in around)], seeds[:2])
    return ranked(both[:FINALISTS], seeds)[0]


def report(results: Sequence[Mapping[str, Any]], n_samples: int = 3) -> list[str]:
    """Return a table of contenders, the ratios to TRL's best, and texts from before and after training.

    Seconds and tokens are medians with the lowest and highest; of contenders that did not reach the target with every
    seed they say how long they were given.
    """
    contenders = {name: [r for r in results if r["contender"] == name] for name in (*OURS, *TRL)}
    contenders = {name: sorted(of, key=lambda r: r["seed"]) for name, of in contenders.items() if of}
    lines = ["| contender | reached | s of CPU | s | tokens | gold gain | KL | distinct x | length |", "|" + "---|" * 9]
    for name, of in contenders.items():
        ends = [r["curve"][-1] for r in of]
        columns = {key: [end[key] for end in ends] for key in ends[0]}
        shown = [("cpu", ".1f"), ("wall", ".1f"), ("tokens", ".0f"), ("gain", ".3f"), ("kl", ".1f")]
        cells = [spread(columns[key], form) for key, form in [*shown, ("distinct", ".2f"), ("length", ".1f")]]
        lines.append(f"| {name} | {sum(r['reached'] for r in of)} of {len(of)} | {' | '.join(cells)} |")
    if theirs := {name: rank(of) for name, of in contenders.items() if name in TRL}:
        best = min(theirs, key=lambda name: theirs[name])
        some = ", of runs that did not all reach it (a lower bound)" if theirs[best][0] else ""
        for name in (name for name in contenders if name in OURS and not rank(contenders[name])[0]):
            ratios = "; ".join(_ratios(contenders[best], contenders[name]))
            lines += ["", f"{best} / {name}, seed by seed{some}: {ratios}"]
    for name, of in contenders.items():
        lines += ["", f"{name}, seed {of[0]['seed']}:"]
        lines += [f"- {prompt!r}: {before!r} -> {after!r}" for prompt, before, after in of[0]["samples"][:n_samples]]
    return lines


def _ratios(theirs: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ratios of the runs of two contenders, pair by pair."""
    pairs = [(a["curve"][-1], b["curve"][-1]) for a, b in zip(theirs, own, strict=False)]
    names = {"cpu": "s of CPU", "wall": "s", "tokens": "tokens"}
    return [f"{shown} {spread([a[key] / b[key] for a, b in pairs])}" for key, shown in names.items()]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="the folder of the results, read where there are some")
    parser.add_argument("--contenders", nargs="+", choices=(*OURS, *TRL), default=[*OURS, *TRL])
    parser.add_argument("--seeds", nargs="+", type=int, default=None)
    parser.add_argument("--split", default=None)
    parser.add_argument("--jobs", type=int, default=1, help="races at a time")
    parser.add_argument("--grid", action="store_true", help="find the best settings")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="settings of every contender")
    for one in fields(Race):
        if one.name in ("model", "train", "prompt_tokens", "every", "tokens", "episodes"):
            parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    args = parser.parse_args(argv)
    shared = {name: getattr(args, name) for name in ("model", "train", "prompt_tokens", "every", "tokens", "episodes")}
    shared["split"] = args.split or ("validation" if args.grid else "test")
    given = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in args.set)}
    if args.grid:
        for name in args.contenders:
            print(f"{name}: {grid(Race(name, **shared), args.seeds or range(100, 106), args.out, args.jobs)}")
        return
    races = [
        Race(name, {**CHOSEN.get(name, {}), **given}, seed, **shared)
        for seed in args.seeds or range(3)
        for name in args.contenders
    ]
    print("\n".join(report(run_all(races, args.out, args.jobs))))
