"""Let a learning rate go down over a run. SB3 calls a schedule with the share of the run that is left."""

from __future__ import annotations

import math
from collections.abc import Callable

from stable_baselines3.common.utils import LinearSchedule

__all__ = ["CosineSchedule", "falling_rate"]


class CosineSchedule:
    """Go from `start` down to 0 along half a cosine (Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983).

    There are no restarts.
    """

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, progress_remaining: float) -> float:
        """Return the value when this share of the run is left; 0 also where the last rollout goes beyond the run."""
        return self.start * (1 - math.cos(math.pi * max(progress_remaining, 0.0))) / 2

    def __repr__(self) -> str:
        return f"CosineSchedule(start={self.start})"


def falling_rate(kind: str, start: float) -> Callable[[float], float]:
    """Return the schedule "linear" or "cosine", from `start` down to 0."""
    return CosineSchedule(start) if kind == "cosine" else LinearSchedule(start, 0.0, 1.0)
