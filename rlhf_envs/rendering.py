"""Make texts safe to print, and draw them as images."""

from __future__ import annotations

import html
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

__all__ = ["as_markdown", "draw", "draw_turns", "html_table", "markdown_table", "printable", "split_hidden"]

# Controls, formats, surrogates, private use and other default ignorables. Arabic signs among the formats are left out.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)

MARKDOWN = str.maketrans(  # TensorBoard's Markdown shows the backslash before |, ~ and :
    {c: f"\\{c}" for c in "\\`*_{}[]()#+-.!>"}
    | {"<": "&lt;", "&": "&amp;", "|": "&#124;", "~": "&#126;", ":": "&#58;", "\n": " ", "\r": " "}
)
SIZE = (640, 360)  # width, height
MARGIN, LINE_HEIGHT, CHARACTERS, LINES = 12, 21, 68, 16
OWN_TURN, OTHER_TURN, TURN_CHARACTERS = "#d6e8ff", "#ececec", 50


def split_hidden(text: str) -> Iterator[tuple[str, str]]:
    """Yield (visible text, the hidden character after it); the last pair has no hidden character ("").

    Hidden are escape sequences, bidi overrides, zero-width characters and the like. The joiners and selectors within an
    emoji are not hidden.
    """
    start = 0
    for match in HIDDEN.finditer(text):
        if not _is_part_of_emoji(text, match.start()):
            yield text[start : match.start()], match[0]
            start = match.end()
    yield text[start:], ""


def printable(text: str) -> str:
    r"""Return the text with hidden characters written as `\x1b` or `\u202e`, so that no terminal obeys them."""
    return "".join(shown + ascii(hidden)[1:-1] for shown, hidden in split_hidden(text))


def as_markdown(text: str) -> str:
    """Return the text on one line, escaped so that Markdown finds no markup, link or image in it."""
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


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return a table in HTML from plain text, which is escaped. Lines stay lines, and hidden characters are shown."""
    above = f"<caption>{_as_html(caption)}</caption>" if caption else ""
    heading = "".join(f"<th>{_as_html(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{_as_html(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{above}<thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"


def _as_html(text: str) -> str:
    return html.escape(printable(text)).replace("\n", "<br>")


def draw(text: str) -> np.ndarray:
    """Draw the text, (360, 640, 3) uint8. Of a long text only the last lines are drawn."""
    from PIL import Image, ImageDraw, ImageFont

    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, CHARACTERS) or [""]]
    image = Image.new("RGB", SIZE, "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for i, line in enumerate(lines[-LINES:]):
        canvas.text((MARGIN, MARGIN + i * LINE_HEIGHT), line, fill="black", font=font)
    return np.asarray(image).copy()


def draw_turns(turns: Sequence[str]) -> np.ndarray:
    """Draw the turns of a conversation, such as "User: Hello", as bubbles; (360, 640, 3) uint8.

    The assistant's are on the right. Of a long conversation only the end is drawn.
    """
    from PIL import Image, ImageDraw, ImageFont

    bubbles = [textwrap.wrap(turn, TURN_CHARACTERS) for turn in turns]
    image = Image.new("RGB", SIZE, "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    height = sum(len(lines) * LINE_HEIGHT + MARGIN for lines in bubbles)
    top = min(MARGIN, SIZE[1] - height)
    for lines in bubbles:
        own = lines[0].startswith("Assistant:")
        width = max(font.getlength(line) for line in lines) + MARGIN
        left = SIZE[0] - MARGIN - width if own else MARGIN
        box = (left, top, left + width, top + len(lines) * LINE_HEIGHT + MARGIN // 2)
        canvas.rounded_rectangle(box, MARGIN // 2, fill=OWN_TURN if own else OTHER_TURN)
        canvas.text((left + MARGIN // 2, top), "\n".join(lines), fill="black", font=font, spacing=4)
        top += len(lines) * LINE_HEIGHT + MARGIN
    return np.asarray(image).copy()


def _is_part_of_emoji(text: str, i: int) -> bool:
    before = text[i - 1] if i > 0 else ""
    after = text[i + 1] if i + 1 < len(text) else ""
    if text[i] == "\ufe0f":
        return _is_symbol(before) or after == "\u20e3"
    return text[i] == "\u200d" and (_is_symbol(before) or before == "\ufe0f") and _is_symbol(after)


def _is_symbol(character: str) -> bool:
    return bool(character) and unicodedata.category(character) in ("So", "Sk", "Sm")
