"""Say what annotators read in their language. The words are in `words/*.json`, a file per area of the page.

A file maps a key to its text in each language: `{"skip": {"en": "Skip", "de": "Überspringen", ...}}`. A gap `{name}` in
a text is filled in. Where the wording depends on a count `{n}`, a text is `{"one": ..., "other": ...}`. Templates say
`t("skip")`, and so do scripts (`static/words.js`). Pages for admins are in English.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from starlette.exceptions import HTTPException as StarletteHTTPException

from ..settings import LANGUAGES

__all__ = ["COOKIE", "Refusal", "Words", "WrongValue", "choose", "load", "say"]

COOKIE = "rlhf_feedback_language"  # the language that a person has chosen
Text = str | dict[str, str]  # a dict has the forms "one" and "other"

_FOLDER = Path(__file__).with_name("words")
_GAP = re.compile(r"\{(\w+)\}")


class Words:
    """Hold every text in one language.

    Attributes:
        language: a key of `LANGUAGES`.
        json: the texts for the page's scripts: `{"skip": "Skip", ...}`.
    """

    def __init__(self, language: str, texts: Mapping[str, Text]) -> None:
        self.language = language
        self.json = json.dumps(texts, ensure_ascii=False, separators=(",", ":"))
        self._texts = texts

    def __call__(self, key: str, **values: Any) -> str:
        """Return a text with its gaps filled in.

        Raises:
            KeyError: there is no such key, or a gap has no value.
        """
        text = self._texts[key]
        if isinstance(text, dict):
            text = text["one" if self._is_one(values["n"]) else "other"]
        return _GAP.sub(lambda gap: str(values[gap[1]]), text)

    def _is_one(self, n: float) -> bool:
        """Return whether a count takes the singular (Unicode CLDR: in French zero does too)."""
        return n in (0, 1) if self.language == "fr" else n == 1


class WrongValue(ValueError):
    """Say what is wrong with a value by a text of `words/`. As a string it is English."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(load()["en"](key, **values))
        self.key, self.values = key, values


class Refusal(HTTPException):
    """Refuse a request with a text of `words/`. A program whose request names no language gets it in the default."""

    def __init__(self, status: int, key: str, headers: Mapping[str, str] | None = None, **values: Any) -> None:
        super().__init__(status, load()["en"](key, **values), dict(headers or {}))
        self.key, self.values = key, values


def say(error: StarletteHTTPException, words: Words) -> str:
    """Return what an error says, in the language of the words if its text is in the table."""
    return words(error.key, **error.values) if isinstance(error, Refusal) else str(error.detail)


def choose(request: Request, default: str = "en") -> Words:
    """Return the words for a request: in the language that the person chose, else their browser's, else the default."""
    words = load()
    asked = [request.cookies.get(COOKIE, ""), *_accepted(request.headers.get("accept-language", ""))]
    return words[next((language for language in asked if language in words), default)]


@cache
def load() -> dict[str, Words]:
    """Return the words of every language, by its code.

    Raises:
        ValueError: a text is missing or empty, has other gaps than the English one, or its key is in two files.
    """
    tables: dict[str, dict[str, Text]] = {language: {} for language in LANGUAGES}
    for path in sorted(_FOLDER.glob("*.json")):
        for key, texts in json.loads(path.read_text(encoding="utf-8")).items():
            if key in tables["en"]:
                raise ValueError(f"{path.name}: the key {key!r} is in another file of words/ too: choose another name")
            check_texts(texts, f"{path.name}: {key!r}")
            for language, text in texts.items():
                tables[language][key] = text
    return {language: Words(language, table) for language, table in tables.items()}


def check_texts(texts: Mapping[str, Text], place: str) -> None:
    """Raise a ValueError unless a text is there in every language, with the same gaps in each of its forms."""
    if texts.keys() != LANGUAGES.keys():
        raise ValueError(f"{place}: there must be a text in each of {', '.join(LANGUAGES)}, got {', '.join(texts)}")
    gaps: list[str] | None = None
    for language, text in texts.items():
        forms = text if isinstance(text, dict) else {"other": text}
        if isinstance(text, dict) and (forms.keys() != {"one", "other"} or language in ("zh", "ja")):
            raise ValueError(f'{place}: {language!r} has the forms {[*forms]}, not one text or "one" and "other"')
        for form in forms.values():
            gaps = sorted(_GAP.findall(form)) if gaps is None else gaps
            if not form.strip() or sorted(_GAP.findall(form)) != gaps:
                raise ValueError(f"{place}: the text in {language!r} must have the gaps {gaps}, got {form!r}")
            if isinstance(text, dict) and "n" not in gaps:
                raise ValueError(f"{place}: a text with forms needs the count {{n}}, got {form!r}")


def _accepted(header: str) -> list[str]:
    """Return the languages of an Accept-Language header, the most wanted first, without their regions."""
    wanted: list[tuple[float, int, str]] = []
    for part in header[:1000].split(","):
        tag, _, quality = part.strip().partition(";q=")
        try:
            weight = float(quality or 1)
        except ValueError:
            continue
        if weight > 0:
            wanted.append((-weight, len(wanted), tag.strip().partition("-")[0].lower()))
    return [language for _, _, language in sorted(wanted)]
