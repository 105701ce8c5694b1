"""Time a run whose rollouts Ray workers collect against one process: the same settings, one thread per process.

    python -m benchmarks.workers --workers 0 2 --repeats 2
    python -m benchmarks.workers --workers 0 2 --async 1

Each number of workers trains SmolLM2 with LoRA and stock PPO on film reviews: the same environments, tokens and
minibatches in all. 0 is one process without Ray and with one thread. With workers each has one thread, and the learner
`--learner-threads`, since the workers wait while it learns. The numbers take turns. The first rollout with its update
is not timed. Tokens per second are by the clock; the seconds that the learner and its workers worked are printed too,
for a machine that others use, and the load (of one minute) when each began. With workers it also says which share of
the time the learner waited for rollouts, and which it took to put weights into the object store and to read rollouts.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train one rollout, then time others. Return the tokens, the seconds, the work and the shares."""
    import psutil  # type: ignore[import-untyped]
    from stable_baselines3.common.callbacks import BaseCallback

    from agents.scale.learner import collecting
    from agents.training.config import TrainConfig
    from agents.training.run import prepare
    from agents.training.run import train as run

    def worked() -> float:  # of this process and of all that it has started, Ray's own among them
        mine = psutil.Process()
        seconds = 0.0
        for process in [mine, *mine.children(recursive=True), *_ray_processes()]:
            try:
                used = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += used.user + used.system
        return seconds

    class Clock(BaseCallback):
        """Note tokens, time and work when the first rollout has been learned from, and when the last has."""

        def __init__(self) -> None:
            super().__init__()
            self.marks: list[tuple[float, float, float]] = []

        def _mark(self) -> None:
            self.marks.append((self.num_timesteps, time.perf_counter(), worked()))

        def _on_rollout_start(self) -> None:
            self._mark()

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            self._mark()

    rollout = options.n_envs * options.new_tokens
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            env="rlhf/Sentiment-v0",
            model=options.model,
            train="lora",
            n_envs=options.n_envs,
            n_timesteps=(1 + options.rollouts) * rollout,
            env_kwargs={"max_new_tokens": options.new_tokens},
            hyperparams={"n_steps": options.new_tokens, "batch_size": rollout // 2, "n_epochs": 2},
            eval_freq=0,
            test_episodes=2,
            log_folder=folder,
            progress=False,
            threads=options.learner_threads if options.be else 1,
            workers=options.be,
            async_rollouts=options.lag if options.be else 0,
            ray_address="local" if options.be else None,
        )
        clock = Clock()
        if options.be:
            with collecting(config) as rollouts:
                prepared = prepare(rollouts.config, rollouts)
                prepared.callbacks.append(clock)
                result = run(prepared)
        else:
            prepared = prepare(config)
            prepared.callbacks.append(clock)
            result = run(prepared)
        spent = _spent(result.folder) if options.be else {}
    (_, *_), (tokens, begin, work), *_, (last, end, after) = clock.marks
    return {"tokens": last - tokens, "seconds": end - begin, "worked": after - work} | spent


def _ray_processes() -> list[Any]:
    """Return the workers of this machine, which are children of Ray's daemon; it may have left this process."""
    import psutil

    named = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    mine = {process.pid for process in psutil.Process().children(recursive=True)}
    return [p for p in named if p.info["cmdline"][0].startswith("ray::RolloutWorker") and p.pid not in mine]


def _spent(folder: Path) -> dict[str, float]:
    """Return the seconds waited and transferred after the first rollout, as the run logged them."""
    with (folder / "progress.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[1:]
    names = {"waited": "workers/waited_seconds", "transferred": "workers/transfer_seconds"}
    return {name: sum(float(row[tag]) for row in rows) for name, tag in names.items()}


def _measure(workers: int, options: argparse.Namespace) -> dict[str, float]:
    given = {"--model": options.model, "--n-envs": options.n_envs, "--rollouts": options.rollouts}
    given |= {"--new-tokens": options.new_tokens, "--learner-threads": options.learner_threads, "--async": options.lag}
    flags = [str(word) for pair in given.items() for word in pair]
    command = [sys.executable, "-m", "benchmarks.workers", *flags, "--be", str(workers)]
    threads = str(options.learner_threads if workers else 1)
    load, env = os.getloadavg()[0], os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    line = json.loads(done.stdout.splitlines()[-1])
    return line | {"speed": line["tokens"] / line["seconds"], "load": load}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time each number of workers in turns, and print tokens per second and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--n-envs", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=2)
    parser.add_argument("--learner-threads", type=int, default=2)
    parser.add_argument("--async", dest="lag", type=int, default=0, choices=(0, 1))
    parser.add_argument("--be", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.be is not None:
        print(json.dumps(train(options)), flush=True)
        return
    speeds: dict[int, list[float]] = {workers: [] for workers in options.workers}
    for _ in range(options.repeats):
        for workers in options.workers:
            found = _measure(workers, options)
            speeds[workers].append(found["speed"])
            took = f"{found['tokens']:.0f} tokens in {found['seconds']:.1f} s, {found['worked']:.1f} s of CPU"
            shares = {name: found[name] / found["seconds"] for name in ("waited", "transferred") if name in found}
            told = "".join(f", {name} {share:.1%}" for name, share in shares.items())
            print(
                f"{workers} workers: {found['speed']:.1f} tokens/s, {took}{told}, load {found['load']:.1f}", flush=True
            )
    medians = {workers: statistics.median(found) for workers, found in speeds.items()}
    for workers, speed in medians.items():
        ratio = speed / medians[options.workers[0]]
        print(f"{workers} workers: median {speed:.1f} tokens/s, {ratio:.2f} times the first")


if __name__ == "__main__":
    main()
