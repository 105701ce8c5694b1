"""Text that a model wrote, with what hides in it made visible: it must not steer the terminal that shows it."""

from __future__ import annotations

import re
import unicodedata

from rich.text import Text

__all__ = ["clip", "visible"]

# Controls, formats, surrogates, private use and other default ignorables; not the Arabic signs among the formats.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)


def visible(text: str, style: str = "") -> Text:
    """The text for rich, never parsed for markup; what cannot be seen is marked, as [U+202E].

    Escape sequences, bidi overrides and zero-width characters are marked; joiners and selectors within an emoji stay.
    """
    shown = Text(style=style)
    if not text:
        shown.append("[empty]", "reverse dim")
        return shown
    if not text.strip():
        shown.append(f"[white space only, {len(text)} characters]", "reverse dim")
    text = text.replace("\r\n", "\n")
    start = 0
    for match in _HIDDEN.finditer(text):
        if _is_part_of_emoji(text, match.start()):
            continue
        shown.append(text[start : match.start()])
        shown.append(f"[U+{ord(match[0]):04X}]", "reverse")
        start = match.end()
    shown.append(text[start:])
    return shown


def clip(text: str, width: int, lines: int) -> tuple[str, int, int]:
    """(as much of a text as fills some lines, how many characters are left out, how many lines it takes)."""
    end = 0
    for line in range(1, lines + 1):
        newline = text.find("\n", end, end + width)
        end = newline + 1 if newline >= 0 else end + width
        if end >= len(text):
            return text, 0, line
    return text[:end], len(text) - end, lines


def _is_part_of_emoji(text: str, i: int) -> bool:
    before = text[i - 1] if i > 0 else ""
    after = text[i + 1] if i + 1 < len(text) else ""
    if text[i] == "\ufe0f":
        return _is_symbol(before) or after == "\u20e3"
    return text[i] == "\u200d" and (_is_symbol(before) or before == "\ufe0f") and _is_symbol(after)


def _is_symbol(character: str) -> bool:
    return bool(character) and unicodedata.category(character) in ("So", "Sk", "Sm")
