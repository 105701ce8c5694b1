"""From rows of data to prompts in tokens, with every check that can be made before the first episode."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_fits_model", "check_rows", "tokenize_prompts"]

logger = logging.getLogger(__name__)


def check_fits_model(name: str, vocab_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
    """Check a tokenizer's size and the contexts' length against the model's configuration.

    Raises:
        ValueError: there are more tokens than the model has embeddings for, or more positions.
    """
    from rlhf_envs.models import load_config, model_positions

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
    """Check that there are rows and that each has a prompt; returns the names of the other columns.

    Raises:
        ValueError: there is no row, no text in a prompt, or a column that reward functions could not be given.
    """
    source = f"data={str(data)!r}" if isinstance(data, str | Path) else "the data"
    if not rows:
        raise ValueError(f"task {task!r}: {source} has no rows")
    columns: dict[str, None] = {}
    for i, row in enumerate(rows):
        prompt = row.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"task {task!r}: row {i} of {source} needs a non-empty text `prompt`, got {prompt!r}")
        columns.update(dict.fromkeys(row))
    if taken := {"prompts", "completions"} & columns.keys():
        raise ValueError(f"task {task!r}: {source} has a column {taken.pop()!r}, which reward functions get already")
    del columns["prompt"]
    return list(columns)


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], limit: int, on_long_prompt: str, task: str
) -> list[np.ndarray]:
    """Tokenize the prompts, (length,) int64 each, with the tokenizer's BOS if it has one but without an EOS.

    Args:
        tokenizer: of the model.
        rows: the data.
        limit: the most tokens a prompt may have; a longer one loses its beginning, save for the BOS.
        on_long_prompt: "truncate", which logs how many prompts were too long, or "error".
        task: the task's name, for messages.

    Raises:
        ValueError: a prompt has no tokens, or is too long with "error".
    """
    if on_long_prompt not in ("truncate", "error"):
        raise ValueError(f"on_long_prompt must be 'truncate' or 'error', got {on_long_prompt!r}")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    prompts, too_long = [], []
    for i, ids in enumerate(tokenizer([row["prompt"] for row in rows])["input_ids"]):
        if len(ids) > 1 and ids[-1] == eos:  # the agent ends the text, not the prompt
            ids = ids[:-1]
        if not ids:
            raise ValueError(f"task {task!r}: the prompt of row {i} has no tokens: {rows[i]['prompt']!r}")
        if len(ids) > limit:
            too_long.append((i, len(ids)))
            keep_bos = limit > 1 and bos is not None and ids[0] == bos
            ids = [bos, *ids[1 - limit :]] if keep_bos else ids[-limit:]
        prompts.append(np.asarray(ids, dtype=np.int64))
    if too_long and on_long_prompt == "error":
        i, length = too_long[0]
        raise ValueError(
            f"task {task!r}: {len(too_long)} of {len(prompts)} prompts are longer than max_prompt_tokens={limit}; the "
            f"first is row {i} with {length} tokens: {rows[i]['prompt']!r}"
        )
    if too_long:
        logger.warning(
            "task %r: %d of %d prompts are longer than max_prompt_tokens=%d and lose their beginning",
            task,
            len(too_long),
            len(prompts),
            limit,
        )
    return prompts
