"""Make texts safe to print, and draw them as images."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["as_markdown", "draw", "markdown_table", "printable"]

MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_{}[]()#+-.!|>~:"} | {"<": "&lt;", "&": "&amp;", "\n": " ", "\r": " "}
)
SIZE = (640, 360)  # width, height
MARGIN, LINE_HEIGHT, CHARACTERS, LINES = 12, 21, 68, 16


def printable(text: str) -> str:
    r"""Return the text with control and format characters (escape sequences, bidi overrides) written out, as `\x1b`."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else ascii(c)[1:-1] for c in text
    )


def as_markdown(text: str) -> str:
    """Return the text on one line, escaped for Markdown: nothing in it becomes markup, a link or an image."""
    return printable(text).translate(MARKDOWN)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], rules: Sequence[str] = ()) -> str:
    """Return a table in Markdown.

    Args:
        head: the headings.
        rows: the cells, which are Markdown: what models or people wrote goes through `as_markdown` first.
        rules: what stands below each heading: "---", the default, or "---:" to align a column to the right.
    """
    lines = [head, rules or ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw(text: str) -> np.ndarray:
    """Draw the text, (360, 640, 3) uint8. Of a long text only the last lines are drawn."""
    from PIL import Image, ImageDraw, ImageFont

    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, CHARACTERS) or [""]]
    image = Image.new("RGB", SIZE, "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for i, line in enumerate(lines[-LINES:]):
        canvas.text((MARGIN, MARGIN + i * LINE_HEIGHT), line, fill="black", font=font)
    return np.asarray(image).copy()
