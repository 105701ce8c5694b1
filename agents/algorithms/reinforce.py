"""Train with REINFORCE."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch.nn import functional

from ..core import ranks
from ..core.kl_penalty import charge
from .common.credit import Credit, check_credit
from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import PolicyGradient

__all__ = ["Reinforce"]


class Reinforce(PolicyGradient):
    """Train with REINFORCE and a baseline.

    Papers: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    https://doi.org/10.1007/BF00992696; for language models Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE
    Style Optimization for Learning from Human Feedback in LLMs", https://arxiv.org/abs/2402.14740. It takes one
    gradient step per rollout on `-mean_t A_t log pi(a_t | s_t)` over the rollout's tokens. `A_t` is the reward still to
    come (the score minus the KL penalty of the tokens from t on) minus a baseline.

    Departures: the mean is over tokens and not over episodes, and by default advantages are divided by their standard
    deviation; both only rescale the step. An episode that a rollout cuts is trained on when it ends. Its first tokens
    may then be one or more updates older than the policy, for which the estimator does not correct.

    When to use it: as the simplest algorithm without a critic. On sentiment it is among the best policy gradients.

    Args:
        baseline: "mean", the mean return of the rollout's episodes; "value", the value head, fitted by least squares
            with weight `vf_coef`; "none".
        credit: what a token is credited with, before the baseline: "episode", the reward still to come from this token
            on; "turn", from its turn of a dialog on. Then the mean of the baseline is taken turn by turn.
        normalize_advantage: divide the advantages by their standard deviation over the rollout's tokens.

    Defaults: `learning_rate=3e-4`, `baseline="mean"`, `normalize_advantage=True`, `credit="episode"`, `vf_coef=0.1`.
    All other arguments and defaults are as in `PolicyGradient`.

    Raises:
        ValueError: `baseline` or `credit` has none of these values.
    """

    defaults = PolicyGradient.defaults | {"learning_rate": 3e-4, "vf_coef": 0.1}

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        baseline: Literal["mean", "value", "none"] = "mean",
        normalize_advantage: bool = True,
        credit: Credit = "episode",
        **kwargs: Any,
    ) -> None:
        if baseline not in ("mean", "value", "none"):
            raise ValueError(f"baseline={baseline!r}: expected 'mean', 'value' or 'none'")
        self.baseline, self.normalize_advantage, self.credit = baseline, normalize_advantage, check_credit(credit)
        super().__init__(policy, env, learning_rate, **kwargs)

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        rewards = charge(buffer.rewards, buffer.kl, buffer.kl_coef)
        if self.credit == "turn":
            turns = buffer.turns(rewards)
            returns = turns.spread(turns.returns)
            means = turns.compared(lambda column: column * 0 + column.mean())
        else:
            returns = rewards_to_go(rewards, buffer.segments)
            means = np.asarray(ranks.moments(buffer.sum_by_episode(rewards))[0])
        advantages = returns
        if self.baseline == "value":
            advantages = returns - buffer.values
        elif self.baseline == "mean":
            advantages = returns - means
        if self.normalize_advantage:
            advantages = advantages / (ranks.moments(advantages)[1] + 1e-8)
        return advantages, returns

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        policy_loss = -(samples.advantages * log_prob).mean()
        loss = policy_loss - self.ent_coef * entropy.mean()
        metrics = {"policy_gradient_loss": policy_loss, "entropy_loss": -entropy.mean()}
        if self.baseline == "value":
            metrics["value_loss"] = functional.mse_loss(values.flatten(), samples.returns)
            loss = loss + self.vf_coef * metrics["value_loss"]
        return loss, metrics


def rewards_to_go(rewards: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Sum the rewards of an episode from each action on: `(n, 1)` from `(n, 1)` rewards in order of episodes."""
    cumulated = rewards[:, 0].cumsum(dtype=np.float64)
    last = np.searchsorted(segments[:, 0], segments[:, 0], side="right") - 1
    return np.asarray(cumulated[last] - cumulated + rewards[:, 0])[:, None]
