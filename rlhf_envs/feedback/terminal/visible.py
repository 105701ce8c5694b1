"""Show what a model wrote in a terminal. Hidden characters are marked, so that no text can steer the terminal."""

from __future__ import annotations

from rich.text import Text

from ...rendering import split_hidden

__all__ = ["clip", "visible"]


def visible(text: str, style: str = "") -> Text:
    """Return the text for rich, never parsed for markup. A character that cannot be seen becomes a mark: [U+202E]."""
    shown = Text(style=style)
    if not text:
        return shown.append("[empty]", "reverse dim")
    if not text.strip():
        shown.append(f"[white space only, {len(text)} characters]", "reverse dim")
    for part, hidden in split_hidden(text.replace("\r\n", "\n")):
        shown.append(part)
        if hidden:
            shown.append(f"[U+{ord(hidden):04X}]", "reverse")
    return shown


def clip(text: str, width: int, lines: int) -> tuple[str, int, int]:
    """Return (the beginning of a text that fits into some lines, the characters left out, the lines that it takes)."""
    end = 0
    for line in range(1, lines + 1):
        newline = text.find("\n", end, end + width)
        end = newline + 1 if newline >= 0 else end + width
        if end >= len(text):
            return text, 0, line
    return text[:end], len(text) - end, lines
