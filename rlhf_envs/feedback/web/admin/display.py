"""Put texts and answers into words for the admin's pages, which are rendered here and not in the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from ....rendering import split_hidden
from ...settings import Settings

__all__ = [
    "ADMIN_PAGES",
    "FILTERS",
    "all_in_words",
    "choices",
    "in_words",
    "moment",
    "own_answers",
    "shown",
    "value_of_form",
]

_STRENGTH = {3: "much better", 2: "better", 1: "slightly better"}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def shown(text: str | None, limit: int | None = None) -> Markup:
    """Return a text as HTML that shows it as it is: no markup of its own, and a mark for what cannot be seen.

    Args:
        text: any text, also one with lone surrogates, which have no UTF-8.
        limit: cut it after so many characters, and say how many there are.
    """
    if not text:
        return Markup('<span class="mark">empty</span>')
    cut = text if limit is None else text[:limit]
    marked = Markup().join(
        escape(part) + (Markup('<span class="mark">[U+{}]</span>').format(f"{ord(hidden):04X}") if hidden else "")
        for part, hidden in split_hidden(cut.replace("\r\n", "\n"))
    )
    if len(cut) == len(text):
        return marked
    return marked + Markup('<span class="soft">… ({} characters)</span>').format(f"{len(text):,}")


def in_words(kind: str, value: Mapping[str, Any] | None) -> str:
    """Return an answer in words. A and B are the completions as they are stored, not as they were shown."""
    if value is None:
        return "skipped"
    if kind == "pairwise":
        if value["choice"] is None:
            return "tie"
        return f"{_LETTERS[value['choice']]} is {_STRENGTH.get(value['strength'], 'better')}"
    if kind == "ranking":
        return " > ".join(str(index + 1) for index in value["order"])
    if kind == "thumbs":
        return "good" if value["up"] else "bad"
    if kind == "rating":
        return str(value["rating"])
    if kind == "flags":
        return ", ".join(value["harms"]) or "no harm"
    return str(value["text"]) if kind == "correction" else json.dumps(value)


def all_in_words(kind: str, value: Mapping[str, Any], answers: Mapping[str, Any] | None) -> str:
    """Return an answer in words, with those to the project's own questions, which kind "questions" has alone."""
    own = [f"{name}: {words}" for name, words in own_answers(answers or {})]
    return "; ".join(own if kind == "questions" and own else [in_words(kind, value), *own])


def own_answers(answers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name of the question, answer in words) for the answers to the project's own questions."""
    return [(name, _own_in_words(answer)) for name, answer in answers.items()]


def _own_in_words(answer: Any) -> str:
    if isinstance(answer, dict):  # a choice
        return in_words("pairwise", answer)
    if not isinstance(answer, list):
        return str(answer)
    if answer and all(type(rating) is int for rating in answer):  # of each completion
        return ", ".join(f"{letter} {rating}" for letter, rating in zip(_LETTERS, answer, strict=False))
    return ", ".join(_mark_in_words(one) if isinstance(one, dict) else str(one) for one in answer)


def _mark_in_words(mark: Mapping[str, Any]) -> str:
    place = "prompt" if mark["completion"] is None else _LETTERS[mark["completion"]]
    note = f" ({mark['note']})" if mark.get("note") else ""
    return f"{mark['label']} at {mark['start']} to {mark['end']} in {place}{note}"


def choices(kind: str, settings: Settings) -> list[tuple[str, str]]:
    """Return (JSON of the value, words) for each answer of a kind that has few. Else the list is empty."""
    values: list[dict[str, Any]] = []
    if kind == "pairwise":
        values = [{"choice": 0, "strength": strength} for strength in (3, 2, 1)]
        values += [{"choice": None, "strength": 0}, *({"choice": 1, "strength": strength} for strength in (1, 2, 3))]
    elif kind == "rating":
        values = [{"rating": rating} for rating in range(settings.scale[0], settings.scale[1] + 1)]
    elif kind == "thumbs":
        values = [{"up": True}, {"up": False}]
    return [(json.dumps(value), in_words(kind, value)) for value in values]


def value_of_form(kind: str, form: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    """Return the answer that a form of the item's page holds. None is a skip.

    Raises:
        ValueError: a field cannot be read. Whether the value suits the item is checked by the store.
    """
    if form.get("skip"):
        return None
    if kind == "flags":
        return {"harms": list(form.get("harms", ()))}
    given = (form.get("value") or [""])[0]
    if kind == "correction":
        return {"text": given.replace("\r\n", "\n")}
    if kind == "ranking":
        try:
            return {"order": [int(place) - 1 for place in given.replace(">", " ").replace(",", " ").split()]}
        except ValueError:
            raise ValueError(f"{given[:100]!r}: write the numbers of the completions, best first: 2 > 1 > 3") from None
    try:
        value = json.loads(given)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("choose an answer")
    return value


def moment(when: datetime | None) -> str:
    """Return a time in UTC, to the minute."""
    return "never" if when is None else when.strftime("%Y-%m-%d %H:%M")


def _plain(text: str) -> str:
    """Return a text for a form's field, where a lone surrogate cannot stand."""
    return text.encode("utf-8", "replace").decode()


def _brief(value: Any) -> Markup:
    """Return what an entry of the audit holds, in short."""
    if isinstance(value, dict):
        return Markup(", ").join(
            Markup("{} {}").format(name, _brief(inner) if isinstance(inner, dict) else shown(_scalar(inner), 200))
            for name, inner in value.items()
            if inner != ""
        )
    return shown(_scalar(value), 200)


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


FILTERS = {"shown": shown, "moment": moment, "plain": _plain, "brief": _brief, "value_json": json.dumps}
ADMIN_PAGES = (
    ("/admin", "Overview"),
    ("/admin/items", "Items"),
    ("/admin/answers", "Answers"),
    ("/admin/people", "People"),
    ("/admin/participation", "Taking part"),
    ("/admin/adjudicate", "Adjudicate"),
    ("/admin/upload", "Add items"),
    ("/admin/study", "Settings"),
    ("/admin/audit", "Audit"),
    ("/admin/webhooks", "Webhooks"),
)
