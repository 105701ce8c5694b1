"""Read rows of datasets that others have published as rows of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...datasets.rows import needed
from .csv_cells import number, objects, truth

__all__ = ["oasst_rows", "shp_row", "ultrafeedback_row"]

Row = dict[str, Any]


def shp_row(row: Mapping[str, Any]) -> Row:
    """Return a row of the Stanford Human Preferences as a pair: `labels` is 1 where answer A is preferred."""
    a, b = needed(row, "human_ref_A"), needed(row, "human_ref_B")
    chosen, rejected = (a, b) if truth(needed(row, "labels"), "labels") else (b, a)
    used = ("history", "human_ref_A", "human_ref_B", "labels")
    rest = {name: value for name, value in row.items() if name not in used}
    return {**rest, "question": needed(row, "history"), "chosen": chosen, "rejected": rejected}


def ultrafeedback_row(row: Mapping[str, Any]) -> Row:
    """Return a row of UltraFeedback's raw completions as a ranking by `overall_score`. Equal scores are ties."""
    answers = objects(row.get("completions"), "completions")
    scores = [number(answer.get("overall_score"), "overall_score") for answer in answers]
    texts = [answer.get("response") for answer in answers]
    meta = {"models": [answer.get("model") for answer in answers], "overall_scores": scores}
    return {
        "question": needed(row, "instruction"),
        "completions": texts,
        "kind": "ranking",
        "meta": meta,
        "judgements": [{"value": {"ranks": [-score for score in scores]}}],
    }


def oasst_rows(row: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a ranking per message of a tree of OpenAssistant that has two or more ranked replies of the assistant.

    Rank 0 is the best. Replies without a rank, and the ranks of what users ask, are left out.
    """
    pending: list[tuple[list[dict[str, str]], Any]] = [([], needed(row, "prompt"))]
    found = False
    while pending:
        before, node = pending.pop()
        if not isinstance(node, dict) or not isinstance(node.get("text"), str):
            raise ValueError(f"'prompt' is no tree of messages {{text, role, replies}}: {str(node)[:60]!r}")
        thread = [*before, {"role": str(node.get("role")), "content": node["text"]}]
        replies = objects(node.get("replies"), "replies")
        pending += [(thread, reply) for reply in reversed(replies)]
        ranked = [reply for reply in replies if reply.get("role") == "assistant" and reply.get("rank") is not None]
        if len(ranked) < 2:
            continue
        found = True
        yield {
            "prompt": thread,
            "completions": [reply.get("text") for reply in ranked],
            "kind": "ranking",
            "meta": {"message_id": node.get("message_id")},
            "judgements": [{"value": {"ranks": [number(reply["rank"], "rank") for reply in ranked]}}],
        }
    if not found:
        raise ValueError("no message of this tree has two ranked replies of the assistant: there is nothing to prefer")
