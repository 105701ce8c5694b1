"""Carry the episodes that ended in a step, not scored yet, from the environment to the rollout buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_envs.finished import FinishedEpisode

__all__ = ["StepRewards"]


class StepRewards(np.ndarray):
    """Hold the rewards `(n,)` float32 of a step, with the episodes that ended in it and have no score yet.

    SB3 hands a rollout buffer nothing of an environment but observations and rewards, so these carry it. What is
    computed from the array carries nothing, and whoever computes with it before the buffer has it needs the scores. So
    behind a wrapper that changes or sums rewards every step is scored at once.

    Attributes:
        env: the `TextVecEnv`.
        episodes: the episodes whose scores are missing in the rewards.
        is_read: whether something computed with the rewards.
    """

    env: Any = None
    episodes: Sequence[FinishedEpisode] = ()
    is_read = False

    def collect(self) -> Sequence[FinishedEpisode]:
        """Return the episodes, for `TextVecEnv.score_episodes`; so may the next step's be left, if none reads these."""
        if self.env is not None:
            self.env.is_collected, self.env.n_left = not self.is_read, 0
        return self.episodes

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.is_read = True
        if "out" in kwargs:
            kwargs["out"] = tuple(map(_plain, kwargs["out"]))
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)


def _plain(array: Any) -> Any:
    """Return the array without what it carries."""
    return array.view(np.ndarray) if isinstance(array, StepRewards) else array
