"""Split text into words and sentences: the one tokenisation of all metrics, chosen by script.

Between spaces, a character of a script that is written without them is a word of its own, with its marks: Chinese
characters, kana, Thai, Lao, Khmer and Burmese letters, and those of smaller scripts of South-East Asia. Tibetan, which
marks its syllables, is split into them. All else between spaces is one word, with its punctuation. Korean, Arabic and
Hindi put spaces between words, as English does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import category

__all__ = ["UNSPACED", "join_sentences", "join_words", "ngrams", "split_sentences", "split_words"]

TIBETAN, TSHEG = "\u0f00-\u0f0a\u0f0c-\u0fff", "\u0f0b"
LETTERS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f"  # Tai Le, New Tai Lue, Tai Tham, Balinese
    "\ua000-\ua4cf\ua980-\ua9ff\uaa60-\uaadf"  # Yi, Javanese, more of Burmese, Tai Viet
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f"  # radicals, kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
UNSPACED = LETTERS + TIBETAN + TSHEG
MARKED = ((0xE00, 0xF00), (0x1000, 0x1B80), (0x3099, 0x309B), (0xA980, 0xAAE0))  # where letters have vowels and tones
# They stand on the letter before, in the same order, as do the voice marks of narrow kana and variation selectors.
MARKS = "".join(chr(i) for start, end in MARKED for i in range(start, end) if category(chr(i)).startswith("M"))
MARKS += "\uff9e\uff9f\ufe00-\ufe0f\U000e0100-\U000e01ef"
ENDS, CLOSING = "。！？｡", "”’」』）》"  # of full width: no space comes after them

_word = re.compile(f"[{TIBETAN}]+{TSHEG}?|[{UNSPACED}][{MARKS}]*|[^\\s{UNSPACED}]+")
_unspaced = re.compile(f"[{UNSPACED}]")
_sentence_end = re.compile(f"(?<=[.!?])\\s+|(?<=[{ENDS}])(?![{ENDS}{CLOSING}])\\s*|(?<=[{ENDS}][{CLOSING}])\\s*")


def split_words(text: str) -> list[str]:
    """Return the words of a text, in their order."""
    return text.split() if text.isascii() or not _unspaced.search(text) else _word.findall(text)


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Return the word n-grams of a text in their order; none for a text of fewer than n words."""
    words = split_words(text)
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def join_words(words: Iterable[str]) -> str:
    """Return words as one text, with a space between two words unless one of them is of a script without spaces."""
    text = ""
    for word in words:
        text += word if not text or _unspaced.match(text[-1]) or _unspaced.match(word) else f" {word}"
    return text


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text: they end with . ! or ? before white space, or with their forms of full width."""
    return [sentence for sentence in _sentence_end.split(text) if sentence]


def join_sentences(first: str, second: str) -> str:
    """Return two neighbouring sentences as one text, with a space between them where their script puts one."""
    return first + second if first[-1] in ENDS + CLOSING else f"{first} {second}"
