"""Train with online direct preference optimisation (online DPO)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch.nn import functional

from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import NO_CRITIC, NO_KL, PolicyGradient, spread

__all__ = ["OnlineDPO"]


class OnlineDPO(PolicyGradient):
    """Train with online direct preference optimisation (online DPO).

    Paper: Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback", https://arxiv.org/abs/2402.04792;
    the loss is from Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward
    Model", https://arxiv.org/abs/2305.18290. The policy completes each prompt twice, an annotator prefers one
    completion, and the loss is `-log sigmoid(beta (log pi/pi_ref (chosen) - log pi/pi_ref (rejected)))`.

    Departures: the annotator is the environment's reward, as a Bradley-Terry model. With `labels="soft"` both orders of
    a pair count, each weighted with the probability that the annotator prefers it. This is the expected loss over the
    annotator's answers, and its minimum is the policy that maximises reward minus `beta` times the KL. "hard" always
    prefers the higher score. No such policy is its minimum: nothing stops the agent from drifting away as long as there
    are better completions. `beta` weighs the KL penalty; `kl_coef` and `kl_target` are refused. Of larger groups, the
    best and the worst completion make the pair. "hard" leaves out pairs of equal score and counts them (`train/ties`).

    When to use it: where a prompt can be completed several times, and scores say which completion is better rather than
    by how much. On sentiment it is among the best policy gradients.

    Args:
        beta: weight of the KL to the reference in the loss.
        labels: "soft" or "hard", see above.
        group_size: completions per prompt. The best and the worst make a pair.

    Defaults: `learning_rate=1e-4`, `batch_size=512`, `group_size=2`, `beta=0.1`, `labels="soft"`. All other arguments
    and defaults are as in `PolicyGradient`.

    Raises:
        ValueError: `beta` is not above 0, or `labels` is neither of the two.
    """

    min_group_size = 2
    kl_argument = "beta"
    unused = PolicyGradient.unused | NO_CRITIC | NO_KL | {"report_kl": True}  # the loss needs the reference
    importance = None

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = 512,
        group_size: int = 2,
        beta: float = 0.1,
        labels: Literal["soft", "hard"] = "soft",
        **kwargs: Any,
    ) -> None:
        if not beta > 0:
            raise ValueError(f"beta={beta}: expected a number above 0, the weight of the KL to the reference")
        if labels not in ("soft", "hard"):
            raise ValueError(f"labels={labels!r}: expected 'soft' or 'hard'")
        self.beta, self.labels = beta, labels
        super().__init__(policy, env, learning_rate, batch_size=batch_size, group_size=group_size, **kwargs)

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        """Return zeros for advantages, and the scores for returns."""
        return np.zeros_like(buffer.rewards), spread(buffer.scores, buffer)

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        scores = samples.one_by_episode(samples.returns).reshape(-1, self.group_size)
        ratios = samples.sum_by_episode(log_prob - samples.reference_log_prob).reshape(-1, self.group_size)
        best, worst = scores.argmax(dim=1), scores.argmin(dim=1)
        worst = torch.where(best == worst, (best + 1) % self.group_size, worst)  # all equal: any two
        pairs = torch.stack([best, worst], dim=1)
        (high, low), (chosen, rejected) = scores.gather(1, pairs).T, ratios.gather(1, pairs).T
        margin, gap = self.beta * (chosen - rejected), high - low
        if self.labels == "soft":
            losses = functional.binary_cross_entropy_with_logits(margin, gap.sigmoid(), reduction="none")
        else:
            losses = -functional.logsigmoid(margin) * (gap > 0)
        metrics = {
            "dpo_loss": losses.mean(),
            "entropy_loss": -entropy.mean(),
            "reward_margin": margin.mean(),
            "reward_accuracy": (margin[gap > 0] > 0).float().sum() / (gap > 0).sum().clamp(min=1),
            "ties": (gap == 0).float().sum(),
        }
        return metrics["dpo_loss"] - self.ent_coef * entropy.mean(), metrics
