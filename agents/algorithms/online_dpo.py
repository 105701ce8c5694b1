"""Online direct preference optimisation.

Paper: Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback", https://arxiv.org/abs/2402.04792;
the loss is Rafailov et al. 2023's, https://arxiv.org/abs/2305.18290. The policy completes each prompt twice, an
annotator prefers one completion, and the loss is `-log sigmoid(beta (log pi/pi_ref (chosen) - log pi/pi_ref
(rejected)))`.

Departures: the annotator is the environment's reward, as a Bradley-Terry model. With `labels="soft"` both orders of a
pair count, weighted with the probability that the annotator prefers them, which is the expected loss over its answers;
its minimum is the policy that maximises reward minus `beta` times the KL. "hard" always prefers the higher score, which
that policy does not answer to: nothing stops such a policy from drifting away as long as there are better completions.
The leash is `beta`; `kl_coef` and `kl_target` are refused. Of larger groups the best and the worst
completion make the pair. Pairs of equal score are left out of "hard" and counted (`train/ties`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch.nn import functional

from ..core.policy import TokenPolicy
from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import NO_CRITIC, NO_KL, PolicyGradient, spread

__all__ = ["OnlineDPO"]


class OnlineDPO(PolicyGradient):
    """Online DPO.

    Args:
        beta: of the loss, the weight of the KL to the reference.
        labels: "soft" or "hard", see the module.
        group_size: completions of a prompt, of which the best and the worst make a pair.

    The other arguments are those of `PolicyGradient`.

    Raises:
        ValueError: an argument is none of these.
    """

    min_group_size = 2
    kl_argument = "beta"
    unused = PolicyGradient.unused | NO_CRITIC | NO_KL

    def __init__(
        self,
        policy: Any = TokenPolicy,
        env: Any = None,
        learning_rate: float | Schedule = 1e-4,
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
        """No advantages; the returns are the scores."""
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
        figures = {
            "dpo_loss": losses.mean(),
            "entropy_loss": -entropy.mean(),
            "reward_margin": margin.mean(),
            "reward_accuracy": (margin[gap > 0] > 0).float().sum() / (gap > 0).sum().clamp(min=1),
            "ties": (gap == 0).float().sum(),
        }
        return figures["dpo_loss"] - self.ent_coef * entropy.mean(), figures
