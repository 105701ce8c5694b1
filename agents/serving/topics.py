"""Find topics in texts by their words: one regular expression for all, over normalised text.

Normalised is: NFKC (full-width letters become plain ones), case-folded, without characters that nobody sees, such as
zero-width spaces, and with one space for any white space. A word is found as a whole word; in scripts that write no
spaces, such as Chinese, anywhere. Somebody who writes around the list is not found: it counts what is talked about, and
blocks nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

__all__ = ["Topics", "normalised"]

MOST_TERMS, LONGEST = 10_000, 100
PIECE = 10_000  # characters: Python lets no other thread run while it searches
NAME = re.compile(r"[\w][\w .-]{0,63}")
# Letters and digits of the scripts that write spaces; others have a border beside every character.
SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
LETTER = rf"[^\W{SPACELESS}]"
IS_LETTER = re.compile(LETTER)

Trie = dict[str, Any]
END = ""  # the key of a trie's node where a term ends


def normalised(text: str) -> str:
    """Return a text as it is searched."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    seen = "".join(c for c in folded if c.isascii() or unicodedata.category(c) != "Cf")
    return " ".join(seen.split())


class Topics:
    """Find topics in texts.

    Args:
        terms: maps topics to the words and phrases that they are known by.

    Raises:
        ValueError: a topic has no terms, or a term nothing to find.
    """

    def __init__(self, terms: Mapping[str, Iterable[str]]) -> None:
        self._topics: dict[str, set[str]] = {}
        for topic, words in terms.items():
            if not NAME.fullmatch(topic):
                raise ValueError(f"topic {topic!r}: expected 1 to 64 letters, digits, spaces, dots, dashes")
            found = [normalised(word) for word in words]
            if not found:
                raise ValueError(f"topic {topic!r} has no words")
            for word, term in zip(words, found, strict=True):
                if not 1 <= len(term) <= LONGEST:
                    raise ValueError(f"topic {topic!r}: {word[:50]!r} must have 1 to {LONGEST} characters")
                self._topics.setdefault(term, set()).add(topic)
        self.names = [*terms]
        if not 1 <= len(self._topics) <= MOST_TERMS:
            raise ValueError(f"expected 1 to {MOST_TERMS} words, got {len(self._topics)}")
        # The expression finds the longest term at each place; shorter ones that begin there as well come from here.
        self._found = {term: self._prefixes(term) for term in self._topics}
        self._pattern = re.compile(f"(?=({_alternatives(self._topics)}))")

    @classmethod
    def load(cls, path: str | Path) -> Topics:
        """Read a YAML file that maps topics to lists of words.

        Raises:
            ValueError: the file has another shape; the message says where.
            OSError: it cannot be read.
        """
        try:
            content = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
        except (YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML in UTF-8: {str(error)[:200]}") from error
        if not isinstance(content, dict) or not content:
            raise ValueError(f"{path}: expected topics with lists of words, such as 'drugs: [cocaine, heroin]'")
        for topic, words in content.items():
            strings = isinstance(words, list) and all(isinstance(word, str) for word in words)
            if not isinstance(topic, str) or not strings:
                raise ValueError(f"{path}: {topic!r} needs a list of words in quotes or letters, got {words!r:.60}")
        try:
            return cls(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def find(self, text: str) -> Counter[tuple[str, str]]:
        """Return how often each (topic, term) stands in a text. Terms are as `normalised` writes them."""
        found: Counter[tuple[str, str]] = Counter()
        whole = normalised(text)
        for start in range(0, len(whole), PIECE):
            # A border beside, and what is begun here, must be seen; what begins elsewhere is another piece's.
            before = min(start, 1)
            piece = whole[start - before : start + PIECE + LONGEST + 1]
            for match in self._pattern.finditer(piece):
                if before <= match.start() < before + PIECE:
                    for term in self._found[match[1]]:
                        found.update((topic, term) for topic in self._topics[term])
        return found

    def _prefixes(self, term: str) -> list[str]:
        """Return the terms with which a term begins, itself among them, as whole words."""
        borders = (i for i in range(1, len(term) + 1) if _is_border(term, i))
        return [term[:i] for i in borders if term[:i] in self._topics]


def _is_border(text: str, place: int) -> bool:
    """Return whether a word may end before a place."""
    return place == len(text) or not (IS_LETTER.match(text[place - 1]) and IS_LETTER.match(text[place]))


def _alternatives(terms: Iterable[str]) -> str:
    """Return an expression for any of some terms, the longest first, that reads each of their beginnings once."""
    trie: Trie = {}
    for term in terms:
        node = trie
        for character in term:
            node = node.setdefault(character, {})
        node[END] = {}
    branches = []
    for first in sorted(trie):
        before = f"(?<!{LETTER})" if IS_LETTER.match(first) else ""
        branches.append(before + re.escape(first) + _rest(trie[first], first))
    return "|".join(branches)


def _rest(node: Trie, last: str) -> str:
    """Return an expression for what may follow in a trie after a character."""
    chain = ""
    while len(node) == 1 and END not in node:  # one way to go on: no group is needed
        ((last, node),) = node.items()
        chain += re.escape(last)
    end = f"(?!{LETTER})" if IS_LETTER.match(last) else ""
    branches = [re.escape(character) + _rest(below, character) for character, below in node.items() if character]
    if END in node:
        branches.append(end)
    return chain + (branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})")
