"""Read completions that people wrote, and count what does not fit, for `sft` and `rlhf sft` alike."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.datasets.rows import needed, read_answers, read_prompt

__all__ = [
    "EMPTY",
    "LEFT_OUT",
    "LOST_END",
    "cut_end",
    "has_loss",
    "is_conversation",
    "is_cut_short",
    "is_empty",
    "log_counts",
    "read_completion",
]

EMPTY = "rows left out, because the completion is empty"
LEFT_OUT = "rows left out, because the completion is too long"
LOST_END = "completions that lost their end, and with it their EOS"


def read_completion(row: Mapping[str, Any], column: str) -> tuple[Prompt, str]:
    """Return the prompt of a row, a string or messages, and the text of the completion in a column.

    Raises:
        ValueError: there is no completion, it is neither text nor a message of the assistant, or it has weight 0.
    """
    answer = needed(row, column)
    if isinstance(answer, list) and not all(has_loss(message, column) for message in answer[-1:]):
        raise ValueError(f"{column!r} has weight 0, so there is nothing to learn: remove the row, or the weight")
    prompt, (completion,) = read_answers(read_prompt(row), {column: answer})
    return prompt, completion


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Return whether a row is a conversation: its prompt or its completion is messages, or it has `messages`.

    Raises:
        ValueError: as `read_completion` does.
    """
    if row.get("messages") is not None:
        return True
    prompt, _ = read_answers(read_prompt(row), {"completion": needed(row, "completion")})
    return not isinstance(prompt, str)


def has_loss(message: Any, column: str) -> bool:
    """Return whether a message is learned. In OpenAI's format for fine-tuning one with `"weight": 0` is context only.

    Raises:
        ValueError: the weight is neither 0 nor 1.
    """
    weight = message.get("weight") if isinstance(message, Mapping) else None
    if weight not in (None, 0, 1):
        raise ValueError(f"{column!r} has a message of weight {weight!r}: write 0 (it is not learned) or 1")
    return weight != 0


def is_empty(completion: Any) -> bool:
    """Return whether a completion, a text or messages, has no text: it would teach the model to say nothing."""
    if isinstance(completion, list) and completion and isinstance(completion[-1], dict):
        completion = completion[-1].get("content")
    return isinstance(completion, str) and not completion.strip()


def is_cut_short(row: Mapping[str, Any]) -> bool:
    """Return whether a row says that its completion ran out of room, as `rlhf generate` does: no EOS follows it."""
    return row.get("finish_reason") == "length"


def cut_end(text: str, completion: str) -> str:
    """Return what a chat template wrote of a completion without what it wrote after that."""
    at = text.rfind(completion.strip())
    return text if at < 0 else text[: at + len(completion.strip())] if text.strip() != completion.strip() else text


def log_counts(logger: logging.Logger, counts: Counter[str], n_rows: int, room: str) -> None:
    """Warn of what was cut or left out, by reason. `room` names the limit, such as "max_length=64"."""
    for reason, n in counts.items():
        logger.warning("%d of %d rows: %s (%s)", n, n_rows, reason, room)
