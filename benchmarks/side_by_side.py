"""Time the README's quick start in two checkouts, side by side.

    git worktree add ../before COMMIT
    python -m benchmarks.side_by_side --pairs 3 ../before .

Both checkouts run `rlhf train --env rlhf/Sentiment-v0 --algo ppo` at the same time, each on a core of its own, so that
whatever else the machine does slows both. The next pair swaps the cores (`--cores 0 1`). Needs two cores and Linux.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHILD = """
import json, resource, subprocess, sys, time

start = time.perf_counter()
command = [sys.executable, "-c", "from agents.cli import app; app()", *sys.argv[1:]]
subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - start, used.ru_utime + used.ru_stime]))
"""


def run(checkout: Path, core: int, arguments: list[str]) -> tuple[float, float]:
    """Return the seconds of a run by the clock, and those that its core worked."""
    env = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = ["taskset", "-c", str(core), sys.executable, "-c", CHILD, *arguments]
        done = subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True)
    wall, cpu = done.stdout.strip().splitlines()[-1].strip("[]").split(",")
    return float(wall), float(cpu)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the pairs and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1])
    parser.add_argument("arguments", nargs="*", default=["train", "--env", "rlhf/Sentiment-v0", "--algo", "ppo"])
    options = parser.parse_args(arguments)
    ratios = []
    for pair in range(options.pairs):
        cores = options.cores if pair % 2 == 0 else options.cores[::-1]
        with ThreadPoolExecutor(2) as pool:
            jobs = zip((options.old, options.new), cores, strict=True)
            old, new = pool.map(lambda job: run(*job, options.arguments), jobs)
        ratios.append(new[1] / old[1])
        print(f"pair {pair + 1}, seconds of CPU (by the clock): old {old[1]:.1f} ({old[0]:.1f}), ", end="")
        print(f"new {new[1]:.1f} ({new[0]:.1f}), ratio {ratios[-1]:.3f}", flush=True)
    spread = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
    print(
        f"new / old in seconds of CPU: {statistics.mean(ratios):.3f} ± {spread:.3f} (standard deviation of the pairs)"
    )


if __name__ == "__main__":
    main()
