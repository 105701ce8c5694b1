"""Texts for people to look at: safe to print, and drawn as an image."""

from __future__ import annotations

import textwrap
import unicodedata

import numpy as np

__all__ = ["as_markdown", "draw", "printable"]

MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_{}[]()#+-.!|>~:"} | {"<": "&lt;", "&": "&amp;", "\n": " ", "\r": " "}
)
SIZE = (640, 360)  # width, height
MARGIN, LINE_HEIGHT, CHARACTERS, LINES = 12, 21, 68, 16


def printable(text: str) -> str:
    r"""The text with control and format characters (escape sequences, bidi overrides) shown as `\x1b`, not obeyed."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else ascii(c)[1:-1] for c in text
    )


def as_markdown(text: str) -> str:
    """The text on one line, for Markdown that is rendered: nothing in it is taken for markup, a link or an image."""
    return printable(text).translate(MARKDOWN)


def draw(text: str) -> np.ndarray:
    """A picture of the text, (360, 640, 3) uint8; of a long text the last lines."""
    from PIL import Image, ImageDraw, ImageFont

    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, CHARACTERS) or [""]]
    image = Image.new("RGB", SIZE, "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for i, line in enumerate(lines[-LINES:]):
        canvas.text((MARGIN, MARGIN + i * LINE_HEIGHT), line, fill="black", font=font)
    return np.asarray(image).copy()
