"""Read the titles that an answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["NAMED", "normal", "read_titles"]

NAMED = 3  # titles that an answer has


def normal(title: str) -> str:
    """Return a title without what does not count: case, quotes, a full stop, numbers before it, further spaces."""
    return " ".join(re.sub(r"^\s*(?:\d+[.)]|-)\s", "", title).strip(" \t.\"'").casefold().split())


def read_titles(text: str, candidates: Sequence[str]) -> list[int | None]:
    """Return the place among the candidates of each title named, three at most; None for what is none, or none new.

    Titles are separated by ";" or stand on lines of their own. What was not named is None as well.
    """
    places = {normal(title): i for i, title in enumerate(candidates)}
    found: list[int | None] = []
    parts = [part for part in re.split(r"[;\n]", text) if part.strip()]
    for part in parts[:NAMED]:
        place = places.get(normal(part))
        found.append(None if place in found else place)
    return found + [None] * (NAMED - len(found))
