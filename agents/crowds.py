"""What a crowd's comparisons say together, for `rlhf feedback`: who clicks at random, and Dawid-Skene's probabilities.

It stands here because `rlhf_envs.feedback` knows nothing of `rlhf_envs.preferences`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_envs.feedback import Item, Judgement
    from rlhf_envs.preferences.spam import Figures

__all__ = ["dawid_skene_shares", "random_clickers", "suspects"]

COMPARES = ("pairwise", "ranking")
ENOUGH = 10  # comparisons of an annotator, below which nobody is suspected


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


def random_clickers(items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[str, Figures]:
    """Who seems to click at random by their comparisons, with the figures; nobody while there are few of them.

    Raises:
        ImportError: crowd-kit is not installed.
    """
    from rlhf_envs.preferences.crowd import find_spammers, pair_votes

    compared, theirs = _comparisons(items, judgements)
    if not _are_enough(theirs):
        return {}
    report = find_spammers(pair_votes(compared, theirs), min_answers=ENOUGH)
    return {name: report.figures[name] for name in sorted(report.spammers)}


def suspects(items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[str, Figures] | None:
    """`random_clickers`, or None where that cannot be told: no crowd-kit, or too few comparisons."""
    if find_spec("crowdkit") is None or not _are_enough(_comparisons(items, judgements)[1]):
        return None
    return random_clickers(items, judgements)


def _comparisons(items: Sequence[Item], judgements: Sequence[Judgement]) -> tuple[list[Item], list[Judgement]]:
    compared = [item for item in items if item.kind in COMPARES]
    ids = {item.id for item in compared}
    return compared, [j for j in judgements if j.item_id in ids and j.value is not None]


def _are_enough(judgements: Sequence[Judgement]) -> bool:
    """Whether two annotators or more have given enough comparisons to be held against each other."""
    given = Counter(judgement.annotator for judgement in judgements)
    return sum(n >= ENOUGH for n in given.values()) >= 2
