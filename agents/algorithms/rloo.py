"""REINFORCE leave-one-out.

Paper: Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback
in LLMs", https://arxiv.org/abs/2402.14740 (the estimator is Kool et al. 2019's). A completion is one action: its
advantage is its score, less the KL penalty of all its tokens, less the mean of the other completions of the prompt.

Departure: with several minibatches or epochs the ratio of the whole completion's probability is clipped as in PPO, as
TRL's `RLOOTrainer` does; its loss and gradients are equal. `clip_range=None` is the paper's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule

from ..core.policy import TokenPolicy
from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import NO_CRITIC, PolicyGradient, clipped, spread

__all__ = ["RLOO"]


class RLOO(PolicyGradient):
    """RLOO.

    Args:
        group_size: completions of a prompt, k in the paper.
        clip_range: of the ratio of a completion's probabilities; None for no clipping.
        normalize_advantage: divide the advantages by their standard deviation over the rollout.

    The other arguments are those of `PolicyGradient`.
    """

    min_group_size = 2
    unused = PolicyGradient.unused | NO_CRITIC

    def __init__(
        self,
        policy: Any = TokenPolicy,
        env: Any = None,
        learning_rate: float | Schedule = 1e-4,
        batch_size: int | None = 512,
        n_epochs: int = 2,
        group_size: int = 4,
        clip_range: float | None = 0.2,
        normalize_advantage: bool = False,
        **kwargs: Any,
    ) -> None:
        if clip_range is not None and not clip_range > 0:
            raise ValueError(f"clip_range={clip_range}: expected a number above 0, or None for no clipping")
        self.clip_range, self.normalize_advantage = clip_range, normalize_advantage
        super().__init__(
            policy, env, learning_rate, batch_size=batch_size, n_epochs=n_epochs, group_size=group_size, **kwargs
        )

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        scores = buffer.scores - buffer.stats["kl_coef"] * buffer.sum_by_episode(buffer.kl)
        advantages = leave_one_out(scores, self.group_size)
        if self.normalize_advantage:
            advantages = advantages / (advantages.std() + 1e-8)
        return spread(advantages, buffer), spread(scores, buffer)

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        log_ratio = samples.sum_by_episode(log_prob - samples.old_log_prob)
        advantages = samples.one_by_episode(samples.advantages)
        ratio = log_ratio.exp()
        policy_loss = -clipped(ratio, advantages, self.clip_range).mean()
        figures = {
            "policy_gradient_loss": policy_loss,
            "entropy_loss": -entropy.mean(),
            "approx_kl": (ratio - 1 - log_ratio).mean(),
        }
        if self.clip_range is not None:
            figures["clip_fraction"] = ((ratio - 1).abs() > self.clip_range).float().mean()
        return policy_loss - self.ent_coef * entropy.mean(), figures


def leave_one_out(scores: np.ndarray, group_size: int) -> np.ndarray:
    """Each score less the mean of the others of its group, (episodes,) in order of groups."""
    groups = scores.reshape(-1, group_size)
    return np.asarray((groups - (groups.sum(axis=1, keepdims=True) - groups) / (group_size - 1)).reshape(-1))
