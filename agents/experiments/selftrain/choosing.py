"""Choose which of a model's own answers it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlhf_envs.datasets.messages import said

from ...evaluation.generate import Completion

__all__ = ["as_row", "choose"]


def choose(
    drawn: Sequence[Completion], n: int, share: float | None = None, min_score: float | None = None
) -> tuple[list[Completion], dict[str, int]]:
    """Return the answers to learn, and counts of what became of the others.

    Equal answers to a prompt count once, and empty ones not at all. Among equal scores the first drawn wins.

    The counts: answers `drawn` and `kept`, and `prompts`; answers left out as `duplicates`, as `empty`, and as `below`
    min_score; prompts `without_choice`, whose answers all have one score, and `unlearned`, which keep no answer.

    Args:
        drawn: n answers to each prompt, one prompt after the other.
        share: the share of the n answers to a prompt that may be learned, rounded up; None for one.
        min_score: a score below which none is learned.
    """
    counts = dict.fromkeys(("duplicates", "empty", "below", "without_choice", "unlearned"), 0)
    kept: list[Completion] = []
    for start in range(0, len(drawn), n):
        group = drawn[start : start + n]
        different: dict[str, Completion] = {}
        for done in group:
            different.setdefault(said(done.answered), done)
        written = [done for text, done in different.items() if text.strip()]
        best = sorted(written, key=lambda done: -done.reward)[: 1 if share is None else math.ceil(share * n - 1e-9)]
        good = [done for done in best if min_score is None or done.reward >= min_score]
        kept += good
        counts["duplicates"] += len(group) - len(different)
        counts["empty"] += len(different) - len(written)
        counts["below"] += len(best) - len(good)
        counts["without_choice"] += len({done.reward for done in group}) == 1
        counts["unlearned"] += not good
    return kept, {"drawn": len(drawn), "prompts": len(drawn) // n, "kept": len(kept), **counts}


def as_row(done: Completion) -> dict[str, Any]:
    """Return the row of a file that `rlhf sft` and `--algo sft --data` learn from."""
    return {
        "prompt": done.asked,
        "completion": done.answered,
        "score": float(done.reward),
        "finish_reason": done.finish_reason,
    }
