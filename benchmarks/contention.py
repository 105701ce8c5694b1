"""Measure how much longer an iteration takes beside a busy process on every core, by how threads wait.

`python -m benchmarks.contention` starts each run as a process of its own: idle, and beside busy loops that are pinned
to one core each. "spin" is OpenMP's default, "passive" is OMP_WAIT_POLICY=passive, "one" is one thread
(OMP_NUM_THREADS=1), and "chosen" is what `agents.training.threads` chooses, as `rlhf train` does. A machine that does
something else spoils every line of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from agents.training.threads import NUMBER, OWN, POLICY

__all__ = ["main"]

MAX_RATIO = 2.2
SETTINGS = {"spin": {}, "passive": {POLICY: "passive"}, "one": {NUMBER: "1"}, "chosen": {}}
BUSY = "while True: pass"
RUN = """
import sys
from agents.training.threads import choose_threads

if sys.argv[1] == "chosen":
    choose_threads()
from benchmarks.contention import iterate

iterate(*sys.argv[2:])
"""


def iterate(model: str, train: str, iterations: str) -> None:
    """Print the seconds of each iteration of PPO, after one that is not counted."""
    import torch

    from agents import make, make_vec_env

    env = make_vec_env("rlhf/Sentiment-v0", 32, seed=0)
    part = int(train) if train.isdigit() else train
    agent = make("ppo", env, model=model, train=part, n_steps=16, batch_size=256, n_epochs=1, seed=0, device="cpu")
    agent.learn(1)
    seconds = []
    for _ in range(int(iterations)):
        start = time.perf_counter()
        agent.learn(1, reset_num_timesteps=False)
        seconds.append(time.perf_counter() - start)
    print(torch.get_num_threads(), *seconds)


@contextmanager
def busy_loops(cores: Sequence[int]) -> Iterator[None]:
    """Keep each of the cores busy while a `with` block runs."""
    loops = [
        subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", BUSY], start_new_session=True)
        for core in cores
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run(setting: str, *arguments: str) -> float:
    """Return the median of the seconds of an iteration in a process of its own."""
    others = {name: value for name, value in os.environ.items() if name not in OWN}
    env = others | {"HF_HUB_OFFLINE": "1"} | SETTINGS[setting]
    command = [sys.executable, "-c", RUN, setting, *arguments]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return statistics.median(map(float, done.stdout.split()[1:]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table: seconds of an iteration on an idle machine and beside busy loops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--train", default="full")
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=[*SETTINGS], choices=SETTINGS)
    options = parser.parse_args(arguments)
    given = (options.model, options.train, str(options.iterations))
    cores = sorted(os.sched_getaffinity(0))
    idle: dict[str, list[float]] = {name: [] for name in options.settings}
    busy: dict[str, list[float]] = {name: [] for name in options.settings}
    for _ in range(options.repeats):
        for name in options.settings:
            idle[name].append(run(name, *given))
            with busy_loops(cores):
                busy[name].append(run(name, *given))
    print(f"{options.model}, train {options.train}, {len(cores)} cores; medians of {options.repeats}, s/iteration\n")
    print("| threads wait by | idle | busy | busy / idle |\n|---|---|---|---|")
    for name in options.settings:
        ratio = statistics.median(b / i for i, b in zip(idle[name], busy[name], strict=True))
        row = [statistics.median(idle[name]), statistics.median(busy[name]), ratio]
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    print(f"\nasked: busy / idle at most {MAX_RATIO}, as chosen")


if __name__ == "__main__":
    main()
