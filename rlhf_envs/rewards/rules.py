"""Compute rewards by a rule: without a model or data, the same text always gets the same score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlhf_envs.rewards.base import Reward

__all__ = ["IncreasingNumbersReward", "TokenBanditReward"]


class IncreasingNumbersReward(Reward):
    """Score how long a completion goes on with increasing numbers from its start, as a share of `horizon`, in [0, 1].

    RL4LMs' `IncreasingNumbersinText` (Ramamurthy et al. 2023) without its leniency. Departures: the run goes on from
    the prompt's number (theirs ignores the prompt, so any first number counts). A word that is not a number ends it
    (theirs skips such words). It is divided by the tokens allowed rather than by `max(length, min_tokens / 2)`, which
    gave an early EOS the full reward.

    Args:
        horizon: the number of new tokens allowed.
    """

    name = "increasing-numbers"

    def __init__(self, horizon: int = 10) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        self.horizon = horizon

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> np.ndarray:
        """Return the share of the horizon that is an increasing run, (n,)."""
        return np.array([self._run(p, c) / self.horizon for p, c in zip(prompts, completions, strict=True)])

    def _run(self, prompt: str, completion: str) -> int:
        start = prompt.split()[-1]
        if not start.isdecimal():
            raise ValueError(f"reward {self.name!r} needs a prompt that ends with a number, got {prompt!r}")
        last = int(start)
        run = 0
        for word in completion.split()[: self.horizon]:
            if not (word.isdecimal() and int(word) > last):
                break
            last, run = int(word), run + 1
        return run


class TokenBanditReward(Reward):
    """Score a context letter and the letters that follow by a fixed, rugged function, in [-1, 1].

    For the context c and the letters v_1 ... v_k (each 0-25) it is
    `sum_t sin(1 + 2 c + 1.7 t + 0.9 v_t + 1.3 v_t v_{t-1} + 0.7 c v_t) / horizon` with v_0 = c. Every letter's worth
    depends on the context, its place and the letter before, so no token is good by itself.

    Args:
        horizon: the number of new tokens allowed.
    """

    name = "token-bandit"

    def __init__(self, horizon: int = 3) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        self.horizon = horizon

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> np.ndarray:
        """Return the value of each completion's letters, (n,)."""
        return np.array([self._value(p, c) for p, c in zip(prompts, completions, strict=True)])

    def _value(self, prompt: str, completion: str) -> float:
        words = [prompt.split()[-1], *completion.split()[: self.horizon]]
        if strange := [word for word in words if len(word) != 1 or not "a" <= word <= "z"]:
            raise ValueError(f"reward {self.name!r} needs letters from a to z, got {strange[0]!r} in {prompt!r}")
        context, *letters = (ord(word) - ord("a") for word in words)
        before, total = context, 0.0
        for place, v in enumerate(letters, start=1):
            total += math.sin(1 + 2 * context + 1.7 * place + 0.9 * v + 1.3 * v * before + 0.7 * context * v)
            before = v
        return total / self.horizon
