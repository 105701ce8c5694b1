"""Turn rankings with ranks into orders, and rankings with equal ranks into one comparison per pair."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .csv_cells import number
from .entries import Entry

__all__ = ["pairs_of_ties"]


def pairs_of_ties(entry: Entry) -> list[Entry]:
    """Return an entry with the order for the ranks (1 is best) of its ranking; if ranks are equal, one per pair."""
    n = len(entry.item.completions)
    if entry.item.kind != "ranking" or not any("ranks" in (judgement.value or {}) for judgement in entry.judgements):
        return [entry]
    ranked = [(judgement, _ranks(judgement.value, n)) for judgement in entry.judgements]
    if n > 2 and all(len(set(ranks)) == n for _, ranks in ranked if ranks):
        past = [replace(judgement, value=_order(ranks) if ranks else None) for judgement, ranks in ranked]
        return [replace(entry, judgements=tuple(past))]
    entries = []
    for i, j in itertools.combinations(range(n), 2):
        item = replace(entry.item, kind="pairwise", completions=(entry.item.completions[i], entry.item.completions[j]))
        past = [
            replace(judgement, value=_better(ranks[i], ranks[j]) if ranks else None, sides=(), key="")
            for judgement, ranks in ranked
        ]
        entries.append(replace(entry, item=item, judgements=tuple(past)))
    return entries


def _ranks(value: Mapping[str, Any] | None, n: int) -> list[float]:
    """Return the rank of each completion, an empty list for a skip."""
    if value is None:
        return []
    ranks, order = value.get("ranks"), value.get("order")
    if ranks is None and isinstance(order, list) and len(order) == n and all(i in order for i in range(n)):
        return [float(order.index(i)) for i in range(n)]
    if not isinstance(ranks, list) or len(ranks) != n:
        raise ValueError(f"'ranks' must hold the rank of each of the {n} completions, got {str(ranks)[:60]}")
    return [number(rank, "ranks") for rank in ranks]


def _order(ranks: list[float]) -> dict[str, Any]:
    return {"order": sorted(range(len(ranks)), key=ranks.__getitem__)}


def _better(first: float, second: float) -> dict[str, Any]:
    return {"choice": None, "strength": 0} if first == second else {"choice": int(second < first), "strength": 1}
