"""Implement expert iteration for text, also called rejection-sampling fine-tuning or RAFT.

Papers: Anthony et al. 2017, https://arxiv.org/abs/1705.08439; for language models Dong et al. 2023,
https://arxiv.org/abs/2304.06767. Each rollout's best episodes are imitated: maximum likelihood of their tokens.

Departures: the best are a share of all episodes of a rollout, and not the best of each prompt; they are scored by the
reward minus the KL penalty. The rollout is Stable-Baselines3's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from agents.algorithms import EpisodeRolloutBuffer, EpisodeSamples, PolicyGradient

__all__ = ["ExpertIteration"]


class ExpertIteration(PolicyGradient):
    """Train by expert iteration: imitate the best episodes of each rollout.

    Args:
        top_share: the share of a rollout's episodes that is imitated, above 0 and up to 1.

    The other arguments are `PolicyGradient`'s.

    Raises:
        ValueError: the share is not above 0 and up to 1.
    """

    def __init__(self, *args: Any, learning_rate: Any = 3e-4, top_share: float = 0.25, **kwargs: Any) -> None:
        if not 0 < top_share <= 1:
            raise ValueError(f"top_share={top_share}: expected a share above 0 and up to 1")
        self.top_share = top_share
        super().__init__(*args, learning_rate=learning_rate, **kwargs)

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        """Return 1 for each token of the best episodes and 0 for the others, and the episodes' scores."""
        scores = buffer.scores - buffer.stats["kl_coef"] * buffer.sum_by_episode(buffer.kl)
        best = np.zeros(len(scores))
        best[np.argsort(-scores, kind="stable")[: max(1, round(self.top_share * len(scores)))]] = 1
        chosen = best[buffer.segments[:, 0]][:, None]
        return chosen, scores[buffer.segments[:, 0]][:, None]

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the cross-entropy of the chosen tokens."""
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        imitation = -(samples.advantages * log_prob).sum() / samples.advantages.sum().clamp(min=1)
        return imitation - self.ent_coef * entropy.mean(), {
            "imitation_loss": imitation,
            "entropy_loss": -entropy.mean(),
        }
