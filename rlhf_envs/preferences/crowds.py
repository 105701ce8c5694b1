"""What a crowd's comparisons say together, for `rlhf feedback`: who clicks at random, and Dawid-Skene's probabilities.

It stands here because `rlhf_envs.feedback` knows nothing of `rlhf_envs.preferences`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_envs.feedback import Item, Judgement
    from rlhf_envs.preferences.spam import Figures

__all__ = ["CANNOT_TELL", "dawid_skene_shares", "random_clickers", "suspects"]

COMPARES = ("pairwise", "ranking")
ENOUGH = 10  # comparisons that others made too, below which an annotator is not suspected
CANNOT_TELL = f"cannot be told: it takes crowd-kit and two annotators with {ENOUGH} comparisons that others made too"


def dawid_skene_shares(items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[tuple[int, str, str], float]:
    """(item id, chosen, rejected) -> the probability that chosen is the better one; `shares` of `preference_rows`.

    Raises:
        ValueError: nothing is compared.
        ImportError: crowd-kit is not installed.
    """
    from rlhf_envs.preferences.crowd import aggregate_pairs

    compared, theirs = _comparisons(items, judgements)
    numbered = [replace(item, prompt=str(item.id)) for item in compared]  # rows have a prompt, but no item's id
    rows = aggregate_pairs(numbered, theirs, "dawid_skene")
    return {(int(row["prompt"]), row["chosen"], row["rejected"]): row["probability"] for row in rows}


def random_clickers(items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[str, Figures] | None:
    """Who seems to click at random by their comparisons, with the figures.

    None where that cannot be told: fewer than two annotators have made `ENOUGH` comparisons that others made too.

    Raises:
        ImportError: crowd-kit is not installed.
    """
    from rlhf_envs.preferences.crowd import find_spammers, pair_votes

    compared, theirs = _comparisons(items, judgements)
    votes = pair_votes(compared, theirs)
    if not votes:
        return None
    report = find_spammers(votes, min_answers=ENOUGH)
    if sum(figures.n >= ENOUGH for figures in report.figures.values()) < 2:
        return None
    return {name: report.figures[name] for name in sorted(report.spammers)}


def suspects(items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[str, Figures] | None:
    """`random_clickers`, or None where that cannot be told without crowd-kit either."""
    return None if find_spec("crowdkit") is None else random_clickers(items, judgements)


def _comparisons(items: Sequence[Item], judgements: Sequence[Judgement]) -> tuple[list[Item], list[Judgement]]:
    compared = [item for item in items if item.kind in COMPARES]
    ids = {item.id for item in compared}
    return compared, [j for j in judgements if j.item_id in ids and j.value is not None]
