"""Say how many prompts were completed, what they are, and whether they are too few."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from rlhf_envs.datasets import asked_key
from rlhf_envs.datasets.splits import log_once

__all__ = [
    "FEW",
    "count_different",
    "count_prompts",
    "count_trained",
    "describe_few",
    "describe_prompts",
    "warn_of_few",
]

FEW = 10  # different prompts that means and intervals need at least


def describe_prompts(trained: int, n: int) -> str:
    """Return "held-out prompts", "training prompts", or how many of n prompts are training prompts."""
    if not trained:
        return "held-out prompts"
    return "training prompts" if trained == n else f"prompts ({trained} of {n} are training prompts)"


def count_different(rows: Iterable[Mapping[str, Any]]) -> int:
    """Return the number of different prompts of rows, each with its picture where there are some."""
    return len({*map(asked_key, rows)})


def count_prompts(n: int, different: int, prompts: str) -> str:
    """Return "256 held-out prompts", or "256 completions of 2 held-out prompts" if prompts come several times."""
    if n == different:
        return f"{n} {prompts}"
    return f"{n} completions of {different} {prompts.replace('prompts', 'prompt', 1) if different == 1 else prompts}"


def describe_few(different: int, split: str) -> str:
    """Return what few different prompts mean for an evaluation, and what to do. `split` is as in "'test'"."""
    counted = "1 different prompt" if different == 1 else f"{different} different prompts"
    return (
        f"the split {split} has {counted}, each completed several times: means and intervals say how these are "
        "completed, and little about others. Give the data a column 'split', a larger share of held-out prompts "
        "(--env-kwargs test_share:0.25; of a mixture in the task's dict), or take another split (--test-split; of rlhf "
        "evaluate --split)"
    )


def warn_of_few(different: int, n: int, split: str, task: str | None = None) -> None:
    """Warn, once, if n completions are of fewer than `FEW` different prompts, some of which come several times.

    `task` is the one of a mixture that they are of.
    """
    if different < min(n, FEW):
        log_once(logging.WARNING, describe_few(different, repr(split) + (f" of task {task!r}" if task else "")))


def count_trained(rows: Sequence[Mapping[str, Any]], trained_on: Container[str], split: str, mixed: bool) -> int:
    """Return how many rows have training prompts; if some have none, warn of few different prompts.

    Args:
        rows: what was completed.
        trained_on: the training prompts, each as an `asked_key`.
        split: the rows' split, for the warning.
        mixed: whether they are of a mixture, whose tasks are warned of one by one.
    """
    keys = [asked_key(row) for row in rows]
    trained = sum(key in trained_on for key in keys)
    if trained < len(keys):
        of_task: dict[str | None, list[str]] = {}
        for key, row in zip(keys, rows, strict=True):
            of_task.setdefault(row["task"] if mixed else None, []).append(key)
        for task, own in of_task.items():
            warn_of_few(len({*own}), len(own), split, task)
    return trained
