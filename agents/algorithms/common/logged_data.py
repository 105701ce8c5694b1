"""Read logged and rated completions as the tokens that an environment's agent would have written."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.datasets.rows import as_text_rows
from rlhf_envs.tokens import check_text, encode_completion, keep_end

from ...core.completions import is_conversation
from ...core.episodes import open_batch

__all__ = ["read_log"]

logger = logging.getLogger(__name__)


def read_log(
    data: str | Path | Sequence[Mapping[str, Any]], env: Any
) -> tuple[list[np.ndarray], list[int], list[float]]:
    """Return the token ids of prompt and completion, the prompt's length and the score, one of each per row.

    They are read as the environment's own prompts and the agent's own completions, see `rlhf_envs.tokens`. Prompts are
    cut from the left and completions from the right to the environment's `max_prompt_tokens` and `max_new_tokens`; the
    log says how many were. A completion with room left ends with EOS.

    Args:
        data: rows `{prompt, completion, label}`, or a file of them.
        env: the SB3 `VecEnv` around a text environment.

    Raises:
        ValueError: there are no rows, or a row lacks a column or has a label that is not a finite number; the message
            names the row.
        FileNotFoundError: there is no such file.
    """
    rows = load_rows(data) if isinstance(data, str | Path) else list(data)
    where = f"{data}" if isinstance(data, str | Path) else "data"
    if not rows:
        raise ValueError(f"{where} has no rows: ILQL learns from logged completions")
    batch = open_batch(env, 1)
    tokenizer, room, limit = batch.tokenizer, batch.max_prompt_tokens, batch.max_new_tokens
    asked = batch.chat.read(rows, batch.task.name)
    rows = as_text_rows(asked, tokenizer, lambda number: f"{where}, row {number}", batch.chat.variables)
    checked = [_check(row, f"{where}, row {number}") for number, row in enumerate(rows)]
    kinds: list[Prompt] = [[] if is_conversation(row) else "" for row in asked]
    starts = batch.chat.encode([prompt for prompt, _, _ in checked], kinds)
    contexts, n_prompt, n_cut = [], [], Counter[str]()
    for number, (whole, (_, text, _)) in enumerate(zip(starts, checked, strict=True)):
        start = keep_end(tokenizer, whole, room)
        ids, cut = encode_completion(tokenizer, text, limit, batch.ends)
        if not start or not ids:
            raise ValueError(
                f"{where}, row {number}: the prompt or the completion has no tokens: {dict(rows[number])!r}"
            )
        n_cut.update(prompts=len(whole) > room, completions=cut)
        contexts.append(np.array([*start, *ids], dtype=np.int64))
        n_prompt.append(len(start))
    if n_cut.total():
        message = "%s: of %d rows %d lose the beginning of the prompt and %d the end of the completion"
        logger.warning(message, where, len(rows), n_cut["prompts"], n_cut["completions"])
    return contexts, n_prompt, [score for _, _, score in checked]


def _check(row: Mapping[str, Any], where: str) -> tuple[str, str, float]:
    """Return prompt, completion and score of a row, or raise ValueError with what is wrong with it."""
    for name in ("prompt", "completion", "label"):
        if name not in row:
            raise ValueError(f"{where} has no {name!r}, only {', '.join(row)}: rows are {{prompt, completion, label}}")
    prompt, completion, label = row["prompt"], row["completion"], row["label"]
    if not isinstance(prompt, str) or not isinstance(completion, str):
        raise ValueError(f"{where}: prompt and completion must be texts, got {prompt!r} and {completion!r}")
    check_text(prompt + completion, where)
    try:
        score = float(label)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{where}: the label is {label!r}, expected a finite number or true or false")
    return prompt, completion, score
