"""Measure what a step of a rollout costs beside the model, in two checkouts, side by side.

    git worktree add ../before COMMIT
    python -m benchmarks.steps ../before .

Stock PPO, or DQN with `--algo dqn`, collects rollouts with a very small model. What any decoding does is measured and
left out: the model's trunk, its head, and sampling. What remains is Python and numpy: the environment's step, the
observation, the KV cache's care for its slots, the rollout buffer, and SB3's loop. Seconds are the process's own on one
core, since those by the clock depend on what else the machine does. Each checkout runs in a process of its own, in
turns. Printed are medians over the steps, so the first step of a rollout, in which the buffer stores all contexts,
hardly counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any

__all__ = ["Rollouts", "main"]

STEPS = 32  # of a rollout
PARTS = ("environment", "observation", "cache", "buffer", "loop")


class Rollouts:
    """Collect rollouts of `n_envs` contexts that reach `length` tokens, and measure the parts of their steps."""

    def __init__(self, n_envs: int, length: int, steps: int = STEPS, algo: str = "ppo") -> None:
        # Late, because they are the checkout's own.
        from benchmarks.contenders import Ours
        from benchmarks.work import FreshModel, Work

        new_tokens = max(min(4 * steps, length // 2), steps)
        model = FreshModel(vocab_size=64, n_layer=1, n_embd=16, n_head=2)
        sizes: dict[str, Any] = dict(
            n_envs=n_envs, prompt_tokens=length - new_tokens, new_tokens=new_tokens, minibatches=1
        )
        ours: Any = Ours
        work = Work(model, **sizes)
        self.agent = ours(work, None).agent
        if algo != "ppo":
            import agents

            settings: dict[str, Any] = dict(train_freq=steps, buffer_size=4 * n_envs * length, learning_starts=0)
            policy_kwargs = {"model": work.load()[0]}
            self.agent = agents.make(algo, self.agent.env, policy_kwargs=policy_kwargs, **settings)
        self.steps, self._part, self._since = steps, "loop", 0.0
        self.seconds, self.taken = defaultdict[str, float](float), list[dict[str, float]]()
        policy, env = self.agent.policy, self.agent.env
        buffer = self.agent.rollout_buffer if algo == "ppo" else self.agent.replay_buffer
        buffer.compute_returns_and_advantage = lambda *args, **kwargs: None
        self.arguments = (buffer, steps)
        if algo != "ppo":
            self.arguments = (self.agent.train_freq, buffer)
        self._measure(env.env, "step_rows", "environment")
        self._measure(env.env.episodes, "observe", "observation")
        self._measure(policy, "hidden", "cache")
        self._measure(policy._actor.module, "forward", "model")
        self._measure(policy, "forward" if algo == "ppo" else "acting_and_base", "sampling")
        self._measure(buffer, "add", "buffer")
        self.callback = self.agent._setup_learn(10**9)[1]
        if algo != "ppo":
            self.callback.on_training_start({}, {})
        self.collect()  # the prompts are encoded here

    def collect(self) -> list[dict[str, float]]:
        """Collect a rollout and return the milliseconds of each part in each step."""
        self.taken.clear()
        self._part, self._since = "loop", time.process_time()
        self.agent.collect_rollouts(self.agent.env, self.callback, *self.arguments)
        return self.taken

    def _enter(self, part: str) -> str:
        """Charge the time since the last call to the part that ran, begin another, and return the one that ran.

        A step ends where its transitions have been stored.
        """
        before, now = self._part, time.process_time()
        self.seconds[before] += now - self._since
        self._part, self._since = part, now
        if (before, part) == ("buffer", "loop"):
            self.taken.append({name: 1000 * self.seconds[name] for name in PARTS})
            self.seconds.clear()
        return before

    def _measure(self, owner: Any, name: str, part: str) -> None:
        """Charge the time inside a method to a part, without what other parts take inside it."""
        method = getattr(owner, name)

        @wraps(method)
        def measured(*args: Any, **kwargs: Any) -> Any:
            before = self._enter(part)
            try:
                return method(*args, **kwargs)
            finally:
                self._enter(before)

        setattr(owner, name, measured)


def serve(n_envs: int, length: int, algo: str) -> None:
    """Collect a rollout for every line of the input, and print its parts."""
    rollouts = Rollouts(n_envs, length, algo=algo)
    for _ in sys.stdin:
        print(json.dumps(rollouts.collect()), flush=True)


def compare(
    checkouts: Sequence[Path], n_envs: int, length: int, repeats: int, algo: str = "ppo"
) -> list[list[dict[str, float]]]:
    """Return what each checkout's steps took."""
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--serve", f"{n_envs}x{length}x{algo}"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        children = []
        for checkout in checkouts:
            settings = {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            child = subprocess.Popen(command, cwd=folder, env=os.environ | settings, **pipes)
            children.append(stack.enter_context(child))
        taken: list[list[dict[str, float]]] = [[] for _ in children]
        for _ in range(repeats):
            for child, steps in zip(children, taken, strict=True):
                assert child.stdin is not None
                assert child.stdout is not None
                print(file=child.stdin, flush=True)
                steps += json.loads(child.stdout.readline())
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--sizes", nargs="*", default=["256x1024", "64x48"], help="environments x tokens of context")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--algo", choices=("ppo", "dqn"), default="ppo")
    args = parser.parse_args(arguments)
    for size in args.sizes:
        n_envs, length = map(int, size.split("x"))
        taken = compare((args.old, args.new), n_envs, length, args.repeats, args.algo)
        print(f"\n| {n_envs} environments x {length} tokens, ms per step | old | new | new / old |\n|---|---|---|---|")
        for part in (*PARTS, "all"):
            old, new = (
                statistics.median(sum(s.values()) if part == "all" else s[part] for s in steps) for steps in taken
            )
            print(f"| {part} | {old:.3f} | {new:.3f} | {new / old:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        size, tokens, algorithm = sys.argv[2].split("x")
        serve(int(size), int(tokens), algorithm)
    else:
        main()
