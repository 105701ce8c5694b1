"""REINFORCE with a baseline.

Paper: Williams 1992, https://doi.org/10.1007/BF00992696; for language models Ahmadian et al. 2024, "Back to Basics",
https://arxiv.org/abs/2402.14740. One gradient step a rollout on `-mean_t A_t log pi(a_t | s_t)` over its tokens, where
`A_t` is the reward still to come (the score minus the KL penalty of the tokens from t on) less a baseline.

Departures: the mean is over tokens and not over episodes, and advantages are divided by their standard deviation by
default; both only rescale the step. An episode that a rollout cuts is trained on when it ends, so its first tokens may
be an update or more older than the policy, which the estimator does not correct for.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch.nn import functional

from ..core.policy import TokenPolicy
from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import PolicyGradient

__all__ = ["Reinforce"]


class Reinforce(PolicyGradient):
    """REINFORCE.

    Args:
        baseline: "mean", the mean return of the rollout's episodes; "value", the value head, fitted by least squares
            with weight `vf_coef`; "none".
        normalize_advantage: divide the advantages by their standard deviation over the rollout's tokens.

    The other arguments are those of `PolicyGradient`.

    Raises:
        ValueError: an unknown baseline.
    """

    def __init__(
        self,
        policy: Any = TokenPolicy,
        env: Any = None,
        learning_rate: float | Schedule = 3e-4,
        baseline: Literal["mean", "value", "none"] = "mean",
        normalize_advantage: bool = True,
        vf_coef: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if baseline not in ("mean", "value", "none"):
            raise ValueError(f"baseline={baseline!r}: expected 'mean', 'value' or 'none'")
        self.baseline, self.normalize_advantage = baseline, normalize_advantage
        super().__init__(policy, env, learning_rate, vf_coef=vf_coef, **kwargs)

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        rewards = buffer.rewards - buffer.stats["kl_coef"] * buffer.kl
        returns = rewards_to_go(rewards, buffer.segments)
        advantages = returns
        if self.baseline == "value":
            advantages = returns - buffer.values
        elif self.baseline == "mean":
            advantages = returns - buffer.sum_by_episode(rewards).mean()
        if self.normalize_advantage:
            advantages = advantages / (advantages.std() + 1e-8)
        return advantages, returns

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        policy_loss = -(samples.advantages * log_prob).mean()
        loss = policy_loss - self.ent_coef * entropy.mean()
        figures = {"policy_gradient_loss": policy_loss, "entropy_loss": -entropy.mean()}
        if self.baseline == "value":
            figures["value_loss"] = functional.mse_loss(values.flatten(), samples.returns)
            loss = loss + self.vf_coef * figures["value_loss"]
        return loss, figures


def rewards_to_go(rewards: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The sum of the rewards of an episode from each action on, (n, 1), for (n, 1) rewards in order of episodes."""
    cumulated = rewards[:, 0].cumsum(dtype=np.float64)
    last = np.searchsorted(segments[:, 0], segments[:, 0], side="right") - 1
    return np.asarray(cumulated[last] - cumulated + rewards[:, 0])[:, None]
