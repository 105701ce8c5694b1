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
    computed from the array carries nothing. So behind a wrapper that changes rewards every step is scored at once.

    Attributes:
        env: the `TextVecEnv`; None on an array that is computed from another.
        episodes: the episodes whose scores are missing in the rewards.
    """

    env: Any = None
    episodes: Sequence[FinishedEpisode] = ()

    def collect(self) -> Sequence[FinishedEpisode]:
        """Return the episodes, for `TextVecEnv.score_episodes`; so may the next step's be left."""
        if self.env is not None:
            self.env.is_collected = True
        return self.episodes
