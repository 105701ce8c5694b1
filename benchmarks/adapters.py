"""Measure what LoRA costs against training all weights: time, or memory above the model's own weights.

`python -m benchmarks.adapters` runs whole iterations of PPO with `train="lora"` and with `train="full"` (see
`benchmarks.throughput`) in processes of their own, in turns. With `--memory` a third process holds the same model and
does nothing: its memory is taken off both peaks. Blocks are then mapped one by one, as in `benchmarks.memory`, which
takes time: every new block costs page faults. So time is measured without `--memory`.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace
from typing import Any

from .throughput import describe
from .work import FreshModel, Work
from .worker import Measurement, Session, interleave, spread

__all__ = ["Idle", "main"]

WORK = Work("smollm2", n_envs=8, prompt_tokens=32, new_tokens=32, minibatches=2)
TOY = Work(FreshModel(vocab_size=64, n_layer=1, n_embd=16, n_head=2), n_envs=4, prompt_tokens=2, new_tokens=4)
MAX_MEMORY, MAX_TIME = 0.4, 0.75


class Idle:
    """Hold the model, and answer each command by doing nothing."""

    def __init__(self, work: Work, session: Session) -> None:
        self.session, self.model = session, work.load()
        for parameter in self.model[0].parameters():
            parameter.sum()  # weights in a mapped file take memory only once they are read

    def drive(self) -> None:
        """Run the session's commands until there is none left."""
        while self.session.next():
            pass


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=1, help="passes over a rollout; PPO's default is 4")
    parser.add_argument("--rank", type=int, default=16, help="r of the adapters")
    parser.add_argument("--memory", action="store_true", help="measure memory, and not time")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, only to see that it runs")
    args = parser.parse_args(arguments)
    if args.memory:
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**16))  # as in benchmarks.memory
    work = replace(TOY if args.toy else WORK, threads=args.threads, device=args.device, epochs=args.epochs)
    lora = replace(work, train="lora", policy_kwargs={"lora": {"r": args.rank}})
    jobs: dict[str, tuple[str, Work, dict[str, Any]]] = {
        "full": ("benchmarks.contenders:Ours", work, {}),
        "lora": ("benchmarks.contenders:Ours", lora, {}),
    }
    if args.memory:
        jobs["idle"] = ("benchmarks.adapters:Idle", work, {})
    runs = {name: by_command["iterate"] for name, by_command in interleave(jobs, args.repeats).items()}
    print(f"{describe()}, {args.threads} threads, {args.device}, r={args.rank}, medians of {args.repeats}")
    print(f"{work.tokens} tokens per iteration, {work.epochs} x {work.minibatches} updates\n")
    (show_memory if args.memory else show_time)(runs)


def show_time(runs: dict[str, list[Measurement]]) -> None:
    """Print the seconds of an iteration, by the clock and of the cores, and the ratios of the turns."""
    print("| train | s/iteration | cpu s |\n|---|---|---|")
    for name, measured in runs.items():
        seconds, cpu = spread([m.seconds for m in measured]), spread([m.cpu_seconds for m in measured])
        print(f"| {name} | {seconds} | {cpu} |")
    pairs = list(zip(runs["lora"], runs["full"], strict=True))
    clock = spread([lora.seconds / full.seconds for lora, full in pairs])
    cpu = spread([lora.cpu_seconds / full.cpu_seconds for lora, full in pairs])
    print(f"\nlora / full, an iteration: {clock} by the clock, {cpu} of the cores (asked: at most {MAX_TIME})")


def show_memory(runs: dict[str, list[Measurement]]) -> None:
    """Print the peaks of memory, and what of them is above the idle model."""
    idle = statistics.median(m.peak for m in runs.pop("idle"))
    print(f"model and libraries: {idle / 1e6:.0f} MB\n")
    print("| train | peak MB | above the idle model, MB |\n|---|---|---|")
    peaks = {name: statistics.median(m.peak for m in measured) for name, measured in runs.items()}
    for name, peak in peaks.items():
        print(f"| {name} | {peak / 1e6:.0f} | {(peak - idle) / 1e6:.0f} |")
    ratio = (peaks["lora"] - idle) / (peaks["full"] - idle)
    print(f"\nlora / full, memory above the model: {ratio:.2f} (asked: at most {MAX_MEMORY})")


if __name__ == "__main__":
    main()
