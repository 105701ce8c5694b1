"""Keep the rewards of all workers' environments at one price, and at one mean and deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_envs.rewards.constraints import find_constraints

from ..core.together import set_sums, sums_of, whitened_rewards

__all__ = ["SharedRewards", "prices", "set_shared", "whitened_sums"]


def prices(env: Any) -> list[float]:
    """Return the multipliers of the constraints in an environment's reward."""
    return [constrained.multiplier for constrained in _constraints(env)]


def whitened_sums(env: Any) -> list[np.ndarray]:
    """Return the count, sum and sum of squares of each `Whitened` reward of an environment, `(3,)` float64 each."""
    return [sums_of(reward) for reward in whitened_rewards(env)]


def set_shared(env: Any, multipliers: Sequence[float], sums: Sequence[np.ndarray] | None) -> None:
    """Let the reward of an environment go on with these prices, and statistics; None keeps its own statistics."""
    for constrained, multiplier in zip(_constraints(env), multipliers, strict=True):
        constrained.multiplier = multiplier
    if sums is not None:
        for reward, found in zip(whitened_rewards(env), sums, strict=True):
            set_sums(reward, found)


def _constraints(env: Any) -> list[Any]:
    return find_constraints(env.get_attr("reward_fn", 0)[0]) if env.has_attr("reward_fn") else []


class SharedRewards:
    """Hold what the learner's copy of the reward knows of the workers': it is what checkpoints keep.

    Args:
        env: the learner's environment, which is never stepped.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._before: tuple[Any, list[float], list[np.ndarray]] | None = None

    def take(self, learned: dict[str, Any], added: Sequence[Sequence[np.ndarray]]) -> None:
        """Take what the first worker's rewards and curriculum have learned, and the statistics that all have added.

        Args:
            learned: the state of the first worker's environment.
            added: by worker, what the rollout has added to the sums of `whitened_sums`.
        """
        multipliers, before = prices(self.env), whitened_sums(self.env)
        limits = [constrained.get_state() for constrained in _constraints(self.env)]  # the workers set no multiplier
        self._before = self.env.get_state() if hasattr(self.env, "set_learned") else None, multipliers, before
        if hasattr(self.env, "set_learned"):
            self.env.set_learned(learned)
        sums = [old + sum(more) for old, more in zip(before, zip(*added, strict=True), strict=True)] if before else None
        set_shared(self.env, multipliers, sums if sums is None or len(added) > 1 else None)
        for constrained, state in zip(_constraints(self.env), limits, strict=True):
            constrained.set_state(state)

    def give_back(self) -> None:
        """Go back to what was known before the last `take`: its rollout is collected again, and counts once."""
        if self._before is None:
            return
        learned, multipliers, sums = self._before
        if learned is not None:
            self.env.set_learned(learned)
        set_shared(self.env, multipliers, sums)
