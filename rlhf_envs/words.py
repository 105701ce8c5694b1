"""Split text into words and sentences: the one tokenisation of all metrics, chosen by script.

Between spaces, a character of a script that is written without them is a word of its own, with its marks: Chinese
characters, kana, Thai, Lao, Khmer and Burmese letters. All else between spaces is one word, with its punctuation.
Korean, Arabic and Hindi put spaces between words, as English does.
"""

from __future__ import annotations

import re

__all__ = ["join_sentences", "ngrams", "split_sentences", "split_words"]

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
MARKS = (  # vowels and tones that stand on the letter before, in the same order
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3\u3099\u309a"
)
ENDS, CLOSING = "。！？｡", "”’」』）》"  # of full width: no space comes after them

_word = re.compile(f"[{UNSPACED}][{MARKS}]*|[^\\s{UNSPACED}]+")
_unspaced = re.compile(f"[{UNSPACED}]")
_sentence_end = re.compile(f"(?<=[.!?])\\s+|(?<=[{ENDS}])(?![{ENDS}{CLOSING}])\\s*|(?<=[{ENDS}][{CLOSING}])\\s*")


def split_words(text: str) -> list[str]:
    """Return the words of a text, in their order."""
    return text.split() if text.isascii() or not _unspaced.search(text) else _word.findall(text)


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Return the word n-grams of a text in their order; none for a text of fewer than n words."""
    words = split_words(text)
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text: they end with . ! or ? before white space, or with their forms of full width."""
    return [sentence for sentence in _sentence_end.split(text) if sentence]


def join_sentences(first: str, second: str) -> str:
    """Return two neighbouring sentences as one text, with a space between them where their script puts one."""
    return first + second if first[-1] in ENDS + CLOSING else f"{first} {second}"
