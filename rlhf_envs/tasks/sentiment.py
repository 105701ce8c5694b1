"""Sentiment: continue the opening of a real movie review so that it reads as praise."""

from __future__ import annotations

from rlhf_envs.tasks.base import Task

__all__ = ["Sentiment"]


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
