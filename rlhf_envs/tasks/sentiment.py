"""Sentiment: continue the opening of a real movie review so that it reads as praise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.tasks.base import Task

__all__ = ["HumanSentiment", "Sentiment"]


class Sentiment(Task):
    """The prompts are openings of real reviews, the reward is the learned "tiny-reward".

    The columns `reference` (how the review went on) and `label` reach the reward function.
    """

    name = "sentiment"
    default_reward = "tiny-reward"
    judges = ("gold",)
    default_data = "sentiment"
    max_prompt_tokens = 16
    max_new_tokens = 32


class HumanSentiment(Sentiment):
    """The same prompts, with people as the reward.

    They are asked where the environment is told which store to ask through: `reward_kwargs={"store": "feedback.db"}`.
    Without one nobody is, and the learned "tiny-reward" answers.
    """

    name = "human-sentiment"
    default_reward = "human"

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """The human reward without a store."""
        return get_reward(self.default_reward, store=None)
