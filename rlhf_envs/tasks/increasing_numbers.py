"""Increasing numbers: the agent continues a number with larger and larger ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlhf_envs.rewards.rules import IncreasingNumbersReward
from rlhf_envs.tasks.base import WordTask

__all__ = ["IncreasingNumbers"]


class IncreasingNumbers(WordTask):
    """RL4LMs' synthetic task: a start number is the prompt; see `IncreasingNumbersReward` for how it departs from it.

    The vocabulary is pad, EOS and the numbers 0 to 29. The prompts are 0 to 9, so that ten larger numbers always exist
    and the best reward is 1. It needs no data and no model; all splits are the same.
    """

    name = "increasing-numbers"
    default_reward = "increasing-numbers"
    words = tuple(str(number) for number in range(30))
    prompts = words[:10]
    max_prompt_tokens = 1
    max_new_tokens = 10

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """The increasing run as a share of the tokens allowed."""
        return IncreasingNumbersReward(max_new_tokens)
