"""Train with group relative policy optimisation (GRPO), and its variants Dr. GRPO and DAPO."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule

from ..core.kl_penalty import charge, k3_loss
from ..core.ratios import ratio_of
from .common.credit import Credit, check_credit
from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import NO_CRITIC, PolicyGradient, check_clip_range, clip_metrics, clipped, spread

__all__ = ["GRPO"]

LOSS_TYPES = ("grpo", "dr_grpo", "dapo")


class GRPO(PolicyGradient):
    """Train with group relative policy optimisation (GRPO).

    Paper: Shao et al. 2024, "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    https://arxiv.org/abs/2402.03300. The loss is PPO's clipped surrogate per token. All tokens of a completion have one
    advantage: the score minus the mean of its group, divided by the group's standard deviation. The KL to the reference
    is part of the loss, as the k3 estimate per token.

    Options from later papers: `loss_type="dr_grpo"` with `scale_rewards=False` is Dr. GRPO (Liu et al. 2025,
    https://arxiv.org/abs/2503.20783), which sums over tokens and divides by a constant. `loss_type="dapo"` averages
    over all tokens (Yu et al. 2025, https://arxiv.org/abs/2503.14476).

    Departures: the default is "dapo", which does not favour long wrong completions over short ones. `kl="reward"`
    subtracts the KL penalty from the score instead, before the group's mean is taken. Only that maximises reward minus
    KL(pi || pi_ref). The gradient of k3 in the loss, on the policy's own samples, is the gradient of KL(pi_ref || pi),
    so the loss has another optimum (Tang and Munos 2025, https://arxiv.org/abs/2506.09477).

    When to use it: where a prompt can be completed several times and rewards are right or wrong, as in reasoning tasks.
    On sentiment `rloo` gains more.

    Args:
        group_size: completions per prompt, G in the paper.
        clip_range: clip range of the ratio of a token's probabilities; None for no clipping.
        kl: where the KL to the reference is charged, with weight `kl_coef`: in the "loss" or in the "reward".
        loss_type: "grpo", the mean over a completion's tokens and then over completions; "dr_grpo", the sum over
            tokens divided by completions times `max_new_tokens`; "dapo", the mean over all tokens of a minibatch.
        credit: what a token's advantage is made of: "episode", the score of the completion; "turn", in a dialog, the
            rewards from the token's turn on, compared with the same turn of the group's other dialogs.
        scale_rewards: divide a group's advantages by its standard deviation.

    Defaults: `learning_rate=1e-4`, `batch_size=512`, `n_epochs=2`, `group_size=4`, `clip_range=0.2`, `kl="loss"`,
    `loss_type="dapo"`, `scale_rewards=True`, `credit="episode"`. All other arguments and defaults are
    as in `PolicyGradient`.

    Raises:
        ValueError: an argument has none of these values.
    """

    min_group_size = 2
    unused = PolicyGradient.unused | NO_CRITIC

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = 512,
        n_epochs: int = 2,
        group_size: int = 4,
        clip_range: float | None = 0.2,
        kl: Literal["loss", "reward"] = "loss",
        loss_type: Literal["grpo", "dr_grpo", "dapo"] = "dapo",
        scale_rewards: bool = True,
        credit: Credit = "episode",
        **kwargs: Any,
    ) -> None:
        if kl not in ("loss", "reward"):
            raise ValueError(f"kl={kl!r}: expected 'loss' or 'reward'")
        if loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type={loss_type!r}: expected {', '.join(map(repr, LOSS_TYPES))}")
        self.clip_range, self.kl = check_clip_range(clip_range), kl
        self.loss_type, self.scale_rewards, self.credit = loss_type, scale_rewards, check_credit(credit)
        super().__init__(policy, env, learning_rate, batch_size, n_epochs, group_size, **kwargs)

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        self._kl_coef = buffer.kl_coef if self.kl == "loss" else 0.0
        charged = buffer.kl_coef if self.kl == "reward" else 0.0
        if self.credit == "turn":
            turns = buffer.turns(charge(buffer.rewards, buffer.kl, charged))
            return turns.compared(self._compare), turns.spread(turns.returns)
        scores = charge(buffer.scores.astype(np.float64), buffer.sum_by_episode(buffer.kl), charged)
        return spread(self._compare(scores), buffer), spread(scores, buffer)

    def _compare(self, scores: np.ndarray) -> np.ndarray:
        return relative_to_group(scores, self.group_size, self.scale_rewards)

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        log_ratio = log_prob - samples.old_log_prob
        policy_loss = self._mean(-clipped(ratio_of(log_ratio), samples.advantages, self.clip_range), samples)
        metrics = {"policy_gradient_loss": policy_loss, "entropy_loss": -entropy.mean()}
        metrics |= clip_metrics(log_ratio, self.clip_range)
        loss = policy_loss - self.ent_coef * self._mean(entropy, samples)
        if self._kl_coef:
            metrics["kl_loss"] = self._mean(k3_loss(log_prob, samples.reference_log_prob), samples)
            loss = loss + self._kl_coef * metrics["kl_loss"]
        return loss, metrics

    def _mean(self, per_token: torch.Tensor, samples: EpisodeSamples) -> torch.Tensor:
        """Average `(n,)` values over tokens and episodes, as `loss_type` says."""
        if self.loss_type == "dapo":
            return per_token.mean()
        sums = samples.sum_by_episode(per_token)
        if self.loss_type == "dr_grpo":
            assert self.env is not None
            return sums.mean() / self.env.get_attr("max_new_tokens", 0)[0]
        return (sums / samples.sum_by_episode(torch.ones_like(per_token))).mean()


def relative_to_group(scores: np.ndarray, group_size: int, scale: bool) -> np.ndarray:
    """Subtract its group's mean from each score; if `scale`, divide by the group's deviation. Groups are in order."""
    groups = scores.reshape(-1, group_size)
    advantages = groups - groups.mean(axis=1, keepdims=True)
    if scale:
        advantages = advantages / (groups.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    return np.asarray(advantages.reshape(-1))
