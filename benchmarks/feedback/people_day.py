"""Simulate a day of people who rate every completion of a training run: what share of their time do they work?

    python -m benchmarks.feedback.people_day

`HumanReward` and the feedback store are the real ones; only the clock is virtual. Each of the annotators takes the next
item of the queue as soon as there is one, and rates it in a log-normal time. While the machine writes the next rollout
and learns they have nothing to do, and at the end of a batch some wait for the others. Completions have geometric
lengths, so with scoring in every step a call has the few that end in it. "Busy" is the time spent rating over the time
of all annotators.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import tempfile
import uuid
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.annotating import join
from rlhf_envs.rewards import human
from rlhf_envs.rewards.human import reward as human_reward

__all__ = ["Day", "busy_share", "main"]


class Day:
    """Stand in for the module `time` where a reward waits for people, and let the annotators work meanwhile."""

    def __init__(self, store: FeedbackStore, people: int, median: float, spread: float, seed: int = 0) -> None:
        self.store, self.median, self.spread = store, median, spread
        self.rng = np.random.default_rng(seed)
        self.now = self.busy = 0.0
        self.asked = False  # whether there are items that the idle have not looked for
        self.idle = [f"person {i}" for i in range(people)]
        self.working: list[tuple[float, str, int]] = []  # when each is done, who, and the task
        for name in self.idle:
            join(store, name)

    def monotonic(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let so many virtual seconds pass."""
        until = self.now + seconds
        if self.asked:
            idle, self.idle, self.asked = self.idle, [], False
            for name in idle:
                self._begin(name)
        while self.working and self.working[0][0] <= until:
            self.now, name, task = heapq.heappop(self.working)
            self.store.submit(task, name, {"rating": int(self.rng.integers(1, 6))}, key=uuid.uuid4().hex)
            self._begin(name)
        self.now = until

    def _begin(self, name: str) -> None:
        """Give somebody the next item, if there is one."""
        assignment = self.store.claim(name)
        if assignment is None:
            self.idle.append(name)
            return
        seconds = self.median * float(np.exp(self.spread * self.rng.standard_normal()))
        self.busy += seconds
        heapq.heappush(self.working, (self.now + seconds, name, assignment.id))


def busy_share(
    score: str, n_envs: int, n_steps: int, overlap: int, rollouts: int, folder: Path, **options: Any
) -> float:
    """Return the share of their time that people rate in, over some rollouts scored in every step or once."""
    machine, length = options.pop("machine"), options.pop("length")
    with FeedbackStore(folder / f"{score}-{n_steps}-{overlap}.db") as store:
        day, people = Day(store, **options), options["people"]
        reward, texts = human.HumanReward(store, poll=1.0, overlap=overlap), iter(range(10**9))
        with mock.patch.object(human_reward, "time", day):
            for _ in range(rollouts):
                ended = day.rng.binomial(n_envs, 1 / length, n_steps)  # episodes that end in each step
                for calls in [ended] if score == "step" else [np.array([ended.sum()])]:
                    for n in calls.tolist():
                        day.now += machine * n_steps / len(calls)  # nobody has anything to do meanwhile
                        if not n:
                            continue
                        day.asked = True
                        reward(prompts=["p"] * n, completions=[str(next(texts)) for _ in range(n)])
        return day.busy / (people * day.now)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--median", type=float, default=8.0, help="seconds for a rating")
    parser.add_argument("--spread", type=float, default=0.5, help="standard deviation of the logarithm of the seconds")
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--n-steps", type=int, nargs="+", default=[32, 64, 96, 128], help="tokens per environment")
    parser.add_argument("--overlap", type=int, nargs="+", default=[1, 3], help="people who rate each completion")
    parser.add_argument("--length", type=float, default=24.0, help="mean tokens of a completion")
    parser.add_argument("--machine", type=float, default=0.05, help="seconds a step of all environments, with learning")
    parser.add_argument("--scored", nargs="+", default=["step", "rollout"], choices=["step", "rollout"])
    parser.add_argument("--ratings", type=int, default=2000, help="ratings in each row, about")
    args = parser.parse_args(arguments)
    options = {"people": args.people, "median": args.median, "spread": args.spread}
    options |= {"machine": args.machine, "length": args.length}
    print(f"{args.people} people, a rating takes {args.median:g} s (median), {args.n_envs} environments\n")
    print("| tokens per environment | people per completion | ratings per rollout | scored | busy |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for n_steps, overlap, score in itertools.product(args.n_steps, args.overlap, args.scored):
            ratings = round(args.n_envs * n_steps / args.length) * overlap
            rollouts = max(1, round(args.ratings / ratings))
            share = busy_share(score, args.n_envs, n_steps, overlap, rollouts, Path(folder), **options)
            print(f"| {n_steps} | {overlap} | about {ratings} | {score} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
