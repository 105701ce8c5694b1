"""Turn rows of data into prompts of tokens, checked before the first episode, and choose the next prompt."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.datasets.messages import as_messages, opening
from rlhf_envs.models import load_config, model_positions
from rlhf_envs.rewards.base import KNOWN
from rlhf_envs.tokens import check_text, encode_texts, keep_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PromptSampler", "check_fits_model", "check_rows", "text_prompts", "tokenize_prompts"]

logger = logging.getLogger(__name__)


def check_fits_model(name: str, vocab_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
    """Check the size of a tokenizer and the length of contexts against the model's configuration.

    Raises:
        ValueError: the tokenizer has more tokens than the model has embeddings, or the contexts more positions.
    """
    config_vocab = getattr(load_config(name).get_text_config(), "vocab_size", None)
    if config_vocab is not None and vocab_size > config_vocab:
        raise ValueError(
            f"the tokenizer has {vocab_size} tokens, the model {name!r} only {config_vocab}: it is not this model's "
            "tokenizer"
        )
    positions = model_positions(name)
    if positions is not None and max_prompt_tokens + max_new_tokens > positions:
        raise ValueError(
            f"max_prompt_tokens={max_prompt_tokens} + max_new_tokens={max_new_tokens} is "
            f"{max_prompt_tokens + max_new_tokens}, beyond the {positions} positions of {name!r}"
        )


def check_rows(rows: Sequence[Mapping[str, Any]], task: str, data: object) -> list[str]:
    """Check that there are rows and that each has a prompt, and return the names of the other columns.

    Raises:
        ValueError: there is no row, a prompt has no text or half a character, or a column has the name of a reward
            function's argument.
    """
    source = f"data={str(data)!r}" if isinstance(data, str | Path) else "the data"
    if not rows:
        raise ValueError(f"task {task!r}: {source} has no rows")
    columns: dict[str, None] = {}
    for i, row in enumerate(rows):
        prompt = row.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"task {task!r}: row {i} of {source} needs a non-empty text `prompt`, got {prompt!r}")
        check_text(prompt, f"task {task!r}: the prompt of row {i} of {source}")
        columns.update(dict.fromkeys(row))
    if taken := {"prompts", "completions", *KNOWN} & columns.keys():
        raise ValueError(f"task {task!r}: {source} has a column {taken.pop()!r}, which reward functions get already")
    del columns["prompt"]
    return list(columns)


@cache
def _warn_once(message: str) -> None:
    """Log a warning the first time that it is given: environments of one run are made several times."""
    logger.warning(message)


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], limit: int, on_long_prompt: str, task: str
) -> list[np.ndarray]:
    """Return the prompts as token ids, (length,) int64 each, read as `rlhf_envs.tokens.encode_texts` reads texts.

    Args:
        tokenizer: the model's tokenizer.
        rows: the data.
        limit: the most tokens that a prompt may have. A longer prompt loses its beginning, but keeps its BOS.
        on_long_prompt: "truncate", which logs how many prompts were too long, or "error".
        task: the task's name, for messages.

    Raises:
        ValueError: a prompt has no tokens, or is too long with "error".
    """
    if on_long_prompt not in ("truncate", "error"):
        raise ValueError(f"on_long_prompt must be 'truncate' or 'error', got {on_long_prompt!r}")
    encoded = encode_texts(tokenizer, [row["prompt"] for row in rows])
    too_long = [(i, len(ids)) for i, ids in enumerate(encoded) if len(ids) > limit]
    if (empty := next((i for i, ids in enumerate(encoded) if not ids), None)) is not None:
        raise ValueError(f"task {task!r}: the prompt of row {empty} has no tokens: {rows[empty]['prompt']!r}")
    if too_long and on_long_prompt == "error":
        i, length = too_long[0]
        raise ValueError(
            f"task {task!r}: {len(too_long)} of {len(encoded)} prompts are longer than max_prompt_tokens={limit}; the "
            f"first is row {i} with {length} tokens: {rows[i]['prompt']!r}"
        )
    if too_long:
        longest = max(length for _, length in too_long)
        _warn_once(
            f"task {task!r}: {len(too_long)} of {len(encoded)} prompts are longer than max_prompt_tokens={limit} and "
            f"lose their beginning; the longest has {longest} tokens, max_prompt_tokens={longest} keeps all"
        )
    return [np.asarray(keep_end(tokenizer, ids, limit), dtype=np.int64) for ids in encoded]


def text_prompts(rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, task: str) -> list[dict[str, Any]]:
    """Return the rows with a text for each prompt of messages: in the tokenizer's chat template, else in role lines.

    Raises:
        ValueError: a message is not text.
    """
    texts = []
    for i, row in enumerate(rows):
        if isinstance(row.get("prompt"), list | dict):
            try:
                row = {**row, "prompt": opening(as_messages(row["prompt"], "prompt"), tokenizer)}
            except ValueError as error:
                raise ValueError(f"task {task!r}: row {i}: {error}") from None
        texts.append(row)
    return texts


class PromptSampler:
    """Choose the row of data for each next episode.

    Args:
        n_rows: the number of rows of data.
        group_size: how many episodes get the same row before the next is drawn.
    """

    def __init__(self, n_rows: int, group_size: int) -> None:
        self.n_rows, self.group_size = n_rows, group_size
        self.begin_group()

    def begin_group(self) -> None:
        """Draw a new row for the next episode, even if the last row has not been given to a whole group."""
        self._index, self._left = 0, 0

    def draw(self, rng: np.random.Generator, index: object = None) -> int:
        """Return `index` if it is given, else the row of the group under way, else a row drawn uniformly.

        Raises:
            ValueError: `index` is no row of the data.
        """
        if index is None:
            if self._left == 0:
                self._index, self._left = int(rng.integers(self.n_rows)), self.group_size
            self._left -= 1
            return self._index
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < self.n_rows:
            raise ValueError(f"options['index'] must be a row of the data, 0 to {self.n_rows - 1}, got {index!r}")
        return int(index)

    def get_state(self) -> list[int]:
        """Return the group size, the row of the group under way, and how many episodes that group still lacks."""
        return [self.group_size, self._index, self._left]

    def set_state(self, state: Sequence[int]) -> None:
        """Continue from a state of `get_state`."""
        self.group_size, self._index, self._left = state
