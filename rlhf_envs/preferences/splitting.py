"""Hold rows out to measure a reward model on, and keep equal prompts and texts on one side."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .training import NothingToFit

__all__ = ["Split", "split_rows", "whole_texts", "without_shared"]

Row = Mapping[str, Any]
Links = Callable[[Row], list[tuple[str, ...]]]
MAX_REFERENCES = 1000


class Split(NamedTuple):
    """Hold the rows to fit and the rows to measure on, both in the order in which they were given."""

    fitted: list[Row]
    held_out: list[Row]
    warning: str | None = None  # says what stands on both sides all the same

    def references(self) -> list[str]:
        """Return the texts to normalise scores over: of the held-out rows, then of the fitted ones, up to 1,000."""
        return [text for row in (*self.held_out, *self.fitted) for text in whole_texts(row)][:MAX_REFERENCES]


def split_rows(rows: Sequence[Row], share: float = 0.1, seed: int = 0) -> Split:
    """Hold out about `share` of the rows, so that no prompt and no text is both fitted and measured.

    Rows that share a prompt or a whole text (a prompt with its completion) form a group, directly or by way of other
    rows. Groups are held out whole, in an order that hashes of their texts and the seed decide. So the split does not
    depend on the order of the rows, and most held-out rows stay held out when rows are added. A group larger than the
    share is held out only where the smaller groups are too few.

    Where the rows cannot be divided like that (all have one prompt, say), only equal texts are kept together, and where
    nearly all share texts, only equal pairs of texts. The split then carries a warning.

    Args:
        rows: pairs or ratings, see `rlhf_envs.preferences.fitting.load_judgements`.
        share: the share of the rows to hold out, above 0 and below 1.
        seed: changes which groups are held out.

    Raises:
        NothingToFit: all rows have the same texts.
    """
    for links, shared in LEVELS if rows else ():
        held_out = _hold_out(_groups(rows, links, seed), share)
        if held_out is not None:
            warning = f"nearly all rows share {shared}: the metrics flatter; give rows to hold out" if shared else None
            fitted = [row for i, row in enumerate(rows) if i not in held_out]
            return Split(fitted, [row for i, row in enumerate(rows) if i in held_out], warning)
    raise NothingToFit(
        f"{len(rows)} rows of the same texts: there is nothing to hold out, collect more or give rows to hold out"
    )


def whole_texts(row: Row) -> list[str]:
    """Return the texts of a pair (chosen, rejected) or of a rating, each with the prompt before it."""
    prompt = str(row.get("prompt") or "")
    return [prompt + str(row[name]) for name in ("chosen", "rejected", "completion") if name in row]


def without_shared(rows: Sequence[Row], held_out: Sequence[Row]) -> list[Row]:
    """Return the rows that share no prompt and no text with a held-out row."""
    taken = {link for row in held_out for link in _prompt_and_texts(row)}
    return [row for row in rows if taken.isdisjoint(_prompt_and_texts(row))]


def _prompt_and_texts(row: Row) -> list[tuple[str, ...]]:
    prompts = [("prompt", str(row["prompt"]))] if row.get("prompt") else []
    return prompts + _texts(row)


def _texts(row: Row) -> list[tuple[str, ...]]:
    return [("text", text) for text in whole_texts(row)]


def _pair(row: Row) -> list[tuple[str, ...]]:
    return [("pair", *sorted(whole_texts(row)))]


# What keeps rows on one side, the strictest first, and what may then stand on both sides.
LEVELS: tuple[tuple[Links, str], ...] = (
    (_prompt_and_texts, ""),
    (_texts, "prompts, so some prompts are in both parts"),
    (_pair, "prompts or texts, so some are in both parts"),
)


def _groups(rows: Sequence[Row], links: Links, seed: int) -> list[list[int]]:
    """Return the indices of the rows in groups that share no link, in an order drawn from the links and the seed."""
    linked = [links(row) for row in rows]
    numbers = {link: k for k, link in enumerate(dict.fromkeys(link for own in linked for link in own))}
    edges = np.array([(i, len(rows) + numbers[link]) for i, own in enumerate(linked) for link in own])
    n = len(rows) + len(numbers)
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(n, n))
    label = connected_components(graph, directed=False)[1]
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(rows)):
        groups[label[i]].append(i)
    return sorted(groups.values(), key=lambda group: min(_hash(linked[i][0], seed) for i in group))


def _hash(link: tuple[str, ...], seed: int) -> str:
    return hashlib.sha256(json.dumps([seed, *link]).encode()).hexdigest()


def _hold_out(groups: Sequence[Sequence[int]], share: float) -> set[int] | None:
    """Return the rows of the first groups that make about the share; None where that is over half of the rows."""
    n_rows = sum(map(len, groups))
    n = max(1, round(share * n_rows))
    held_out: set[int] = set()
    for group in sorted(groups, key=lambda group: max(len(group), n)):  # a large group only after all small ones
        if len(held_out) < n / 2 or len(held_out) + len(group) <= n:
            held_out.update(group)
    return held_out if len(held_out) <= n_rows / 2 else None
