"""Compare a text with its reference by the words that both have."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlhf_envs.words import LETTERS

__all__ = ["FUNCTION_WORDS", "content_words", "longest_common", "overlap_words", "rouge_l"]

_WORD = re.compile(f"[{LETTERS}]|[^\\W_{LETTERS}]+")
_FUNCTION_WORDS = (
    "a an the and or but of to in on at by for from with without into as is are be was were it its this that these "
    "those which who whose what how when where you your we our they their he she i not no can may will has have had do "
    "does"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def overlap_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation; each character of Chinese is a word."""
    return _WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """Return the words of a text in lower case without English function words, such as "the"."""
    return [word for word in overlap_words(text) if word not in FUNCTION_WORDS]


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0  # of the row above, one to the left
        for at, other in enumerate(second, 1):
            above = row[at]
            row[at] = before + 1 if word == other else max(above, row[at - 1])
            before = above
    return row[-1]


def rouge_l(reference: str, completion: str) -> float:
    """Return ROUGE-L (Lin, 2004), the F1 of the longest common subsequence of words, in [0, 1].

    Of English it is what the package rouge-score returns without stemming (a test holds the two equal). That package
    drops all characters but a-z and 0-9; here they count, and Chinese is compared by characters.
    """
    wanted, given = overlap_words(reference), overlap_words(completion)
    common = longest_common(wanted, given)
    return 2 * common / (len(wanted) + len(given)) if common else 0.0
