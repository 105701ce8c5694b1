"""Read rows of files as questions and past judgements, with one function per format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from ...datasets.messages import Prompt, as_messages, said, shown, turn_lines
from ...datasets.rows import CONVERSATIONS, needed, read_answers, read_dialog, read_dialog_pair, read_prompt, read_turns
from ..kinds import answer_beside, check_completions, check_gold, check_value
from ..pictures import Picture
from ..records import EXPLAINED, NewItem
from ..store.restoring import PastJudgement
from .argilla import read_argilla_row
from .csv_cells import Answer, moment, number, parse_list, truth, whole
from .entries import Entry, Reading
from .finals import check_past, read_final, read_suggestions
from .label_studio import read_label_studio_row
from .names import ImportFormat
from .pictures import take_pictures
from .potato import read_potato_row
from .published import oasst_rows, shp_row, ultrafeedback_row
from .ties import pairs_of_ties

__all__ = ["EXPECTED_ANSWERS", "FORMATS", "read_entries"]

FORMATS: tuple[str, ...] = get_args(ImportFormat)

_ITEM_FIELDS = ("kind", "source", "policy", "meta", "overlap", "gold", "priority", "max_overlap")
EXPECTED_ANSWERS = "expected_answers"  # the column of a gold question, for the project's own questions
_PAIR_NUMBERS = ("strength", "margin", "probability")
_TYPES = {str: "a string", dict: "an object", int: "a whole number"}


def read_entries(format: str, row: Mapping[str, Any], reading: Reading) -> list[Entry]:
    """Read a row of a format. Most give one entry.

    Raises:
        ValueError: the row cannot be used. The message names the column.
    """
    row = {str(name): _without_nan(value) for name, value in row.items()}
    row, pictures = take_pictures(row, reading.folder)
    readers: dict[str, Callable[[], Iterable[Entry]]] = {
        "items": lambda: [_item(row, reading)],
        "preference": lambda: [_preference(row, reading)],
        "kto": lambda: [_label(row, reading, "thumbs")],
        "ratings": lambda: [_label(row, reading, "rating")],
        "argilla": lambda: [_table(row, _read_argilla(row, reading), reading)],
        "label-studio": lambda: [_table(row, read_label_studio_row(row), reading)],
        "potato": lambda: [_read_potato(row, reading)],
        "shp": lambda: [_preference(shp_row(row), reading)],
        "ultrafeedback": lambda: [_item(ultrafeedback_row(row), reading)],
        "oasst": lambda: [_item(found, reading) for found in oasst_rows(row)],
    }
    entries = [_checked(entry, reading) for read in readers[format]() for entry in pairs_of_ties(read)]
    return [_with_pictures(entry, pictures) for entry in entries] if pictures else entries


def _with_pictures(entry: Entry, pictures: Sequence[Picture]) -> Entry:
    meta = {**entry.item.meta, "images": [picture.meta for picture in pictures]}
    n = len(meta.get("messages") or ())
    if late := [picture for picture in pictures if picture.message is not None and picture.message >= n]:
        raise ValueError(
            f"the picture {late[0].name!r} is of message {late[0].message}, and the prompt has {n} messages, from 0"
        )
    return replace(entry, item=replace(entry.item, meta=meta), pictures=tuple(pictures))


def _checked(entry: Entry, reading: Reading) -> Entry:
    """Return an entry with its answers in their one form."""
    kind, n = entry.item.kind, len(entry.item.completions)
    check_completions(kind, n)
    checked = []
    for judgement in entry.judgements:
        value = judgement.value
        if kind == "rating" and isinstance(value, dict) and "rating" in value:
            value = {**value, "rating": _on_scale(value["rating"], reading.settings.scale)}
        value = check_value(kind, value, n, reading.settings_of(judgement))
        answers, version = reading.answers_of(entry.item, replace(judgement, value=value))
        checked.append(replace(judgement, value=value, answers=answers, version=version))
    try:
        gold = check_gold(kind, entry.item.gold, n, reading.settings)
    except ValueError as error:
        raise ValueError(f"gold: {error}") from None
    item, final = replace(entry.item, gold=gold), entry.final
    asked = [reading.settings, *reading.versions.values()]
    if final is not None:
        final = replace(final, value=check_past(item, final.value, "final", asked))
        try:
            answers, version = reading.answers_of(item, final)
        except ValueError as error:
            raise ValueError(f"final: {error}") from None
        final = replace(final, answers=answers, version=version)
    suggested = [replace(one, value=check_past(item, one.value, "suggestions", asked)) for one in entry.suggestions]
    return replace(entry, item=item, judgements=tuple(checked), final=final, suggestions=tuple(suggested))


def _on_scale(rating: Any, scale: tuple[int, int]) -> int:
    found = number(rating, "rating")
    if not found.is_integer():
        low, high = scale
        raise ValueError(
            f"the rating {rating!r} is no whole number from {low} to {high}: write ratings in whole steps (halves "
            f"doubled, in a store with the scale {2 * low} to {2 * high})"
        )
    return int(found)


def _item(row: dict[str, Any], reading: Reading) -> Entry:
    """Read a row of our own: a prompt, a completion or completions, other fields of `NewItem`, and judgements.

    A conversation without completions, as ShareGPT and {messages} have it, ends with the completion.
    """
    prompt, answers = _asked(row)
    texts = [_text(answer) for answer in answers]
    n = len(texts)
    given = {name: row[name] for name in _ITEM_FIELDS if row.get(name) is not None}
    kind = given.pop("kind", None) or reading.kind
    if reading.gold and "gold" not in given and not row.get("judgements") and (found := answer_beside(row, kind, n)):
        kind, given["gold"] = found
    kind = kind or ("rating" if n == 1 else "pairwise" if n == 2 else "ranking")
    given = {"source": reading.source, "overlap": reading.overlap, **given}
    for name, expected in (
        ("source", str),
        ("policy", str),
        ("meta", dict),
        ("gold", dict),
        *((name, int) for name in ("overlap", "max_overlap")),
    ):
        if not isinstance(given.get(name, expected()), expected):
            raise ValueError(f"{name!r} must be {_TYPES[expected]}, got {str(given[name])[:60]!r}")
    explained: dict[str, Any] = {"explanation": row["explanation"]} if isinstance(row.get("explanation"), str) else {}
    if reading.gold and row.get(EXPECTED_ANSWERS) is not None:
        explained[EXPECTED_ANSWERS] = row[EXPECTED_ANSWERS]
    given["meta"] = {**given.get("meta", {}), **explained, **_messages(prompt), **_turns(answers)}
    judgements = row["judgements"] if row.get("judgements") is not None else []
    if not isinstance(judgements, list) or not all(isinstance(judgement, dict) for judgement in judgements):
        raise ValueError("'judgements' must be a list of objects")
    created = moment(row["created"], "created") if row.get("created") else None
    past = tuple(_past(judgement, n, reading) for judgement in judgements)
    withdrawn = row.get("withdrawn") or False
    if not isinstance(withdrawn, bool):
        raise ValueError(f"'withdrawn' must be true or false, got {str(withdrawn)[:60]!r}")
    if (
        given["overlap"] == 0 and row.get("id") is not None
    ):  # so older versions wrote withdrawn items without judgements
        given["overlap"], withdrawn = 1, True
    item = NewItem(str(kind), shown(prompt), tuple(texts), **given)
    beside: dict[str, Any] = {"final": read_final(row), "suggestions": read_suggestions(row)}
    return Entry(item, past, created, row.get("id"), withdrawn=withdrawn, **beside)


def _text(answer: Prompt) -> str:
    """Return the text of a completion, in role lines after the first turn of the assistant."""
    if isinstance(answer, str):
        return answer
    if answer[-1]["role"] != "assistant":
        last = answer[-1]["role"]
        raise ValueError(f"a completion ends with a message of {last!r}: people judge what the assistant says")
    return said(answer) if answer[0]["role"] == "assistant" else "\n\n".join(turn_lines(answer))


def _turns(answers: Sequence[Prompt]) -> dict[str, Any]:
    """Return the meta of an item that keeps the turns of its completions, where one has several."""
    kept = [None if isinstance(answer, str) else answer for answer in answers]
    return {"turns": kept} if any(kept) else {}


def _asked(row: dict[str, Any]) -> tuple[Prompt, Sequence[Prompt]]:
    """Return the prompt and the completions of a row of our own; completions of several turns are messages."""
    if "completions" in row:
        completions = row["completions"]
        if not isinstance(completions, list) or not completions:
            raise ValueError(f"'completions' must be a list with something in it, got {str(completions)[:60]!r}")
        return read_turns(_prompt(row), {f"completion {i}": text for i, text in enumerate(completions, start=1)})
    whole_conversation = next((name for name in CONVERSATIONS if row.get(name) is not None), None)
    if "completion" in row or whole_conversation is None:
        return read_turns(_prompt(row), {"completion": needed(row, "completion")})
    return read_answers(
        read_prompt({**row, whole_conversation: None}),
        {whole_conversation: as_messages(row[whole_conversation], whole_conversation)},
    )


def _prompt(row: Mapping[str, Any]) -> Prompt:
    prompt = read_prompt(row)
    return needed(row, "prompt") if prompt is None else prompt


def _past(row: dict[str, Any], n: int, reading: Reading) -> PastJudgement:
    sides = row.get("sides") or list(range(n))
    if not isinstance(sides, list) or len(sides) != n or any(i not in sides for i in range(n)):
        raise ValueError(f"'sides' of a judgement must hold each of 0 to {n - 1} once, got {str(sides)[:60]}")
    if "value" not in row:
        raise ValueError("no column 'value' in a judgement: give the answer, or null for a skip")
    return PastJudgement(
        annotator=str(row.get("annotator") or reading.annotator),
        value=row["value"],
        seconds=_seconds(row.get("seconds") or 0.0),
        comment=str(row.get("comment") or ""),
        sides=tuple(sides),
        key=str(row.get("key") or ""),
        created=moment(row["created"], "created") if row.get("created") else None,
        answers=_given_answers(row),
        version=_version(row),
        explained=_explained(row),
    )


def _explained(row: dict[str, Any]) -> str:
    explained = row.get("explained") or ""
    if explained and explained not in EXPLAINED:
        raise ValueError(
            f"'explained' of a judgement must be one of {', '.join(EXPLAINED)}, got {str(explained)[:40]!r}"
        )
    return str(explained)


def _given_answers(row: dict[str, Any]) -> dict[str, Any]:
    answers = row.get("answers") or {}
    if not isinstance(answers, dict):
        raise ValueError(f"'answers' of a judgement must be an object, got {str(answers)[:60]}")
    return answers


def _version(row: dict[str, Any]) -> int | None:
    version = row.get("version")
    if version is not None and (type(version) is not int or not 0 < version < 2**31):
        raise ValueError(f"'version' of a judgement must be a whole number of at least 1, got {str(version)[:40]}")
    return version


def _preference(row: dict[str, Any], reading: Reading) -> Entry:
    """Read TRL's preference rows, with an explicit or implicit prompt. A "probability" of 0.5 is a tie.

    A choice keeps its "strength", "margin" and "probability". With a tie they are kept in the item's meta.
    The completions are stored in alphabetical order. If the chosen one always came first, its place would give it away.
    """
    prompt, *answers = read_dialog_pair(row, shares_more=True)
    better, worse = map(_text, answers)
    turns = dict(zip((better, worse), answers, strict=True))
    completions = tuple(sorted((better, worse)))
    row = {**row, **_turns([turns[text] for text in completions])}
    strength = 1 if row.get("strength") in (None, "") else whole(row["strength"], "strength")
    value: dict[str, Any] = {"choice": completions.index(better), "strength": strength}
    if row.get("margin") not in (None, ""):
        value["margin"] = number(row["margin"], "margin")
        if value["margin"] < 0:
            raise ValueError(f"'margin' is {row['margin']} where 0 or more is expected: swap chosen and rejected")
    if row.get("probability") not in (None, ""):
        probability = number(row["probability"], "probability")
        if not 0.5 <= probability <= 1:
            fix = "it contradicts 'chosen': swap chosen and rejected" if 0 <= probability < 0.5 else "it is none"
            raise ValueError(f"'probability' is {row['probability']} where 0.5 (a tie) to 1 is expected: {fix}")
        value["probability"] = probability
    if value.get("probability") == 0.5:
        return _judged("pairwise", prompt, completions, {"choice": None}, row, ("chosen", "rejected"), reading)
    return _judged("pairwise", prompt, completions, value, row, ("chosen", "rejected", *_PAIR_NUMBERS), reading)


def _label(row: dict[str, Any], reading: Reading, kind: str) -> Entry:
    """Read TRL's unpaired rows (KTO), whose label is true or false, and ratings, whose label is a number."""
    prompt, answers = read_dialog(_prompt(row), {"completion": needed(row, "completion")})
    completion = _text(answers[0])
    row = {**row, **_turns(answers)}
    label = needed(row, "label")
    value = {"up": truth(label, "label")} if kind == "thumbs" else {"rating": number(label, "label")}
    return _judged(kind, prompt, (completion,), value, row, ("completion", "label"), reading)


def _judged(
    kind: str,
    prompt: Prompt,
    completions: tuple[str, ...],
    value: dict[str, Any],
    row: dict[str, Any],
    used: tuple[str, ...],
    reading: Reading,
) -> Entry:
    """Return an item with one judgement. Columns that are not `used` become the item's meta."""
    read = {"prompt", "annotator", *used, *CONVERSATIONS}
    meta = {name: column for name, column in row.items() if name not in read} | _messages(prompt)
    item = NewItem(kind, shown(prompt), completions, source=reading.source, meta=meta, overlap=reading.overlap)
    return Entry(item, (PastJudgement(str(row.get("annotator") or reading.annotator), value),))


def _table(row: dict[str, Any], read: tuple[str, dict[str, Any], list[Answer]], reading: Reading) -> Entry:
    kind, completions, answers = read
    past = []
    for annotator, value, extra in answers:
        if "seconds" in extra:
            extra = {**extra, "seconds": _seconds(extra["seconds"])}
        past.append(PastJudgement(annotator or reading.annotator, value, **extra))
    overlap = max(reading.overlap, len(past))
    texts_of = next((row[name] for name in ("fields", "data") if isinstance(row.get(name), dict)), row)
    if texts_of.get("messages"):  # our own tables have them beside the prompt
        texts_of = {"prompt": parse_list(texts_of["messages"], "messages")}
    prompt, texts = read_answers(_prompt(texts_of), completions)
    item = NewItem(kind, shown(prompt), tuple(texts), source=reading.source, meta=_messages(prompt), overlap=overlap)
    return Entry(item, tuple(past), id=row.get("id") or None)


def _read_argilla(row: dict[str, Any], reading: Reading) -> tuple[str, dict[str, Any], list[Answer]]:
    return read_argilla_row(row, reading.question, reading.kind, reading.settings.harms)


def _read_potato(row: dict[str, Any], reading: Reading) -> Entry:
    item, annotator, value, comment = read_potato_row(row, reading.potato, reading.settings.harms)
    asked = NewItem(item.kind, item.prompt, item.completions, meta=item.meta, overlap=item.overlap)
    past = PastJudgement(annotator or reading.annotator, value, comment=comment)
    return Entry(asked, (past,), item.created, item.id)


def _messages(prompt: Prompt) -> dict[str, Any]:
    """Return the meta of an item that keeps the messages of a conversation."""
    return {} if isinstance(prompt, str) else {"messages": prompt}


def _without_nan(value: Any) -> Any:
    """Return a value with None for what is no finite number, which pandas writes where nothing is."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return [_without_nan(inner) for inner in value] if isinstance(value, list) else value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"'seconds' must be a number of at least 0, got {str(value)[:40]!r}")
    return float(value)
