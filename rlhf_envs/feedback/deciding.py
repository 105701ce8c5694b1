"""Decide how many judgements an item needs where the overlap adapts: more only where the first ones decide nothing.

A small case of sequential labelling (Sheng, Provost and Ipeirotis, 2008, https://doi.org/10.1145/1401890.1401965):
everybody's answer counts the same, and asking ends as soon as the answers decide.
`benchmarks.feedback.adaptive_overlap` measures it on real raters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["CAN_ADAPT", "FIRST", "is_decided", "judgements_needed", "same_answer"]

FIRST = 2  # judgements before anybody can disagree
CAN_ADAPT = ("pairwise", "ranking", "rating", "thumbs", "flags")  # two corrections in free text always differ
_NEAR = 0.25  # of the scale: ratings that are no further apart agree


def judgements_needed(
    kind: str, values: Sequence[dict[str, Any]], first: int, most: int, scale: tuple[int, int] = (1, 5)
) -> int:
    """Return how many more judgements an item needs.

    Args:
        kind: the item's kind, one of `CAN_ADAPT`.
        values: the answers that stand, without skips.
        first: judgements that every item gets.
        most: judgements after which asking ends, decided or not.
        scale: the lowest and the highest rating.

    Returns:
        What is left to `first`; then 1 while nothing is decided and there are fewer than `most`; else 0.
    """
    if len(values) < first:
        return first - len(values)
    return int(0 < len(values) < most and not is_decided(kind, values, scale))


def is_decided(kind: str, values: Sequence[dict[str, Any]], scale: tuple[int, int] = (1, 5)) -> bool:
    """Return whether the answers decide an item.

    A pair is decided if one text has more votes than the other. Ties count for neither, so two ties decide nothing:
    exports leave ties out, or count them for half a vote each. Other kinds are decided if more than half of the answers
    say the same; ratings do if they are at most a quarter of the scale apart from one of them. How much better a text
    is, and comments, do not matter.
    """
    if kind == "pairwise":
        choices = [value["choice"] for value in values]
        return choices.count(0) != choices.count(1)
    if kind == "rating":
        ratings = [value["rating"] for value in values]
        near = (scale[1] - scale[0]) * _NEAR
        most = max((sum(abs(one - other) <= near for other in ratings) for one in ratings), default=0)
    else:
        most = max(Counter(_said(kind, value) for value in values).values(), default=0)
    return 2 * most > len(values)


def same_answer(kind: str, one: dict[str, Any], other: dict[str, Any], scale: tuple[int, int] = (1, 5)) -> bool:
    """Return whether two answers say the same, as `is_decided` counts it. A tie is the same as a tie."""
    if kind == "rating":
        return is_decided(kind, [one, other], scale)
    return bool(_said(kind, one) == _said(kind, other))


def _said(kind: str, value: dict[str, Any]) -> Any:
    if kind == "pairwise":
        return value["choice"]
    if kind == "thumbs":
        return value["up"]
    if kind == "ranking":
        return tuple(value["order"])
    return frozenset(value["harms"]) if kind == "flags" else repr(value)
