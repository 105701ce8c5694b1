"""Measure the memory of a run whose ranks share the weights against one whose ranks have copies.

    python -m benchmarks.sharding --ranks 2

Each rank builds the same model of GPT-2's shape (`--width`, `--blocks`; 163 MB of float32 weights by default), learns
with stock PPO on rising numbers, all weights, and the first rank saves the agent. Resident memory is what the kernel
says of each rank: once the model is built, at its highest in training (up to the last rollout), and at its highest of
all, when the first rank has the whole agent and saves it; without what a process has after its imports. Seconds of CPU
are of training.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]

MB = 2**20


def _resident(key: str) -> float:
    """Return a figure of this process's memory in MB: VmRSS now, or VmHWM, the highest since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def train(width: int, blocks: int, rollouts: int, sharded: bool, folder: str) -> dict[str, float]:
    """Be one rank: train and save. Return the memory of each phase in MB."""
    import agents
    from agents.core.models import build_model
    from agents.core.sharding import shard
    from agents.scale.group import is_first, joined

    with joined():
        env: Any = agents.make_vec_env("rlhf/IncreasingNumbers-v0", 4, seed=0, max_new_tokens=8)
        imported = _resident("VmRSS")
        model = build_model(int(env.action_space.n), 64, blocks, width, max(1, width // 64))
        size = sum(p.numel() * p.element_size() for p in model.parameters()) / MB
        agent = agents.make("ppo", env, seed=0, model=model, n_steps=8, batch_size=32, n_epochs=2)
        if sharded:
            shard(agent)
        found = {"weights": size, "built": _resident("VmRSS") - imported}
        _forget_peak()
        worked = time.process_time()

        def look(*_: object) -> bool:
            found["training"] = _resident("VmHWM") - imported
            return True

        agent.learn(rollouts * 32 * int(os.environ["WORLD_SIZE"]), look)
        found["worked"] = time.process_time() - worked
        if is_first():
            agents.save(agent, folder)
        return found | {"the end": _resident("VmHWM") - imported}


def _measure(options: argparse.Namespace, sharded: bool) -> list[dict[str, float]]:
    given = ["--width", str(options.width), "--blocks", str(options.blocks), "--rollouts", str(options.rollouts)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(options.ranks)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env |= {"MASTER_PORT": str(free.getsockname()[1])}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.sharding", *given, "--be-a-rank", f"{folder}/agent"]
        command += ["--sharded"] if sharded else []
        started = [
            subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
            for rank in range(options.ranks)
        ]
        printed = [process.communicate()[0] for process in started]
    if failed := [process.returncode for process in started if process.returncode]:
        raise SystemExit(failed[0])
    return [json.loads(text.splitlines()[-1]) for text in printed]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both, and print a row per rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--rollouts", type=int, default=3)
    parser.add_argument("--be-a-rank", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--sharded", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.be_a_rank:
        print(json.dumps(train(options.width, options.blocks, options.rollouts, options.sharded, options.be_a_rank)))
        return
    for sharded in (False, True):
        for rank, found in enumerate(_measure(options, sharded)):
            parts = ", ".join(f"{phase} {found[phase]:.0f}" for phase in ("built", "training", "the end"))
            kind = "shards" if sharded else "copies"
            print(
                f"{kind}, rank {rank} of {options.ranks}: {parts} MB; {found['training'] / found['weights']:.1f} times "
                f"the weights ({found['weights']:.0f} MB) in training, {found['worked']:.1f} s of CPU",
                flush=True,
            )


if __name__ == "__main__":
    main()
