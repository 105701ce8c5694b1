"""Measure how long it takes until a held-out judge finds a model better: our algorithms and TRL's trainers.

`python -m benchmarks.time_to_quality --out FOLDER` trains "tiny" with each contender and seed, in turns, every run in a
process of its own on one thread. A run ends as soon as "gold", which nobody trains against, has gained 0.15 on held-out
prompts, at a KL of at most 6 nats and with at least 0.8 of the start's share of distinct bigrams; or at a limit of
tokens. It looks after every iteration, and the clock stands still meanwhile. What `benchmarks/quality_race.py` says is
the same for everybody. Results stay in the folder, a file per run, and the same command goes on from them.

TRL's settings are the best of `--grid`, which is run on the validation split and seeds 100 and 101: of the combinations
of the `first` choices in `GRIDS`, then of the best one with those of `second`, then the best 3 on the other seed. A run
of the grid is given up once it has taken 1.5 times as long as the best one. Ours (`CHOSEN`) were chosen by hand on the
same split and seeds, from fewer settings. What neither names has its value of `agents/training/settings` for ours, and
TRL's default for TRL's.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .quality_race import Race, save
from .worker import spread

__all__ = ["grid", "main", "report"]

OURS, TRL = ("ppo", "grpo", "rloo", "reinforce", "online_dpo"), ("trl-grpo", "trl-rloo")


@dataclass(frozen=True)
class Grid:
    """Hold the choices of the two steps of a search, and what those of the second are in the first."""

    first: dict[str, tuple[Any, ...]]
    second: dict[str, tuple[Any, ...]]
    start: dict[str, Any]


RATES = (4e-4, 2e-4, 8e-4)
_TRL = Grid(
    {"learning_rate": RATES, "num_generations": (4, 8), "completions": (32, 64)},
    {"beta": (0.04, 0.2), "num_iterations": (1, 2)},
    {"beta": 0.04, "num_iterations": 1},
)
# Ours take a step per iteration. Adam's epsilon is torch's, as in TRL: with SB3's 1e-5 the first steps are shorter.
_SHARED = {"n_envs": 32, "n_epochs": 1, "batch_size": 1024, "optimizer_kwargs": {"eps": 1e-8}}
_GROUPS = {**_SHARED, "group_size": 8}
_GRPO = {**_GROUPS, "kl_coef": 0.04, "kl_target": None, "clip_range": None}
GRIDS = {"trl-grpo": _TRL, "trl-rloo": _TRL}
CHOSEN: dict[str, dict[str, Any]] = {
    "ppo": {"learning_rate": 4e-4, **_SHARED},
    "grpo": {"learning_rate": 4e-4, **_GRPO},
    "rloo": {"learning_rate": 4e-4, **_GROUPS},
    "reinforce": {"learning_rate": 4e-4, **_SHARED},
    "online_dpo": {"learning_rate": 4e-4, **_SHARED},
    "trl-grpo": {"learning_rate": 4e-4, "num_generations": 8, "completions": 32, "beta": 0.2, "num_iterations": 1},
    "trl-rloo": {"learning_rate": 4e-4, "num_generations": 8, "completions": 64, "beta": 0.04, "num_iterations": 1},
}
PATIENCE, FINALISTS = 1.5, 3
# What every process needs is imported once.
PRELOAD = ["agents.evaluation.evaluate", "torch._dynamo", "transformers.models.gpt2.modeling_gpt2"]
PRELOAD += ["trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer"]


def combinations(choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return all settings of a grid."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def cost(results: Iterable[Mapping[str, Any]]) -> float:
    """Return the mean seconds of CPU until the target over some runs; infinite if one did not reach it."""
    return statistics.mean(r["curve"][-1]["cpu"] if r["reached"] else math.inf for r in results)


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
                best = min((cost([r]) for r in read(folder) if r["contender"] == race.contender), default=math.inf)
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
    """Return the best settings of a contender, by the seconds of CPU until the target, see the module.

    Args:
        like: the contender and what all races share.
        seeds: the first for all arms, the others for the best ones.
        folder: holds the results.
        jobs: races at a time.
    """

    def run(arms: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
        races = [replace(like, settings=arm, seed=seed) for arm in arms]
        run_all(races, folder, jobs, PATIENCE)
        return [arm for _, arm in sorted(_ranked(races, folder), key=lambda pair: pair[0])]

    choices = GRIDS[like.contender]
    best = run([{**arm, **choices.start} for arm in combinations(choices.first)], seeds[0])
    around = run([{**best[0], **arm} for arm in combinations(choices.second)], seeds[0])
    finalists = [*around[:2], *(arm for arm in best if arm not in around[:2])][:FINALISTS]
    for seed in seeds[1:]:
        run(finalists, seed)
    return min(finalists, key=lambda arm: cost(_of_arm(replace(like, settings=arm), folder)))


def _ranked(races: Sequence[Race], folder: Path) -> list[tuple[float, dict[str, Any]]]:
    return [(cost(_of_arm(race, folder)), dict(race.settings)) for race in races]


def _of_arm(race: Race, folder: Path) -> list[dict[str, Any]]:
    return [result for result in read(folder) if result["arm"] == race.arm]


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
    theirs = {name: cost(of) for name, of in contenders.items() if name in TRL}
    if theirs and min(theirs.values()) < math.inf:
        best = min(theirs, key=lambda name: theirs[name])
        for name in (name for name in contenders if name in OURS and cost(contenders[name]) < math.inf):
            lines += ["", f"{best} / {name}, seed by seed: " + "; ".join(_ratios(contenders[best], contenders[name]))]
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
    parser.add_argument("--grid", action="store_true", help="find the best settings of TRL's trainers")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="settings of every contender")
    for field in fields(Race):
        if field.name in ("model", "train", "prompt_tokens", "every", "tokens", "episodes"):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = parser.parse_args(argv)
    shared = {name: getattr(args, name) for name in ("model", "train", "prompt_tokens", "every", "tokens", "episodes")}
    shared["split"] = args.split or ("validation" if args.grid else "test")
    given = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in args.set)}
    if args.grid:
        for name in (name for name in args.contenders if name in GRIDS):
            print(f"{name}: {grid(Race(name, **shared), args.seeds or (100, 101), args.out, args.jobs)}")
        return
    races = [
        Race(name, {**CHOSEN.get(name, {}), **given}, seed, **shared)
        for seed in args.seeds or range(3)
        for name in args.contenders
    ]
    print("\n".join(report(run_all(races, args.out, args.jobs))))


if __name__ == "__main__":
    main()
