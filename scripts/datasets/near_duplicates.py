"""Leave texts out that are nearly equal to one before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

__all__ = ["without_near_duplicates"]

Row = TypeVar("Row")


def without_near_duplicates(
    rows: Sequence[Row], parts_of: Callable[[Row], AbstractSet[Hashable]], alike: float
) -> list[Row]:
    """Return the rows that share few parts with every row before them.

    Args:
        rows: those to keep, in order of preference.
        parts_of: returns the parts of a row that are compared, such as its word triples.
        alike: the share of the parts of the row with fewer of them, from which on two rows are near-duplicates.
    """
    kept: list[Row] = []
    sizes: list[int] = []
    having: dict[Hashable, list[int]] = {}
    for row in rows:
        parts = parts_of(row)
        shared = Counter(i for part in parts for i in having.get(part, ()))
        if any(n >= alike * min(len(parts), sizes[i]) for i, n in shared.items()):
            continue
        for part in parts:
            having.setdefault(part, []).append(len(kept))
        kept.append(row)
        sizes.append(len(parts))
    return kept
