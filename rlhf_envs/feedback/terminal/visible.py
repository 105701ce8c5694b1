"""Show what a model wrote in a terminal. Hidden characters are marked, so that no text can steer the terminal."""

from __future__ import annotations

from rich.text import Text

from ...rendering import split_hidden

__all__ = ["clip", "clip_beginning", "visible"]


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


def clip_beginning(text: str, width: int, lines: int) -> tuple[str, int, int]:
    """Return what `clip` does, but the end of the text."""
    start, taken = len(text), 0
    while start > 0 and taken < lines:
        line = text.rfind("\n", max(0, start - width - 1), start - 1) + 1  # 0 if the line is longer than the screen
        start = max(line, start - width, 0)
        taken += 1
    return text[start:], start, max(1, taken)
