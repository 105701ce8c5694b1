"""Cut a text into segments that no private data crosses, as soon as a few characters more are known.

Where a text is cut follows from the text alone, never from how it arrives, so a stream masks as a whole text does. A
cut is made after white space or Chinese punctuation, unless what stands on both sides may belong together: groups of
digits, capitalised words, the lines of a private key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .folding import fold

__all__ = ["AFTER", "BEFORE", "LONGEST", "LONGEST_KEY", "Seen", "next_cut", "wants_more"]

BEFORE = 120  # characters before a segment that are searched for words such as "phone"
AFTER = 32  # characters after it, where it holds digits
LONGEST = 1024  # characters of a segment
LONGEST_KEY = 16_384  # of one that holds a private key
_LOOK = 6  # characters after a space that say whether a text may be cut there

_BREAK = re.compile(r"[\s，。！？；、…]")
_PEM_HEAD = re.compile(r"-----BEGIN[A-Z0-9 ]{0,60}$")
_PEM_OPEN = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?>[A-Za-z0-9+/=\s\\]+|(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset): [^\n]{0,200})*+"
    r"(?:-{1,5}|-----END[A-Z0-9 ]{0,60}-{0,4})?$"
)
_DIGIT = re.compile(r"\d")
_MAIL_WORDS = re.compile(r"(?:at|dot)\b|[(\[{]", re.IGNORECASE)
_EXTENSION = re.compile(r"\W*(?:ext|extn|extension|x)", re.IGNORECASE)
_CAPITALS = re.compile(r"[^a-z]{1,6}$")


@dataclass
class Seen:
    """Hold how far a segment that has not ended was looked at, so that it is looked at once.

    Attributes:
        position: where to go on.
        word: where the last word begins.
        limit: how long the segment may become.
    """

    position: int
    word: int
    limit: int = LONGEST


def next_cut(text: str, start: int, closed: bool, seen: Seen | None = None) -> int | None:
    """Return where the segment that begins at `start` ends; None if that depends on what has not come yet.

    Args:
        text: what has come.
        start: where the segment begins.
        closed: whether nothing more comes.
        seen: what the last call for this segment, with less text, has left here.
    """
    seen = seen or Seen(start, start)
    while found := _BREAK.search(text, seen.position):
        at = found.start()
        after = at + 1
        if at - start >= seen.limit:
            break
        if _holds_open_key(text, start, after):
            seen.position, seen.word, seen.limit = after, after, LONGEST_KEY
            continue
        if text[at] in "\n\r，。！？；、…":
            return after
        look = text[after : after + _LOOK]
        if len(look) < _LOOK and not closed:
            return None
        if not _belong_together(text[seen.word : at], look):
            return after
        seen.position = seen.word = after
    length = len(text) - start
    if length >= seen.limit == LONGEST and _holds_open_key(text, start, start + LONGEST):
        seen.limit = LONGEST_KEY
    if length >= seen.limit:
        return _forced(text, start, seen.limit)
    return len(text) if closed else None


def wants_more(segment: str) -> bool:
    """Return whether the characters after a segment are searched too."""
    return len(_DIGIT.findall(segment)) >= 6


def _belong_together(word: str, look: str) -> bool:
    """Return whether private data may go on over the space between a word and the characters that follow it."""
    if look[:1] in ("\n", "\r", "\t") or look[:2].isspace():
        return False
    word, head = fold(word), fold(look).lstrip(" ")
    if not head or not word:
        return bool(head or look)
    first = head[0]
    if _DIGIT.search(word):
        return first.isascii() or first.isdigit()
    if first.isdigit() or first in "+(-/.[":
        return (
            _EXTENSION.fullmatch(word) is not None
            or not word[-1].isalnum()
            or _CAPITALS.fullmatch(word) is not None
            or first in "(["
        )
    if _MAIL_WORDS.match(head) or word.strip("()[]{}").lower() in ("at", "dot") or word[-1] in ")]}(-+":
        return True
    return first.isupper() and (word[0].isupper() or not word[-1].isalnum())


def _holds_open_key(text: str, start: int, end: int) -> bool:
    begin = text.rfind("-----BEGIN", start, end)
    if begin < 0:
        return False
    piece = text[begin:end]
    return bool(_PEM_HEAD.match(piece) or _PEM_OPEN.match(piece))


def _forced(text: str, start: int, limit: int) -> int:
    """Return where a segment that is too long is cut: before a key, else after a comma or space of its second half."""
    half, end = start + limit // 2, start + limit
    if (found := text.rfind("-----BEGIN", start + 1, end)) >= 0:
        return found
    for separator in ",;|\n ":
        if (found := text.rfind(separator, half, end)) >= 0:
            return found + 1
    return end
