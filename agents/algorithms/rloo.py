"""Train with REINFORCE leave-one-out (RLOO)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule

from ..core import ranks
from ..core.kl_penalty import charge
from ..core.ratios import ratio_of
from .common.credit import Credit, check_credit
from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import NO_CRITIC, PolicyGradient, check_clip_range, clip_metrics, clipped, spread

__all__ = ["RLOO"]


class RLOO(PolicyGradient):
    """Train with REINFORCE leave-one-out (RLOO).

    Paper: Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human
    Feedback in LLMs", https://arxiv.org/abs/2402.14740. The estimator is from Kool et al. 2019, "Buy 4 REINFORCE
    Samples, Get a Baseline for Free!". A completion is one action. Its advantage is its score, minus the KL penalty of
    all its tokens, minus the mean of the other completions of the prompt.

    Departures: with several minibatches or epochs, the ratio of the whole completion's probability is clipped as in
    PPO. TRL's `RLOOTrainer` does so too, with equal loss and gradients. `clip_range=None` is the paper's.

    When to use it: where a prompt can be completed several times and the rewards of different prompts are not alike.
    The group is the baseline, so no critic has to learn.

    Args:
        group_size: completions per prompt, k in the paper.
        clip_range: clip range of the ratio of a completion's probabilities; None for no clipping.
        credit: what is an action: "episode", the whole completion; "turn", each turn of a dialog, credited with the
            rewards from its own turn on, and compared with the same turn of the group's other dialogs.
        normalize_advantage: divide the advantages by their standard deviation over the rollout.

    Defaults: `learning_rate=1e-4`, `batch_size=512`, `n_epochs=2`, `group_size=4`, `clip_range=0.2`,
    `normalize_advantage=False`, `credit="episode"`. All other arguments and defaults are as in `PolicyGradient`.

    Raises:
        ValueError: `clip_range` is not above 0, or `credit` is neither of the two.
    """

    min_group_size = 2
    unused = PolicyGradient.unused | NO_CRITIC
    importance = "sequence_truncate"

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = 512,
        n_epochs: int = 2,
        group_size: int = 4,
        clip_range: float | None = 0.2,
        normalize_advantage: bool = False,
        credit: Credit = "episode",
        **kwargs: Any,
    ) -> None:
        self.clip_range, self.normalize_advantage = check_clip_range(clip_range), normalize_advantage
        self.credit = check_credit(credit)
        super().__init__(policy, env, learning_rate, batch_size, n_epochs, group_size, **kwargs)

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        if self.credit == "turn":
            turns = buffer.turns(charge(buffer.rewards, buffer.kl, buffer.kl_coef))
            advantages, returns = turns.compared(self._compare), turns.spread(turns.returns)
        else:
            scores = charge(buffer.scores, buffer.sum_by_episode(buffer.kl), buffer.kl_coef)
            advantages, returns = (spread(each, buffer) for each in (self._compare(scores), scores))
        if self.normalize_advantage:
            advantages = advantages / (ranks.moments(advantages)[1] + 1e-8)
        return advantages, returns

    def _compare(self, scores: np.ndarray) -> np.ndarray:
        return leave_one_out(scores, self.group_size)

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        units = samples.turns if self.credit == "turn" else samples.observations["rows"]
        sums = log_prob.new_zeros(int(units[-1]) + 1)
        log_ratio = sums.index_add(0, units, log_prob - samples.old_log_prob)
        advantages = sums.index_put((units,), samples.advantages)  # equal for all actions of a unit
        policy_loss = -clipped(ratio_of(log_ratio), advantages, self.clip_range).mean()
        metrics = {"policy_gradient_loss": policy_loss, "entropy_loss": -entropy.mean()}
        metrics |= clip_metrics(log_ratio, self.clip_range)
        return policy_loss - self.ent_coef * entropy.mean(), metrics


def leave_one_out(scores: np.ndarray, group_size: int) -> np.ndarray:
    """Subtract from each score the mean of the others in its group; `(episodes,)`, in order of groups."""
    groups = scores.reshape(-1, group_size)
    return np.asarray((groups - (groups.sum(axis=1, keepdims=True) - groups) / (group_size - 1)).reshape(-1))
