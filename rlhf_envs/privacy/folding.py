"""Fold characters that look or count alike, and remember where each came from.

Full-width letters and digits become ASCII (NFKC, a character at a time), digits of any script become 0 to 9, all dashes
become "-" and all spaces " ". Characters without width and marks of direction are left out.
"""

from __future__ import annotations

import functools
import unicodedata

__all__ = ["fold", "fold_with_offsets"]

_DASHES = "‐‑‒–—―−⁃﹘﹣－"
_LEFT_OUT = "\u034f\ufe0e\ufe0f\u20e3"  # beside those of Unicode's category Cf: joiners, and what makes digits emoji


@functools.lru_cache(maxsize=8192)
def _fold_character(character: str) -> str:
    if character in _LEFT_OUT or unicodedata.category(character) == "Cf":
        return ""
    if character in _DASHES:
        return "-"
    if character.isspace():
        return "\n" if character in "\n\r\x0b\x0c\x85\u2028\u2029" else "\t" if character == "\t" else " "
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return unicodedata.normalize("NFKC", character)


def fold(text: str) -> str:
    """Return the folded text."""
    return text if text.isascii() and "\r" not in text else "".join(map(_fold_character, text))


def fold_with_offsets(text: str) -> tuple[str, list[int]]:
    """Return the folded text, and for each of its characters the index in `text` that it came from."""
    if text.isascii():
        return fold(text), [*range(len(text))]
    folded = [*map(_fold_character, text)]
    return "".join(folded), [index for index, part in enumerate(folded) for _ in part]
