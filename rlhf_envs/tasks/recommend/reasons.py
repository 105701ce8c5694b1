"""Read why films were recommended: "... because TITLE", a film that the viewer liked."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .titles import normal

__all__ = ["best_reason", "fits", "read_reason", "split_reason"]


def split_reason(text: str) -> tuple[str, str | None]:
    """Return what stands before the last "because" and what stands after it; None where there is none."""
    found = re.fullmatch(r"(.*)\bbecause\b(.*)", text, flags=re.DOTALL | re.IGNORECASE)
    return (found[1], found[2]) if found else (text, None)


def read_reason(reason: str | None, history: Sequence[str]) -> int | None:
    """Return the place of the liked film that a reason names, and nothing but names; None if it names none."""
    places = {normal(title): i for i, title in enumerate(history)}
    return None if reason is None else places.get(normal(reason))


def fits(film: Sequence[str], liked: Sequence[str]) -> bool:
    """Say whether a film has a genre of a liked one; yes, where the genres of either are unknown."""
    return not film or not liked or bool({*film} & {*liked})


def best_reason(film: Sequence[str], history: Sequence[Sequence[str]]) -> int:
    """Return the place of the liked film with the most genres of a film, counted by their share (Jaccard)."""
    shares = [len({*film} & {*liked}) / max(len({*film} | {*liked}), 1) for liked in history]
    return shares.index(max(shares))
