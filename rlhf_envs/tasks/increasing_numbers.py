"""Define the task of increasing numbers, which a small policy learns in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlhf_envs.rewards.rules import IncreasingNumbersReward
from rlhf_envs.tasks.base import WordTask

__all__ = ["IncreasingNumbers"]


class IncreasingNumbers(WordTask):
    """Continue a number with larger and larger ones.

    ## Description
    This is the synthetic task of RL4LMs; `IncreasingNumbersReward` documents how its reward departs from theirs. The
    prompts are the numbers 0 to 9, so that ten larger numbers always exist. All splits are the same.

    ## Observation space
    `input_ids` and `attention_mask`, (11,) each: a prompt of one token and up to 10 new ones.

    ## Action space
    `Discrete(32)`: pad (0), EOS (1) and the numbers 0 to 29.

    ## Reward
    At the end of an episode the length of the increasing run as a share of `max_new_tokens`. The best is 1.

    ## Episode end
    EOS, or 10 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/IncreasingNumbers-v0")` needs none. It takes the arguments of `TextGenerationEnv` except
    `model`, because the task has its own vocabulary.

    ## Version history
    v0: the first version.
    """

    name = "increasing-numbers"
    default_reward = "increasing-numbers"
    words = tuple(str(number) for number in range(30))
    prompts = words[:10]
    max_prompt_tokens = 1
    max_new_tokens = 10

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the reward: the length of the increasing run as a share of the tokens allowed."""
        return IncreasingNumbersReward(max_new_tokens)
