"""Time one whole iteration, side by side: this project, the bare model, SB3 with one row per token, TRL.

`python -m benchmarks.throughput` prints tokens per second and peak memory of an iteration (rollout, reward, KL to the
reference, epochs of updates) of

- `ours`: stock PPO, `TokenPolicy`, `SequenceRolloutBuffer`;
- `floor`: the same model's bare passes for the same tokens (see `benchmarks/contenders/floor.py`);
- `rows`: the same stock PPO with SB3's buffer, one row per token;
- `grpo`, `rloo`: TRL's trainers (see `benchmarks/contenders/trl.py`); with `--train k` or `head` each twice, once
  training all layers and once with the others frozen (`grpo-frozen`), because either may be the faster.

Every contender has a process of its own and they take turns. Same model in float32, same number of prompts of exactly
`--prompt-tokens`, completions of exactly `--new-tokens` (see `benchmarks/work.py`), temperature 1, the same reward, the
same number of optimiser steps. Seconds are wall-clock seconds; processor seconds are printed too, for a machine that
others use. `--profile` prints where our time and the floor's go. `--ragged` compares rollouts whose completions end at
random with a decode loop that waits for the longest.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from typing import Any

from .work import Work
from .worker import Measurement, interleave, spread

__all__ = ["compare", "main"]

CONTENDERS = {
    "ours": "benchmarks.contenders:Ours",
    "floor": "benchmarks.contenders.floor:Floor",
    "rows": "benchmarks.contenders:Rows",
    "grpo": "benchmarks.contenders.trl:Grpo",
    "rloo": "benchmarks.contenders.trl:Rloo",
}

PARTS = (
    "prefill and decode",
    "head and sampling",
    "environment",
    "reward",
    "buffer",
    "reference KL",
    "update: forward",
    "update: backward",
    "update: clipping",
    "update: optimiser",
    "rest",
)


def compare(work: Work, names: list[str], repeats: int) -> dict[str, list[Measurement]]:
    """Measure whole iterations of the contenders, in turns, and return the measurements by name."""
    jobs: dict[str, tuple[str, Work, dict[str, Any]]] = {}
    for name in names:
        jobs[name] = (CONTENDERS[name], work, {})
        if name in ("grpo", "rloo") and work.train != "full":
            jobs[f"{name}-frozen"] = (CONTENDERS[name], work, {"frozen": True})
    results = {name: by_command["iterate"] for name, by_command in interleave(jobs, repeats).items()}
    for name, measurements in results.items():
        for m in measurements:
            expected = work.tokens, work.epochs * work.minibatches
            if (m.tokens, m.optimizer_steps) != expected:
                raise RuntimeError(
                    f"{name} did other work: (tokens, optimiser steps) {(m.tokens, m.optimizer_steps)}, not {expected}"
                )
    return results


def print_table(work: Work, results: dict[str, list[Measurement]]) -> None:
    """Print medians and spreads, and the medians of the ratios of neighbouring runs."""
    epochs = f"{work.epochs} epoch{'s' * (work.epochs > 1)}"
    print(f"\n{epochs} of {work.minibatches} updates, {work.tokens} tokens per iteration")
    print(
        f"{'':>12} | {'tokens/s':>22} | {'s/iteration':>20} | {'cpu s':>6} | {'peak MB':>8} | {'above MB':>8} | "
        "its time / ours"
    )
    ours = results.get("ours")
    for name, measurements in results.items():
        rates = spread([m.tokens / m.seconds for m in measurements], ".0f")
        seconds = spread([m.seconds for m in measurements])
        peak, above = (statistics.median(v) / 1e6 for v in zip(*((m.peak, m.above) for m in measurements), strict=True))
        cpu, ratio = statistics.median(m.cpu_seconds for m in measurements), ""
        if ours and name != "ours":
            ratio = spread([theirs.seconds / own.seconds for own, theirs in zip(ours, measurements, strict=True)])
        print(f"{name:>12} | {rates:>22} | {seconds:>20} | {cpu:6.2f} | {peak:8.0f} | {above:8.0f} | {ratio}")
    if ours and "floor" in results:
        ratios = [own.seconds / bare.seconds for own, bare in zip(ours, results["floor"], strict=True)]
        print(f"ours / floor: {spread(ratios)}")


def print_profile(work: Work, repeats: int) -> None:
    """Print milliseconds per iteration by part, of ours and of the floor."""
    jobs: dict[str, tuple[str, Work, dict[str, Any]]] = {
        "ours": ("benchmarks.profiling:ProfiledOurs", work, {}),
        "floor": ("benchmarks.profiling:ProfiledFloor", work, {}),
    }
    profiles = {
        name: [m.profile | {"whole": m.seconds} for m in by_command["iterate"]]
        for name, by_command in interleave(jobs, repeats).items()
    }
    print(f"\n{work.epochs} epoch{'s' * (work.epochs > 1)}, milliseconds per iteration, medians of {repeats}")
    print(f"{'':>20} |     ours |    floor | difference | of ours")
    medians = {
        n: {p: 1e3 * statistics.median(r.get(p, 0.0) for r in rows) for p in (*PARTS, "whole")}
        for n, rows in profiles.items()
    }
    for part in (*PARTS, "whole"):
        own, bare = medians["ours"][part], medians["floor"][part]
        print(f"{part:>20} | {own:8.1f} | {bare:8.1f} | {own - bare:10.1f} | {own / medians['ours']['whole']:6.1%}")


def print_ragged(work: Work, repeats: int) -> None:
    """Print tokens per second of both, and the median of the paired ratios."""
    results = interleave(
        {"ours": ("benchmarks.ragged:RaggedOurs", work, {}), "waiting": ("benchmarks.ragged:Waiting", work, {})},
        repeats,
        ["rollout"],
    )
    rates = {name: [m.tokens / m.seconds for m in by_command["rollout"]] for name, by_command in results.items()}
    print(f"\nragged rollouts, at most {work.new_tokens} tokens, a third of that on average")
    for name, values in rates.items():
        tokens = [m.tokens for m in results[name]["rollout"]]
        print(f"{name:>12} | {spread(values, '.0f'):>22} tokens/s | {spread(tokens, '.0f')} tokens per rollout")
    print(f"ours / waiting: {spread([a / b for a, b in zip(rates['ours'], rates['waiting'], strict=True)])}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Work()
    parser.add_argument("--model", default=default.model)
    parser.add_argument("--train", type=lambda text: int(text) if text.isdecimal() else text, default=default.train)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 4])
    for name in ("n_envs", "prompt_tokens", "new_tokens", "minibatches", "threads", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(default, name))
    parser.add_argument("--reward", default=default.reward, help='"rule", or a registered one such as "tiny-reward"')
    parser.add_argument("--device", default=default.device)
    parser.add_argument("--policy-kwargs", type=json.loads, help="JSON, further arguments of TokenPolicy")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where our time and the floor's go")
    parser.add_argument("--ragged", action="store_true", help="compare only rollouts that end at random")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    options = {k: v for k, v in vars(args).items() if k not in ("contenders", "epochs", "repeats", "profile", "ragged")}
    print(
        describe(), "\n" + ", ".join(f"{k} {v}" for k, v in options.items()) + f", repeats {args.repeats}", flush=True
    )
    if args.ragged:
        print_ragged(Work(**options, ragged=True), args.repeats)
        return
    for epochs in args.epochs:
        work = Work(**options, epochs=epochs)
        if args.profile:
            print_profile(work, args.repeats)
        else:
            print_table(work, compare(work, args.contenders, args.repeats))


def describe() -> str:
    """Describe the machine and the versions of the libraries."""
    import os
    from importlib.metadata import version

    libraries = ("torch", "transformers", "stable-baselines3")
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
