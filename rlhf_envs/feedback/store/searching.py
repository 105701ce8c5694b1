"""Fold texts for a search that works alike on both databases, and reduce answers to votes that can be compared.

The texts are stored as JSON, where neither database can search. So every item and judgement has a column with its texts
folded: NFKC, case-folded, without the characters that PostgreSQL's text cannot hold. A search looks for parts of words,
which suits languages without spaces too.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

__all__ = ["fold", "fold_item", "fold_judgement", "search_terms", "vote_of"]

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_TERM = re.compile(r'"([^"]+)"?|(\S+)')
_MOST_TERMS = 10
_NO_VOTE = ("strength", "margin", "probability")  # two answers agree whatever these are


def fold(text: str) -> str:
    """Return the text as a search reads it: compatibility forms and upper case are folded away."""
    return unicodedata.normalize("NFKC", _UNSTORABLE.sub("\ufffd", text)).casefold()


def fold_item(row: Mapping[str, Any]) -> str:
    """Return what a search finds an item by: prompt, completions, source and policy."""
    return fold("\n".join([row["prompt"], *row["completions"], row["source"], row["policy"]]))


def fold_judgement(row: Mapping[str, Any]) -> str:
    """Return what a search finds a judgement by: its comment, and the texts in its answers."""
    return fold("\n".join([row["comment"], *_texts(row["value"]), *_texts(row.get("answers"))]))


def vote_of(row: Mapping[str, Any]) -> str | None:
    """Return a text that is equal for answers that agree. A skip, and a correction, which is free text, has none."""
    value = row["value"]
    if value is None or "text" in value:
        return None
    return json.dumps({name: value[name] for name in sorted(value) if name not in _NO_VOTE})


def search_terms(text: str) -> list[str]:
    """Return the folded words that must all occur. Quotation marks keep words together."""
    found = [fold(quoted or word) for quoted, word in _TERM.findall(text)]
    return [term for term in found if term.strip()][:_MOST_TERMS]


def _texts(value: Any) -> list[str]:
    """Return all strings inside a JSON value that are no names of fields."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for part in inside for text in _texts(part)]
