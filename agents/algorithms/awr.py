"""Train with advantage-weighted regression (AWR)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch.nn import functional

from ..core import ranks
from ..core.kl_penalty import charge
from ..core.ratios import ratio_of
from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import PolicyGradient
from .reinforce import rewards_to_go

__all__ = ["AWR"]


class AWR(PolicyGradient):
    """Train with advantage-weighted regression (AWR).

    Paper: Peng et al. 2019, "Advantage-Weighted Regression: Simple and Scalable Off-Policy Reinforcement Learning",
    https://arxiv.org/abs/1910.00177. It maximises the likelihood of the tokens that were drawn, each with the weight
    `exp(A / temperature)`. A is the reward still to come minus the value head's guess. Weights are capped.

    Departures: the replay is the last rollout only, with `n_epochs` passes over it. Advantages are standardised over
    the rollout's tokens, as in the paper's code. The KL penalty of `EpisodeRolloutBuffer` is subtracted from the
    reward. The policy improves on the one before it in small steps, and does not tend to the optimum of reward minus
    KL.

    When to use it: where policy gradients are unstable, since it only imitates better completions. On numbers it is
    level with the Q-learners; at a like KL on sentiment it is below all others.

    Args:
        awr_temperature: temperature of the weights, beta in the paper. (`temperature` belongs to sampling.)
        max_weight: upper bound of the weights.

    Defaults: `learning_rate=1e-4`, `batch_size=512`, `n_epochs=4`, `awr_temperature=1.0`, `max_weight=20.0`,
    `vf_coef=0.1`. All other arguments and defaults are as in `PolicyGradient`.

    Raises:
        ValueError: `awr_temperature` or `max_weight` is not above 0.
    """

    defaults = PolicyGradient.defaults | {"vf_coef": 0.1}
    importance = None

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = 512,
        n_epochs: int = 4,
        awr_temperature: float = 1.0,
        max_weight: float = 20.0,
        **kwargs: Any,
    ) -> None:
        for name, value in (("awr_temperature", awr_temperature), ("max_weight", max_weight)):
            if not value > 0:
                raise ValueError(f"{name}={value}: expected a number above 0")
        self.awr_temperature, self.max_weight = awr_temperature, max_weight
        super().__init__(policy, env, learning_rate, batch_size=batch_size, n_epochs=n_epochs, **kwargs)

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        returns = rewards_to_go(charge(buffer.rewards, buffer.kl, buffer.kl_coef), buffer.segments)
        advantages = returns - buffer.values
        mean, deviation = ranks.moments(advantages)
        return (advantages - mean) / (deviation + 1e-8), returns

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        weights = ratio_of(samples.advantages / self.awr_temperature).clamp(max=self.max_weight)
        metrics = {
            "policy_gradient_loss": -(weights * log_prob).mean(),
            "value_loss": functional.mse_loss(values.flatten(), samples.returns),
            "entropy_loss": -entropy.mean(),
            "weight": weights.mean(),
        }
        loss = metrics["policy_gradient_loss"] + self.vf_coef * metrics["value_loss"] - self.ent_coef * entropy.mean()
        return loss, metrics
