"""Define the task of your own prompts: any file or rows, with any reward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_envs.tasks.base import Task

__all__ = ["Prompts"]

logger = logging.getLogger(__name__)


class Prompts(Task):
    """Complete prompts of your own, from a file or rows, for a reward of your own.

    ## Description
    `gymnasium.make("rlhf/Prompts-v0", data="my.jsonl", reward="my_module:my_reward")`. The data may be .jsonl, .csv,
    .tsv, .json, .parquet or .txt (each also with .gz), rows, or a `datasets.Dataset`. `columns={"prompt": "question"}`
    renames columns. Rows with a column `split` keep their split; others are split by a hash of the prompt, so that the
    splits share no prompt. Without data it takes the prompts of `Sentiment`, so that the id can be tried.

    ## Observation space
    `input_ids` and `attention_mask`, (96,) each: a prompt of up to 64 tokens and up to 32 new ones.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    At the end of an episode the score by `reward` (a registered name, a folder or "module:attribute") or `reward_fn`,
    which get the further columns of the data. Without one it is "tiny-reward", and a warning says so.

    ## Episode end
    EOS, or 32 new tokens.

    ## Arguments
    `data` and `reward` (or `reward_fn`), and all others of `TextGenerationEnv`, such as `model`, `columns`, `split`,
    `validation_share`, `test_share`, `max_prompt_tokens` and `max_new_tokens`.

    ## Version history
    v0: the first version.
    """

    name = "prompts"
    default_reward = "tiny-reward"
    default_data = "sentiment"
    max_prompt_tokens = 64
    max_new_tokens = 32

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows of the data; without any the prompts of `Sentiment`, with a warning."""
        if data is None:
            logger.warning("no data: the prompts are openings of movie reviews; give data='my.jsonl'")
        return super().rows(split, data)

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return "tiny-reward", with a warning."""
        logger.warning("no reward: 'tiny-reward' scores how positive a text is; give reward='my_module:my_reward'")
        return super().reward(max_new_tokens)
