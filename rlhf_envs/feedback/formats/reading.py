"""Read rows of files as questions and past judgements, with one function per format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..kinds import check_completions, check_value
from ..records import NewItem, Settings
from ..store.restoring import PastJudgement
from .argilla import read_argilla_row
from .csv_cells import moment
from .label_studio import read_label_studio_row
from .messages import completion_text, prompt_text, split_implicit_prompt

__all__ = ["FORMATS", "Entry", "Reading", "detect_format", "read_row"]

FORMATS = ("items", "preference", "kto", "ratings", "argilla", "label-studio")

_ITEM_FIELDS = ("kind", "source", "policy", "meta", "overlap", "gold", "priority")
_TYPES = {str: "a string", dict: "an object", int: "a whole number"}


@dataclass(frozen=True)
class Entry:
    """Hold what a row says.

    Attributes:
        item: the question.
        judgements: the judgements that were given on it.
        created: when the item was made. None if the row does not say.
        id: the item's id in the store from which it comes. None if the row does not say.
    """

    item: NewItem
    judgements: tuple[PastJudgement, ...] = ()
    created: datetime | None = None
    id: Any = None


@dataclass(frozen=True)
class Reading:
    """Hold how rows are read: the store's settings, and what applies if a row does not say.

    Attributes:
        settings: the store's settings, with the scale and the harms.
        kind: the kind of feedback. None tells it by the number of completions.
        annotator: who gave the judgements.
        source: where the completions come from.
        overlap: how many judgements an item needs.
    """

    settings: Settings
    kind: str | None = None
    annotator: str = "import"
    source: str = ""
    overlap: int = 1


def detect_format(row: Mapping[str, Any]) -> str:
    """Return the format of a file, told by the columns of one of its rows.

    Raises:
        ValueError: the columns belong to no format.
    """
    columns = set(row)
    if {"chosen", "rejected"} <= columns:
        return "preference"
    if any(column.endswith(".responses") for column in columns) or columns & {"response", "response1"}:
        return "argilla"
    if columns & {"annotation_id", "was_cancelled", "answer", "answer1"}:
        return "label-studio"
    if {"completion", "label"} <= columns:
        return "kto" if isinstance(row["label"], bool) or str(row["label"]).lower() in ("true", "false") else "ratings"
    if "prompt" in columns and columns & {"completion", "completions"}:
        return "items"
    raise ValueError(
        f"columns {', '.join(map(str, row)) or 'none'}: expected prompt with completions (to ask about), with chosen "
        "and rejected, with completion and label, or a table of Argilla or Label Studio"
    )


def read_row(format: str, row: dict[str, Any], reading: Reading) -> Entry:
    """Read a row of a format.

    Raises:
        ValueError: the row cannot be used. The message names the column.
    """
    readers: dict[str, Callable[[dict[str, Any], Reading], Entry]] = {
        "items": _item,
        "preference": _preference,
        "kto": _label,
        "ratings": _label,
        "argilla": lambda row, reading: _table(row, read_argilla_row(row), reading),
        "label-studio": lambda row, reading: _table(row, read_label_studio_row(row), reading),
    }
    entry = readers[format](row, reading)
    n = len(entry.item.completions)
    check_completions(entry.item.kind, n)
    checked = tuple(
        replace(judgement, value=check_value(entry.item.kind, judgement.value, n, reading.settings))
        for judgement in entry.judgements
    )
    return replace(entry, judgements=checked)


def _item(row: dict[str, Any], reading: Reading) -> Entry:
    """Read a row of our own: a prompt, a completion or completions, other fields of `NewItem`, and judgements."""
    prompt, messages = prompt_text(_needed(row, "prompt"))
    completions = row["completions"] if "completions" in row else [_needed(row, "completion")]
    if not isinstance(completions, list) or not completions:
        raise ValueError(f"'completions' must be a list with something in it, got {str(completions)[:60]!r}")
    texts = tuple(completion_text(completion, "completions") for completion in completions)
    n = len(texts)
    given = {name: row[name] for name in _ITEM_FIELDS if row.get(name) is not None}
    kind = given.pop("kind", None) or reading.kind or ("rating" if n == 1 else "pairwise" if n == 2 else "ranking")
    given = {"source": reading.source, "overlap": reading.overlap, **given}
    for name, expected in (("source", str), ("policy", str), ("meta", dict), ("gold", dict), ("overlap", int)):
        if not isinstance(given.get(name, expected()), expected):
            raise ValueError(f"{name!r} must be {_TYPES[expected]}, got {str(given[name])[:60]!r}")
    if messages is not None:
        given["meta"] = {**given.get("meta", {}), "messages": messages}
    judgements = row["judgements"] if row.get("judgements") is not None else []
    if not isinstance(judgements, list) or not all(isinstance(judgement, dict) for judgement in judgements):
        raise ValueError("'judgements' must be a list of objects")
    created = moment(row["created"], "created") if row.get("created") else None
    past = tuple(_past(judgement, n, reading) for judgement in judgements)
    return Entry(NewItem(str(kind), prompt, texts, **given), past, created, row.get("id"))


def _past(row: dict[str, Any], n: int, reading: Reading) -> PastJudgement:
    sides = row.get("sides") or list(range(n))
    if not isinstance(sides, list) or len(sides) != n or any(i not in sides for i in range(n)):
        raise ValueError(f"'sides' of a judgement must hold each of 0 to {n - 1} once, got {str(sides)[:60]}")
    return PastJudgement(
        annotator=str(row.get("annotator") or reading.annotator),
        value=_needed(row, "value"),
        seconds=_seconds(row.get("seconds", 0.0)),
        comment=str(row.get("comment") or ""),
        sides=tuple(sides),
        key=str(row.get("key") or ""),
        created=moment(row["created"], "created") if row.get("created") else None,
    )


def _preference(row: dict[str, Any], reading: Reading) -> Entry:
    """Read TRL's preference rows, with an explicit or implicit prompt. A "probability" of 0.5 is a tie.

    The completions are stored in alphabetical order. If the chosen one always came first, its place would give it away.
    """
    prompt, chosen, rejected = row.get("prompt"), _needed(row, "chosen"), _needed(row, "rejected")
    if chosen == rejected:
        raise ValueError("'chosen' and 'rejected' are the same: there is nothing to prefer")
    if prompt is None or (isinstance(prompt, str) and isinstance(chosen, list) and chosen[:1] != chosen[-1:]):
        prompt, chosen, rejected = split_implicit_prompt(chosen, rejected)
    text, messages = prompt_text(prompt) if prompt != [] else ("", None)
    better, worse = completion_text(chosen, "chosen"), completion_text(rejected, "rejected")
    if better == worse:
        raise ValueError("'chosen' and 'rejected' are the same: there is nothing to prefer")
    completions = tuple(sorted((better, worse)))
    value: dict[str, Any] = {"choice": completions.index(better), "strength": row.get("strength") or 1}
    if row.get("probability") == 0.5:
        value = {"choice": None, "strength": 0}
    used = ("prompt", "chosen", "rejected", "strength", "annotator")
    return _judged("pairwise", text, completions, value, row, used, messages, reading)


def _label(row: dict[str, Any], reading: Reading) -> Entry:
    """Read TRL's unpaired rows (KTO), whose label is true or false, and ratings, whose label is a number."""
    prompt, messages = prompt_text(_needed(row, "prompt"))
    completion, label = completion_text(_needed(row, "completion"), "completion"), _needed(row, "label")
    if isinstance(label, str):  # in a CSV
        label = {"true": True, "false": False}.get(label.lower(), label)
    used = ("prompt", "completion", "label", "annotator")
    if isinstance(label, bool):
        return _judged("thumbs", prompt, (completion,), {"up": label}, row, used, messages, reading)
    low, high = reading.settings.scale
    try:
        rating = float(label)
    except (TypeError, ValueError):
        rating = math.nan
    if not rating.is_integer():
        raise ValueError(f"'label' must be true, false or a whole number from {low} to {high}, got {str(label)[:40]!r}")
    return _judged("rating", prompt, (completion,), {"rating": int(rating)}, row, used, messages, reading)


def _judged(
    kind: str,
    prompt: str,
    completions: tuple[str, ...],
    value: dict[str, Any],
    row: dict[str, Any],
    used: tuple[str, ...],
    messages: list[dict[str, str]] | None,
    reading: Reading,
) -> Entry:
    """Return an item with one judgement. Columns that are not `used` become the item's meta."""
    meta = {str(name): column for name, column in row.items() if name not in used}
    if messages is not None:
        meta["messages"] = messages
    item = NewItem(kind, prompt, completions, source=reading.source, meta=meta, overlap=reading.overlap)
    return Entry(item, (PastJudgement(str(row.get("annotator") or reading.annotator), value),))


def _table(row: dict[str, Any], read: tuple[str, tuple[str, ...], list[Any]], reading: Reading) -> Entry:
    kind, completions, answers = read
    past = []
    for annotator, value, extra in answers:
        if "seconds" in extra:
            extra = {**extra, "seconds": _seconds(extra["seconds"])}
        past.append(PastJudgement(annotator or reading.annotator, value, **extra))
    overlap = max(reading.overlap, len(past))
    prompt = str(_needed(row, "prompt"))
    item = NewItem(kind, prompt, completions, source=reading.source, overlap=overlap)
    return Entry(item, tuple(past), id=row.get("id") or None)


def _needed(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise ValueError(f"no column {column!r} (there are: {', '.join(map(str, row)) or 'none'}): add it")
    if row[column] is None and column != "value":
        raise ValueError(f"{column!r} is null: fill it or remove the row")
    return row[column]


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"'seconds' must be a number of at least 0, got {str(value)[:40]!r}")
    return float(value)
