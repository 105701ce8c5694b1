"""Group relative policy optimisation.

Paper: Shao et al. 2024, "DeepSeekMath", https://arxiv.org/abs/2402.03300. PPO's clipped surrogate a token; the
advantage of all tokens of a completion is its score less the mean of its group, over the group's standard deviation;
the KL to the reference is part of the loss, as the k3 estimate a token.

Options from later papers: `loss_type="dr_grpo"` with `scale_rewards=False` is Dr. GRPO (Liu et al. 2025,
https://arxiv.org/abs/2503.20783), which sums over tokens and divides by a constant; `loss_type="dapo"` averages over
all tokens (Yu et al. 2025, https://arxiv.org/abs/2503.14476). Departures: the default is "dapo", which on short
completions does not favour long wrong ones; `kl="reward"` takes the KL off the score instead, before the mean is taken.
Only that maximises reward minus KL: the gradient of k3 in the loss is, on the policy's own samples, that of the KL the
other way round (Tang and Munos 2025, https://arxiv.org/abs/2506.09477), and its optimum is another one.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule

from ..core.policy import TokenPolicy
from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import NO_CRITIC, PolicyGradient, clipped, spread

__all__ = ["GRPO"]

LOSS_TYPES = ("grpo", "dr_grpo", "dapo")


class GRPO(PolicyGradient):
    """GRPO.

    Args:
        group_size: completions of a prompt, G in the paper.
        clip_range: of the ratio of a token's probabilities; None for no clipping.
        kl: where the KL to the reference is charged, with weight `kl_coef`: in the "loss" or in the "reward".
        loss_type: "grpo", the mean over a completion's tokens and then over completions; "dr_grpo", the sum over
            tokens over completions times `max_new_tokens`; "dapo", the mean over all tokens of a minibatch.
        scale_rewards: divide a group's advantages by its standard deviation.

    The other arguments are those of `PolicyGradient`.

    Raises:
        ValueError: an argument is none of these.
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
        kl: Literal["loss", "reward"] = "loss",
        loss_type: Literal["grpo", "dr_grpo", "dapo"] = "dapo",
        scale_rewards: bool = True,
        **kwargs: Any,
    ) -> None:
        if kl not in ("loss", "reward"):
            raise ValueError(f"kl={kl!r}: expected 'loss' or 'reward'")
        if loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type={loss_type!r}: expected one of {', '.join(map(repr, LOSS_TYPES))}")
        if clip_range is not None and not clip_range > 0:
            raise ValueError(f"clip_range={clip_range}: expected a number above 0, or None for no clipping")
        self.clip_range, self.kl, self.loss_type, self.scale_rewards = clip_range, kl, loss_type, scale_rewards
        super().__init__(
            policy, env, learning_rate, batch_size=batch_size, n_epochs=n_epochs, group_size=group_size, **kwargs
        )

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        scores = buffer.scores.astype(np.float64)
        if self.kl == "reward":
            scores = scores - buffer.stats["kl_coef"] * buffer.sum_by_episode(buffer.kl)
        self._kl_coef = buffer.stats["kl_coef"] if self.kl == "loss" else 0.0
        advantages = relative_to_group(scores, self.group_size, self.scale_rewards)
        return spread(advantages, buffer), spread(scores, buffer)

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        log_ratio = log_prob - samples.old_log_prob
        ratio = log_ratio.exp()
        per_token = -clipped(ratio, samples.advantages, self.clip_range)
        figures = {
            "policy_gradient_loss": self._mean(per_token, samples),
            "entropy_loss": -entropy.mean(),
            "approx_kl": (ratio - 1 - log_ratio).mean(),
        }
        loss = figures["policy_gradient_loss"] - self.ent_coef * self._mean(entropy, samples)
        if self.clip_range is not None:
            figures["clip_fraction"] = ((ratio - 1).abs() > self.clip_range).float().mean()
        if self._kl_coef:
            behind = samples.reference_log_prob - log_prob
            figures["kl_loss"] = self._mean(behind.exp() - behind - 1, samples)
            loss = loss + self._kl_coef * figures["kl_loss"]
        return loss, figures

    def _mean(self, per_token: torch.Tensor, samples: EpisodeSamples) -> torch.Tensor:
        """The mean of (n,) values over tokens and episodes, as `loss_type` says."""
        if self.loss_type == "dapo":
            return per_token.mean()
        sums = samples.sum_by_episode(per_token)
        if self.loss_type == "dr_grpo":
            return sums.mean() / self._horizon
        return (sums / samples.sum_by_episode(torch.ones_like(per_token))).mean()

    @property
    def _horizon(self) -> int:
        """The constant of Dr. GRPO: the longest completion there can be."""
        assert self.env is not None
        return int(self.env.get_attr("max_new_tokens", 0)[0])


def relative_to_group(scores: np.ndarray, group_size: int, scale: bool) -> np.ndarray:
    """Each score less its group's mean, over the group's standard deviation; (episodes,) in order of groups."""
    groups = scores.reshape(-1, group_size)
    advantages = groups - groups.mean(axis=1, keepdims=True)
    if scale:
        advantages = advantages / (groups.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    return np.asarray(advantages.reshape(-1))
