"""The leash: the coefficient of the KL penalty, fixed or steered."""

from __future__ import annotations

import math

import torch

__all__ = ["KLController"]


class KLController:
    """The coefficient of the KL penalty.

    With a target it follows Ziegler et al. 2019 (https://arxiv.org/abs/1909.08593), section 2.2: after every batch
    `coef *= 1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon`, with the mean KL an episode, over n episodes. The step
    is capped at the whole error, `n / horizon <= 1`.

    Args:
        value: the coefficient, fixed or first.
        target: nats an episode to steer to; None keeps the coefficient.
        horizon: episodes over which it adapts.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(self, value: float, target: float | None = None, horizon: int = 1000) -> None:
        if not value >= 0:
            raise ValueError(f"kl_coef={value}: expected a number of at least 0")
        if target is not None and not target > 0:
            raise ValueError(f"kl_target={target}: expected a number of nats above 0, or None for a fixed coefficient")
        if target is not None and value == 0:
            raise ValueError("kl_coef=0 with a kl_target: the controller multiplies the coefficient, start above 0")
        if horizon < 1:
            raise ValueError(f"kl_horizon={horizon}: expected at least one episode")
        self.value, self.target, self.horizon = float(value), target, horizon

    def restore(self, saved: torch.Tensor) -> None:
        """Go on from the coefficient that was saved with a policy (NaN in a new one); a fixed coefficient stays."""
        value = float(saved)
        if self.target is not None and not math.isnan(value):
            self.value = value

    def update(self, kl: float, n_episodes: int) -> None:
        """Move the coefficient after `n_episodes` episodes with a mean KL of `kl` nats each."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -0.2), 0.2)
            self.value *= 1.0 + error * min(n_episodes / self.horizon, 1.0)
