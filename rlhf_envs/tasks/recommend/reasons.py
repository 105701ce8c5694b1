"""Read why films were recommended: "... because TITLE", a film that the viewer liked."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .titles import normal

__all__ = ["best_reason", "fits", "read_reason", "split_reasons"]


def split_reasons(text: str) -> list[tuple[str, str | None]]:
    """Return the text cut at each "because", which titles have too, as what stands before and after it, and uncut."""
    cuts = re.finditer(r"\bbecause\b", text, flags=re.IGNORECASE)
    return [*((text[: cut.start()], text[cut.end() :]) for cut in cuts), (text, None)]


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
