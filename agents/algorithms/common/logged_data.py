"""Read logged and rated completions as the tokens that an environment's agent would have written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.messages import as_text_rows

__all__ = ["read_log"]


def read_log(
    data: str | Path | Sequence[Mapping[str, Any]], env: Any
) -> tuple[list[np.ndarray], list[int], list[float]]:
    """Return the token ids of prompt and completion, the prompt's length and the score, one of each per row.

    Prompts are cut from the left and completions from the right to the environment's `max_prompt_tokens` and
    `max_new_tokens`; a completion with room left ends with EOS.

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
    tokenizer, room, limit = (env.get_attr(name, 0)[0] for name in ("tokenizer", "max_prompt_tokens", "max_new_tokens"))
    rows = as_text_rows(rows, tokenizer, lambda number: f"{where}, row {number}")
    contexts, n_prompt, scores = [], [], []
    for number, row in enumerate(rows):
        prompt, completion, score = _check(row, f"{where}, row {number}")
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"][-room:]
        ids = tokenizer(completion, add_special_tokens=False)["input_ids"][:limit]
        if len(ids) < limit and tokenizer.eos_token_id is not None:
            ids = [*ids, tokenizer.eos_token_id]
        if not start or not ids:
            raise ValueError(f"{where}, row {number}: the prompt or the completion has no tokens: {dict(row)!r}")
        contexts.append(np.array([*start, *ids], dtype=np.int64))
        n_prompt.append(len(start))
        scores.append(score)
    return contexts, n_prompt, scores


def _check(row: Mapping[str, Any], where: str) -> tuple[str, str, float]:
    """Return prompt, completion and score of a row, or raise ValueError with what is wrong with it."""
    for name in ("prompt", "completion", "label"):
        if name not in row:
            raise ValueError(f"{where} has no {name!r}, only {', '.join(row)}: rows are {{prompt, completion, label}}")
    prompt, completion, label = row["prompt"], row["completion"], row["label"]
    if not isinstance(prompt, str) or not isinstance(completion, str):
        raise ValueError(f"{where}: prompt and completion must be texts, got {prompt!r} and {completion!r}")
    try:
        score = float(label)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{where}: the label is {label!r}, expected a finite number or true or false")
    return prompt, completion, score
