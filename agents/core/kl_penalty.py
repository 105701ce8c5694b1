"""Charge the KL to the reference: its estimates, its coefficient, and the penalty that is taken off the rewards."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from . import ranks
from .ratios import MOST_NATS, ratio_of

__all__ = ["KLController", "charge", "k3", "k3_loss"]


def k3(kl: np.ndarray) -> np.ndarray:
    """Return the k3 estimates of the KL for the k1 estimates `log pi - log pi_ref`, of any shape.

    They are never negative and vary less, see http://joschu.net/blog/kl-approx.html. Ratios end at `MOST_NATS`.
    """
    estimates: np.ndarray = np.exp(np.minimum(-kl, MOST_NATS)) - 1 + kl
    return estimates


def k3_loss(log_prob: torch.Tensor, reference_log_prob: torch.Tensor) -> torch.Tensor:
    """Return the k3 estimates with gradients, for an algorithm that charges the KL in its loss."""
    behind = reference_log_prob - log_prob
    return ratio_of(behind) - behind - 1


def charge(
    rewards: np.ndarray, kl: np.ndarray, kl_coef: float, shaping: Iterable[np.ndarray] = (), whiten: bool = False
) -> np.ndarray:
    """Return the rewards that an algorithm learns from, in the shape of `rewards`: one per token or per episode.

    Args:
        rewards: the environment's.
        kl: `log pi - log pi_ref` of the tokens, or its sum over each episode.
        kl_coef: the coefficient of the KL penalty.
        shaping: what else is added to the rewards.
        whiten: divide the sum by its standard deviation over all ranks; its mean stays.
    """
    rewards = rewards - float(kl_coef) * kl
    for added in shaping:
        rewards = rewards + added
    if whiten:
        mean, deviation = ranks.moments(rewards)
        rewards = (rewards - mean) / (deviation + 1e-8) + mean
    return rewards


class KLController:
    """Own the coefficient of the KL penalty, which is fixed or steered to a target.

    With a target it follows Ziegler et al. 2019 (https://arxiv.org/abs/1909.08593), section 2.2. After every batch of n
    episodes with a mean KL per episode, `coef *= 1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon`. The step is at
    most the whole error: `n / horizon <= 1`.

    Nothing else owns the coefficient. A policy carries a copy (`kl_coef`), so that it is saved, and a rollout's `stats`
    tell which coefficient the rollout was charged with.

    Args:
        value: the coefficient; with a target, the first one.
        target: nats per episode to steer to; None keeps the coefficient.
        horizon: episodes over which it adapts.

    Raises:
        ValueError: a value is out of range.
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
        """Go on from the coefficient saved with a policy, unless it is NaN (a new policy) or this one is fixed."""
        value = float(saved)
        if self.target is not None and not math.isnan(value):
            self.value = value

    def update(self, kl: float, n_episodes: int) -> None:
        """Move the coefficient after `n_episodes` episodes with a mean KL of `kl` nats per episode."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -0.2), 0.2)
            self.value *= 1.0 + error * min(n_episodes / self.horizon, 1.0)
