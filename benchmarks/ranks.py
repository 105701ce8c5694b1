"""Time a run on several ranks against one: the same settings, one thread per rank.

    python -m benchmarks.ranks --ranks 1 2 --repeats 2

Each number of ranks trains SmolLM2 with LoRA and stock PPO on film reviews: the same environments, tokens and
minibatches in all, shared by the ranks. The numbers of ranks take turns. The first rollout with its update, before
which ranks are given equal weights, is not timed. Tokens per second are by the clock; the seconds that the processes
worked are printed too, for a machine that others use, and the load (of one minute) when each began. Of several ranks
the first says which share of the time it waited for the others, and which it took to hand numbers over.

With `--apart` as many processes do what the ranks do, and do not talk to each other: what the machine's cores and
memory let them reach at most.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

__all__ = ["main"]


def train(model: str, n_envs: int, rollouts: int, new_tokens: int, apart: bool) -> dict[str, float]:
    """Be one rank: train one rollout, then time others. Return the tokens of all ranks, the seconds and the work."""
    import agents
    from agents.core import ranks
    from agents.scale.group import joined
    from agents.scale.launch import is_rank

    with joined() if is_rank() else nullcontext():
        world = int(os.environ.get("WORLD_SIZE", "1"))
        n, batch = n_envs // world, n_envs * new_tokens // 2
        env = agents.make_vec_env("rlhf/Sentiment-v0", n, seed=0, model=model, max_new_tokens=new_tokens)
        if apart:
            ranks.stop()
            batch //= world
        agent = agents.make("ppo", env, seed=0, train="lora", n_steps=new_tokens, batch_size=batch, n_epochs=2)
        clock = _Clock(is_rank() and not apart)
        agent.learn((1 + rollouts) * n_envs * new_tokens // (world if apart else 1), clock)
        return clock.read() | {"tokens": rollouts * n_envs * new_tokens}


class _Clock(BaseCallback):
    """Begin to count after the first rollout and its update; with `collectives` also what these take."""

    def __init__(self, collectives: bool) -> None:
        super().__init__()
        self._collectives, self._rollouts = collectives, 0
        self._spent: dict[str, float] = {}

    def _on_rollout_start(self) -> None:
        self._rollouts += 1
        if self._rollouts == 2:
            self._spent = _time_collectives() if self._collectives else {}
            self._begin, self._before = time.perf_counter(), _worked()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._times = {"seconds": time.perf_counter() - self._begin, "worked": _worked() - self._before}

    def read(self) -> dict[str, float]:
        """Return the seconds, and the seconds of CPU, until training ended."""
        return self._times | self._spent


def _time_collectives() -> dict[str, float]:
    """Return the seconds that this rank waits for others and hands numbers over; they grow from now on."""
    import torch.distributed as dist

    from agents.core import ranks

    spent, collective = {"waited": 0.0, "transferred": 0.0}, ranks._collective

    def timed(*arguments: Any, **options: Any) -> None:
        begin = time.perf_counter()
        dist.barrier()
        met = time.perf_counter()
        collective(*arguments, **options)
        spent["waited"] += met - begin
        spent["transferred"] += time.perf_counter() - met

    ranks._collective = timed
    return spent


def _worked() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _measure(ranks: int, options: argparse.Namespace) -> dict[str, float]:
    given = ["--model", options.model, "--n-envs", str(options.n_envs), "--rollouts", str(options.rollouts)]
    given += ["--new-tokens", str(options.new_tokens), *(["--apart"] if options.apart else [])]
    command = [sys.executable, "-m", "benchmarks.ranks", *given, "--be-a-rank"]
    load, env = os.getloadavg()[0], os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    # Without torchrun, which would give the ranks sessions, and with them priorities, of their own.
    ids = [{"RANK": str(rank)} for rank in range(ranks)]
    started = [subprocess.Popen(command, env=env | one, stdout=subprocess.PIPE, text=True) for one in ids]
    printed = [process.communicate()[0] for process in started]
    if failed := [process.returncode for process in started if process.returncode]:
        raise SystemExit(failed[0])
    lines = [json.loads(text.splitlines()[-1]) for text in printed]
    worked, seconds = sum(line["worked"] for line in lines), max(line["seconds"] for line in lines)
    speed = lines[0]["tokens"] / seconds
    return lines[0] | {"seconds": seconds, "worked": worked, "speed": speed, "load": load}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time each number of ranks in turns, and print tokens per second and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=2)
    parser.add_argument("--apart", action="store_true", help="let the ranks not talk to each other")
    parser.add_argument("--be-a-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.be_a_rank:
        sizes = options.n_envs, options.rollouts, options.new_tokens
        print(json.dumps(train(options.model, *sizes, options.apart)), flush=True)
        return
    speeds: dict[int, list[float]] = {ranks: [] for ranks in options.ranks}
    for _ in range(options.repeats):
        for ranks in options.ranks:
            found = _measure(ranks, options)
            speeds[ranks].append(found["speed"])
            took = f"{found['tokens']:.0f} tokens in {found['seconds']:.1f} s, {found['worked']:.1f} s of CPU"
            shares = {name: found[name] / found["seconds"] for name in ("waited", "transferred") if name in found}
            told = "".join(f", {name} {share:.1%}" for name, share in shares.items())
            print(f"{ranks} ranks: {found['speed']:.1f} tokens/s, {took}{told}, load {found['load']:.1f}", flush=True)
    medians = {ranks: statistics.median(found) for ranks, found in speeds.items()}
    for ranks, speed in medians.items():
        print(f"{ranks} ranks: median {speed:.1f} tokens/s, {speed / medians[options.ranks[0]]:.2f} times the first")


if __name__ == "__main__":
    main()
