"""Turn rows of data into prompts of tokens, checked before the first episode, and choose the next prompt."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.chat_format import ChatFormat, check_system_prompt
from rlhf_envs.datasets.messages import Messages
from rlhf_envs.models import load_config, model_positions
from rlhf_envs.pictures import Pictures
from rlhf_envs.rewards.calling import KNOWN
from rlhf_envs.task_weights import TaskWeights
from rlhf_envs.tokens import check_text, keep_end

__all__ = ["PromptSampler", "check_fits_model", "check_rows", "cut_prompts", "encode_prompts", "room_for"]

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


def check_rows(
    rows: Sequence[Mapping[str, Any]], task: str, data: object, system_prompt: str | None = None
) -> list[str]:
    """Check that there are rows and that each has a prompt, and return the names of the other columns.

    Raises:
        ValueError: there is no row, a prompt has no text or half a character, a column has the name of a reward
            function's argument, or there are no messages for a system prompt.
    """
    source = f"data={str(data)!r}" if isinstance(data, str | Path) else "the data"
    if not rows:
        raise ValueError(f"task {task!r}: {source} has no rows")
    columns: dict[str, None] = {}
    for i, row in enumerate(rows):
        prompt = row.get("prompt")
        contents: list[Any] = [message["content"] for message in prompt] if isinstance(prompt, list) else [prompt]
        if not isinstance(contents[0], str) or not contents[0].strip():
            raise ValueError(f"task {task!r}: row {i} of {source} needs a non-empty text `prompt`, got {prompt!r}")
        for text in contents:
            check_text(text, f"task {task!r}: the prompt of row {i} of {source}")
        columns.update(dict.fromkeys(row))
    if taken := {"prompts", "completions", *KNOWN} & columns.keys():
        raise ValueError(f"task {task!r}: {source} has a column {taken.pop()!r}, which reward functions get already")
    check_system_prompt(system_prompt, any(isinstance(row["prompt"], list) for row in rows), f"task {task!r}")
    del columns["prompt"]
    return list(columns)


@cache
def _warn_once(message: str) -> None:
    """Log a warning the first time that it is given: environments of one run are made several times."""
    logger.warning(message)


def encode_prompts(chat: ChatFormat, rows: Sequence[Mapping[str, Any]], task: str) -> list[list[int]]:
    """Return the tokens of each row's prompt, of messages those of the chat template.

    Raises:
        ValueError: the template refuses a message, or a prompt has no tokens. The error names the task and the row.
    """
    texts, prompts = [], [row["prompt"] for row in rows]
    for i, prompt in enumerate(prompts):
        try:
            texts.append(chat.text(prompt))
        except ValueError as error:
            raise ValueError(f"task {task!r}: row {i}: {error}") from error
    encoded = chat.encode(texts, prompts)
    if (empty := next((i for i, ids in enumerate(encoded) if not ids), None)) is not None:
        raise ValueError(f"task {task!r}: the prompt of row {empty} has no tokens: {prompts[empty]!r}")
    return encoded


def room_for(
    rows: Sequence[Mapping[str, Any]],
    encoded: Sequence[list[int]],
    usual: int,
    model: str | None,
    max_new_tokens: int,
    pictures: Pictures | None = None,
) -> int:
    """Return the `max_prompt_tokens` of an environment that is given none: `usual`, or more for its conversations.

    These keep their beginning, as far as the model has positions: without it there is no turn of the user. The tokens
    of a picture come to each.
    """
    extra = 0 if pictures is None else len(pictures.tokens)
    longest = max(
        (len(ids) + extra for row, ids in zip(rows, encoded, strict=True) if isinstance(row["prompt"], list)), default=0
    )
    positions = None if model is None else model_positions(model)
    return max(usual, longest if positions is None else min(longest, positions - max_new_tokens))


def cut_prompts(
    chat: ChatFormat,
    rows: Sequence[Mapping[str, Any]],
    encoded: Sequence[list[int]],
    limit: int,
    on_long_prompt: str,
    task: str,
    pictures: Pictures | None = None,
) -> list[np.ndarray]:
    """Return the prompts as token ids, (length,) int64 each, at most `limit`.

    Args:
        chat: how prompts are written.
        rows: the data.
        encoded: the tokens of each prompt.
        limit: the most tokens that a prompt may have. A longer prompt loses its beginning, but keeps its BOS.
        on_long_prompt: "truncate", which logs how many prompts were too long, or "error".
        task: the task's name, for messages.
        pictures: the pictures of the prompts, whose tokens are part of the limit and never cut.

    Raises:
        ValueError: a prompt is too long with "error", or its chat template alone is; or a picture leaves no room.
    """
    if on_long_prompt not in ("truncate", "error"):
        raise ValueError(f"on_long_prompt must be 'truncate' or 'error', got {on_long_prompt!r}")
    extra = 0 if pictures is None else len(pictures.tokens)
    if extra >= limit:
        raise ValueError(f"task {task!r}: max_prompt_tokens={limit}, and a picture alone has {extra} tokens: raise it")
    too_long = [(i, len(ids) + extra) for i, ids in enumerate(encoded) if len(ids) + extra > limit]
    if too_long and on_long_prompt == "error":
        i, length = too_long[0]
        raise ValueError(
            f"task {task!r}: {len(too_long)} of {len(encoded)} prompts are longer than max_prompt_tokens={limit}; the "
            f"first is row {i} with {length} tokens: {rows[i]['prompt']!r}"
        )
    seen = set[tuple[str, ...]]()
    for i, length in too_long:
        if isinstance(prompt := rows[i]["prompt"], list) and (roles := tuple(m["role"] for m in prompt)) not in seen:
            seen.add(roles)  # a template has as many tokens of its own around all conversations of these roles
            _check_room(chat, roles, limit - extra, f"task {task!r}: row {i} has {length} tokens")
    if too_long:
        longest = max(length for _, length in too_long)
        _warn_once(
            f"task {task!r}: {len(too_long)} of {len(encoded)} prompts are longer than max_prompt_tokens={limit} and "
            f"lose their beginning; the longest has {longest} tokens, max_prompt_tokens={longest} keeps all"
        )
    added = chat.tokenizer("")["input_ids"] if too_long else []
    kept = [keep_end(chat.tokenizer, ids, limit - extra, added) for ids in encoded]
    if pictures is not None:
        kept = [pictures.place(chat, i, ids, len(ids) < len(encoded[i])) for i, ids in enumerate(kept)]
    return [np.asarray(ids, dtype=np.int64) for ids in kept]


def _check_room(chat: ChatFormat, roles: Sequence[str], limit: int, where: str) -> None:
    """Raise a ValueError unless messages of one letter each would fit into `limit` tokens."""
    short: Messages = [{"role": role, "content": "a"} for role in roles]
    (ids,) = chat.encode([chat.text(short)], [short])
    if len(ids) > limit:
        raise ValueError(
            f"{where}, {len(ids) - len(short)} of them of its chat template, which leaves no room for its text in "
            f"max_prompt_tokens={limit}: raise that, or lower max_new_tokens, which takes positions of the model too"
        )


class PromptSampler:
    """Choose the row of data for each next episode.

    Args:
        n_rows: the number of rows of data.
        group_size: how many episodes get the same row before the next is drawn.
        tasks: draws a mixture's task before its row.
    """

    def __init__(self, n_rows: int, group_size: int, tasks: TaskWeights | None = None) -> None:
        self.n_rows, self.group_size, self.tasks = n_rows, group_size, tasks
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
                row = int(rng.integers(self.n_rows)) if self.tasks is None else self.tasks.draw(rng)
                self._index, self._left = row, self.group_size
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
