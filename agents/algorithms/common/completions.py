"""Read completions that people wrote, and count what does not fit, for `sft` and `rlhf sft` alike."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rlhf_envs.datasets.messages import as_text, needed, read_answers, read_prompt

__all__ = ["EMPTY", "LEFT_OUT", "LOST_END", "is_conversation", "is_empty", "log_counts", "read_completion"]

EMPTY = "rows left out, because the completion is empty"
LEFT_OUT = "rows left out, because the completion is too long"
LOST_END = "completions that lost their end, and with it their EOS"


def read_completion(
    row: Mapping[str, Any], column: str, tokenizer: Any, variables: Mapping[str, Any] | None = None
) -> tuple[str, str]:
    """Return the prompt of a row and the completion in a column as the texts that a model reads, see `as_text`.

    Raises:
        ValueError: there is no completion, or it is neither text nor a message of the assistant.
    """
    prompt, (completion,) = read_answers(read_prompt(row), {column: needed(row, column)})
    return as_text(prompt, completion, tokenizer, variables)


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Return whether a row is a conversation: its prompt or its completion is messages, or it has `messages`.

    Raises:
        ValueError: as `read_completion` does.
    """
    if row.get("messages") is not None:
        return True
    prompt, _ = read_answers(read_prompt(row), {"completion": needed(row, "completion")})
    return not isinstance(prompt, str)


def is_empty(completion: Any) -> bool:
    """Return whether a completion, a text or messages, has no text: it would teach the model to say nothing."""
    if isinstance(completion, list) and completion and isinstance(completion[-1], dict):
        completion = completion[-1].get("content")
    return isinstance(completion, str) and not completion.strip()


def log_counts(logger: logging.Logger, counts: Counter[str], n_rows: int, room: str) -> None:
    """Warn of what was cut or left out, by reason. `room` names the limit, such as "max_length=64"."""
    for reason, n in counts.items():
        logger.warning("%d of %d rows: %s (%s)", n, n_rows, reason, room)
