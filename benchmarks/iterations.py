"""Time whole iterations of two checkouts, in turns.

    git worktree add ../before COMMIT
    python -m benchmarks.iterations ../before . --model smollm2 --train 4 --epochs 4

Each checkout has a process of its own that runs its own `benchmarks.contenders.Ours`, with the same `benchmarks.work`.
Never do both work at once, and each pair begins with the other one. Seconds are the processor's, which say more than
the clock's where others use the machine; both are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHILD = """
import json, sys, time, types
from benchmarks.contenders import Ours
from benchmarks.work import Work
import torch

arguments = json.loads(sys.argv[1])
torch.set_num_threads(arguments.get("threads", 1))
ours = Ours(Work(**arguments), types.SimpleNamespace(tokens=0))
for _ in sys.stdin:
    clock, cpu = time.perf_counter(), time.process_time()
    ours.iterate()
    print(json.dumps([time.perf_counter() - clock, time.process_time() - cpu]), flush=True)
"""


class Checkout:
    """Run the iterations of one checkout in a process of its own."""

    def __init__(self, folder: Path, work: dict[str, object]) -> None:
        env = os.environ | {"PYTHONPATH": str(folder.resolve()), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-P", "-c", CHILD, json.dumps(work)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=folder, env=env, stdin=pipe, stdout=pipe, text=True)

    def iterate(self) -> tuple[float, float]:
        """Return the seconds of an iteration by the clock, and the processor's."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        while not (line := self.process.stdout.readline()).startswith("["):  # SB3 prints too
            if not line:
                raise RuntimeError(f"{self.process.args!r} ended; its message stands above")
        clock, cpu = json.loads(line)
        return clock, cpu

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the pairs and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--train", type=lambda text: int(text) if text.isdecimal() else text, default="full")
    for name, default in (("epochs", 1), ("n_envs", 32), ("prompt_tokens", 16), ("new_tokens", 32), ("threads", 1)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    options = vars(parser.parse_args(arguments))
    old, new, pairs = (options.pop(name) for name in ("old", "new", "pairs"))
    print(", ".join(f"{name} {value}" for name, value in options.items()), flush=True)
    checkouts = [Checkout(old, options), Checkout(new, options)]
    ratios = []
    for pair in range(-1, pairs):  # the first of each allocates and warms up
        order = checkouts if pair % 2 == 0 else checkouts[::-1]
        seconds = {checkout: checkout.iterate() for checkout in order}
        if pair < 0:
            continue
        before, after = (seconds[checkout] for checkout in checkouts)
        ratios.append(after[1] / before[1])
        print(f"pair {pair + 1}, seconds of CPU (by the clock): old {before[1]:.2f} ({before[0]:.2f}), ", end="")
        print(f"new {after[1]:.2f} ({after[0]:.2f}), ratio {ratios[-1]:.3f}", flush=True)
    for checkout in checkouts:
        checkout.close()
    print(
        f"new / old in seconds of CPU: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
