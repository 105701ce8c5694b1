"""Measure what the seconds of `benchmarks.time_to_quality` go to, part by part.

`python -m benchmarks.time_to_quality.profile` runs contenders at their settings for a number of tokens and prints the
seconds of CPU per 1,000 tokens: passes of the model without gradients (decoding, prefill and the reference) and with
them, the backward pass, the optimiser's step, the reward, and all else. The heads, which turn hidden states into
logits, and sampling count as "all else". Each contender has a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from . import racing
from .compare import CHOSEN, OURS, TRL
from .racing import Race, Referee

__all__ = ["main", "profile"]

PARTS = ("passes without gradients", "passes with gradients", "backward", "optimiser", "reward")


class Shares:
    """Count seconds of CPU by part while the clock of the race runs. A part inside another counts for the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.running = self._inside = False

    def timed(self, function: Callable[..., Any], part: Callable[[], str]) -> Callable[..., Any]:
        """Return the same function, timed; `part()` says which part a call belongs to."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self._inside or not self.running:
                return function(*args, **kwargs)
            self._inside, since, name = True, time.process_time(), part()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[name] += time.process_time() - since

        return wrapper

    def patch(self, owner: Any, name: str, part: Callable[[], str]) -> None:
        """Replace a function or a method of `owner` by its timed version."""
        setattr(owner, name, self.timed(getattr(owner, name), part))

    def follow(self, referee: type[Referee]) -> None:
        """Count only while the clock of races runs: between two calls of `Referee.is_over`."""
        judged = referee.is_over

        def is_over(one: Referee, tokens: int) -> bool:
            self.running = False
            over = judged(one, tokens)
            self.running = not over
            return over

        setattr(referee, "is_over", is_over)  # noqa: B010
        begun = referee._start

        def start(one: Referee) -> None:
            self.running = True
            begun(one)

        setattr(referee, "_start", start)  # noqa: B010


def profile(race: Race) -> tuple[float, float, dict[str, float]]:
    """Run a race in this process, and return its tokens, its seconds of CPU, and those of each part."""
    import torch

    from rlhf_envs.models import load_causal_lm
    from rlhf_envs.rewards import get_reward

    shares = Shares()
    shares.follow(Referee)
    with_gradients = PARTS[:2]
    shares.patch(
        type(load_causal_lm(race.model).base_model), "forward", lambda: with_gradients[torch.is_grad_enabled()]
    )
    shares.patch(torch.Tensor, "backward", lambda: "backward")
    shares.patch(torch.optim.Adam, "step", lambda: "optimiser")
    shares.patch(type(get_reward(racing.REWARD)), "score", lambda: "reward")
    end = racing.run(race)["curve"][-1]
    return end["tokens"], end["cpu"], shares.seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=(*OURS, *TRL), default=["rloo", "trl-rloo", "trl-grpo"])
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--episodes", type=int, default=8)
    args = parser.parse_args(argv)
    print("| contender | s of CPU per 1,000 tokens | " + " | ".join(PARTS) + " | all else |")
    print("|" + "---|" * (len(PARTS) + 3))
    for name in args.contenders:
        race = Race(name, CHOSEN[name], 100, tokens=args.tokens, episodes=args.episodes)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as worker:
            tokens, cpu, seconds = worker.submit(profile, race).result()
        parts = [*seconds.values(), cpu - sum(seconds.values())]
        print(f"| {name} | {1000 * cpu / tokens:.2f} | " + " | ".join(f"{1000 * s / tokens:.3f}" for s in parts) + " |")


if __name__ == "__main__":
    main()
