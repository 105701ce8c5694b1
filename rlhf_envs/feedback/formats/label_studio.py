"""Read and write Label Studio's annotations: its CSV and JSON-MIN, one row per annotation, and its JSON, one per task.

The columns are the task's data, one column per control, and annotator, annotation_id, created_at, updated_at, lead_time
and was_cancelled (https://labelstud.io/guide/export). Our data are prompt and answer1, answer2 (answer, for a single
completion), as in Label Studio's own template for preferences; a ranking has a list `answers` of {id, body}. Our
controls are comparison (Pairwise) with strength (Rating) and tie (Choices), ranking (Ranker), rating (Rating, or Number
for a scale that does not begin at 1), margin and probability (Number), thumbs and harms (Choices), correction and
comment (TextArea); `label_studio_config` writes them. A cancelled annotation is a skip. Label Studio keeps no order of
the completions and no idempotency key, and no names of its own for people without an account: a task's data map the id
of each judgement of ours to its annotator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from ..records import Item, Judgement
from ..settings import Settings
from .csv_cells import Answer, as_json, kind_of, moment, number, objects, parse_list, truth, whole

__all__ = ["label_studio_config", "label_studio_row", "label_studio_task", "read_label_studio_row"]

CONTROLS = {
    "comparison": "pairwise",
    "ranking": "ranking",
    "rating": "rating",
    "thumbs": "thumbs",
    "correction": "correction",
    "harms": "flags",
}
_NUMBERS = ("margin", "probability")  # of a comparison
_QUESTIONS = {
    "pairwise": "Which completion is better?",
    "ranking": "Order the completions, best first.",
    "rating": "How good is the completion?",
    "thumbs": "Is the completion good?",
    "correction": "Correct the completion.",
    "flags": "Which harms does the completion do?",
}
_MOST_STARS = 10


def label_studio_config(kind: str, settings: Settings, numbers: Sequence[str] = ()) -> str:
    """Return the labeling interface, as XML, for items of a kind.

    Args:
        kind: a key of `KINDS`. A project of Label Studio asks one kind of question.
        settings: the store's settings: the scale and the harms.
        numbers: which of margin and probability are there, for comparisons that have them.
    """
    view = ElementTree.Element("View")

    def add(tag: str, **attributes: str) -> ElementTree.Element:
        return ElementTree.SubElement(view, tag, attributes)

    add("Header", value="Prompt", size="6")
    add("Text", name="prompt", value="$prompt")
    add("Header", value=_QUESTIONS[kind])
    if kind == "ranking":
        add("List", name="answers", value="$answers", title="Best first")
        add("Ranker", name="ranking", toName="answers")
    elif kind == "pairwise":
        add("Pairwise", name="comparison", toName="answer1,answer2")
        side_by_side = add("View", style="display: flex; gap: 1em")
        for name in _names(2):
            half = ElementTree.SubElement(side_by_side, "View", style="flex: 1; border: 1px solid gray; padding: 0.5em")
            ElementTree.SubElement(half, "Text", name=name, value=f"${name}")
        add("Header", value="How much better? (optional)")
        add("Rating", name="strength", toName="answer1", maxRating="3")
        tie = add("Choices", name="tie", toName="answer1", choice="single", showInline="true")
        ElementTree.SubElement(tie, "Choice", value="tie")
        for name in numbers:
            add("Number", name=name, toName="answer1", min="0")
    else:
        add("Text", name="answer", value="$answer")
        _add_control(add, kind, settings)
    comment = {"rows": "1", "maxSubmissions": "1", "editable": "true", "placeholder": "Comment (optional)"}
    add("TextArea", name="comment", toName="prompt", **comment)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _add_control(add: Callable[..., ElementTree.Element], kind: str, settings: Settings) -> None:
    low, high = settings.scale
    if kind == "rating" and _has_stars(settings):
        add("Rating", name="rating", toName="answer", maxRating=str(high), required="true")
    elif kind == "rating":
        add("Number", name="rating", toName="answer", min=str(low), max=str(high), step="1", required="true")
    elif kind == "correction":
        text = {"value": "$answer", "rows": "8", "maxSubmissions": "1", "editable": "true", "required": "true"}
        add("TextArea", name="correction", toName="answer", **text)
    else:
        several, values = kind == "flags", settings.harms if kind == "flags" else ("up", "down")
        choices = add("Choices", name="harms" if several else "thumbs", toName="answer", showInline="true",
                      choice="multiple" if several else "single", required="false" if several else "true")  # fmt: skip
        for value in values:
            ElementTree.SubElement(choices, "Choice", value=value)


def _has_stars(settings: Settings) -> bool:
    return settings.scale[0] == 1 and settings.scale[1] <= _MOST_STARS


def label_studio_task(item: Item, judgements: Sequence[Judgement], settings: Settings) -> dict[str, Any]:
    """Return a task for Label Studio's import: the item as `data`, and its judgements as `annotations`."""
    data: dict[str, Any] = {"item": item.id, "kind": item.kind, "prompt": item.prompt}
    names = _names(len(item.completions))
    if item.kind == "ranking":
        data["answers"] = _listed(names, item.completions)
    else:
        data.update(zip(names, item.completions, strict=True))
    if item.meta.get("messages"):
        data["messages"] = item.meta["messages"]
    if judgements:
        data["annotators"] = {str(judgement.id): judgement.annotator for judgement in judgements}
    annotations = [
        {
            "id": judgement.id,
            "was_cancelled": judgement.value is None,
            "lead_time": judgement.seconds,
            "result": _results(judgement, names, "rating" if _has_stars(settings) else "number"),
        }
        for judgement in judgements
    ]
    return {"data": data, "annotations": annotations}


def _results(judgement: Judgement, names: Sequence[str], rating: str) -> list[dict[str, Any]]:
    """Return the results of an annotation: one for each control that says something."""
    found: list[dict[str, Any]] = []

    def add(control: str, type: str, value: Any, key: str = "", to: str = "answer") -> None:
        found.append({"from_name": control, "to_name": to, "type": type, "value": {key or type: value}})

    value = judgement.value or {}
    if judgement.value is None:
        pass
    elif judgement.kind == "pairwise":
        if value["choice"] is None:
            add("tie", "choices", ["tie"], to="answer1")
        else:
            add("comparison", "pairwise", ("left", "right")[value["choice"]], "selected", "comparison")
            add("strength", "rating", value["strength"], to="answer1")
        for name in _NUMBERS:
            if name in value:
                add(name, "number", value[name], to="answer1")
    elif judgement.kind == "ranking":
        add("ranking", "ranker", {"ranking": [names[i] for i in value["order"]]}, to="answers")
    elif judgement.kind == "rating":
        add("rating", rating, value["rating"])
    elif judgement.kind == "thumbs":
        add("thumbs", "choices", ["up" if value["up"] else "down"])
    elif judgement.kind == "correction":
        add("correction", "textarea", [value["text"]], "text")
    elif value["harms"]:
        add("harms", "choices", value["harms"])
    if judgement.comment:
        add("comment", "textarea", [judgement.comment], "text", "prompt")
    return found


def label_studio_row(item: Item, judgement: Judgement | None) -> dict[str, Any]:
    """Return an annotation of Label Studio, or a task without one."""
    row: dict[str, Any] = {"id": item.id, "kind": item.kind, "prompt": item.prompt}
    names = _names(len(item.completions))
    if item.kind == "ranking":
        row["answers"] = as_json(_listed(names, item.completions))
    else:
        row.update(zip(names, item.completions, strict=True))
    if item.meta.get("messages"):
        row["messages"] = as_json(item.meta["messages"])
    if judgement is None:
        return row
    created = judgement.created.isoformat().replace("+00:00", "Z")
    row |= {"annotator": judgement.annotator, "annotation_id": judgement.id, "created_at": created}
    row |= {"updated_at": created, "lead_time": judgement.seconds, "was_cancelled": judgement.value is None}
    if judgement.comment:
        row["comment"] = judgement.comment
    if judgement.value is not None:
        row |= _controls(judgement.kind, judgement.value, names)
    return row


def _listed(names: Sequence[str], completions: Sequence[str]) -> list[dict[str, str]]:
    """Return what a List shows."""
    return [{"id": name, "title": name, "body": text} for name, text in zip(names, completions, strict=True)]


def _controls(kind: str, value: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    if kind == "ranking":
        return {"ranking": as_json([{"ranker": {"ranking": [names[i] for i in value["order"]]}}])}
    if kind == "pairwise" and value["choice"] is None:
        return {"tie": "tie"}
    if kind == "pairwise":
        side = ("left", "right")[value["choice"]]
        numbers = {name: as_json([{"number": value[name]}]) for name in _NUMBERS if name in value}
        strength = as_json([{"rating": value["strength"]}])
        return {"comparison": as_json([{"selected": side}]), "strength": strength, **numbers}
    if kind == "rating":
        return {"rating": as_json([{"rating": value["rating"]}])}
    if kind == "thumbs":
        return {"thumbs": "up" if value["up"] else "down"}
    if kind == "correction":
        return {"correction": value["text"]}
    harms = value["harms"]
    return {"harms": harms[0] if len(harms) == 1 else as_json([{"choices": harms}]) if harms else ""}


def read_label_studio_row(row: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[Answer]]:
    """Return (kind, completions by column, answers) of an annotation or a task, without answers if there are none yet.

    Raises:
        ValueError: the row is no such annotation. The message names the column.
    """
    annotations = _annotations(row) if isinstance(row.get("data"), dict) else [row]
    columns = {name: value for annotation in annotations for name, value in annotation.items() if value}
    columns = {**annotations[0], **columns}
    ranked = _ranked(columns)
    kind = kind_of(columns, CONTROLS, len(ranked) or (2 if columns.get("answer1") or columns.get("answer2") else 1))
    if kind == "ranking":
        completions: dict[str, Any] = ranked
        if not ranked:
            raise ValueError("no column answers: a ranking needs the list of {id, body} that was ranked")
    else:
        names = _names(2 if kind == "pairwise" else 1)
        if missing := [name for name in names if name not in columns]:
            raise ValueError(f"no column {', '.join(missing)}: name the columns that hold the completions")
        completions = {name: columns[name] for name in names}
    answers = [answer for annotation in annotations for answer in _answers(kind, annotation, list(completions))]
    return kind, completions, answers


def _ranked(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texts of a ranking by their ids, none if there is no list of them."""
    answers = objects(parse_list(columns.get("answers"), "answers"), "answers")
    found = {str(answer.get("id")): answer.get("body") for answer in answers}
    if len(found) < len(answers):
        raise ValueError("'answers' must have ids that differ")
    return found


def _annotations(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a task of the JSON as the rows of the JSON-MIN."""
    rows = []
    for annotation in objects(task.get("annotations"), "annotations") or [{}]:
        row = {**task["data"], **{name: annotation.get(name) for name in ("created_at", "lead_time", "was_cancelled")}}
        by = annotation.get("completed_by")
        row["annotator"] = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
        number = annotation.get("import_id" if "completed_by" in annotation else "id")  # "id": a file that we wrote
        if isinstance(ours := task["data"].get("annotators"), dict) and str(number) in ours:
            row["annotator"] = ours[str(number)]  # it was a judgement of ours
        row["annotation_id"] = annotation.get("id")
        controls: dict[str, list[Any]] = {}
        for result in objects(annotation.get("result"), "result"):
            controls.setdefault(str(result.get("from_name")), []).append(result.get("value"))
        rows.append(row | controls)
    return rows


def _answers(kind: str, row: Mapping[str, Any], names: Sequence[str]) -> list[Answer]:
    """Return the answer of an annotation, in a list that is empty if it has none."""
    control = next(name for name, of in CONTROLS.items() if of == kind)
    cancelled = bool(row.get("was_cancelled")) and truth(row["was_cancelled"], "was_cancelled")
    answer = row.get(control)
    if kind == "pairwise" and _parts(row.get("tie"), "choices"):
        if answer not in (None, "", []):
            raise ValueError(f"annotation {row.get('annotation_id')} chooses a side and says tie: keep one of the two")
        answer = "tie"
    judged = answer not in (None, "", []) or cancelled or (kind == "flags" and bool(row.get("annotation_id")))
    if not judged:
        _check_controls(row)
        return []
    extra: dict[str, Any] = {"comment": _only_text(row.get("comment") or "", "comment")}
    if row.get("lead_time"):
        extra["seconds"] = number(row["lead_time"], "lead_time")
    if row.get("created_at"):
        extra["created"] = moment(row["created_at"], "created_at")
    value = None if cancelled else _value_of_control(kind, answer, row, names)
    return [(str(row.get("annotator") or ""), value, extra)]


def _check_controls(row: Mapping[str, Any]) -> None:
    """Raise a ValueError if an annotation has no answer: it has the name of another control, and would be lost."""
    if row.get("annotation_id"):
        raise ValueError(
            f"annotation {row['annotation_id']} has no answer in {', '.join(CONTROLS)}: rename your control, "
            "in a table with --column comparison:NAME"
        )


def _value_of_control(kind: str, answer: Any, row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    if answer == "tie":
        return {"choice": None}
    if kind == "ranking":
        return {"order": _order(answer, names)}
    if kind == "correction":
        return {"text": _only_text(answer, "correction")}
    if kind == "pairwise":
        side = (_parts(answer, "selected") or [None])[0]
        if side not in ("left", "right"):
            raise ValueError(f"'comparison' must say left or right, got {answer!r}")
        strength = (_parts(row.get("strength"), "rating") or [1])[0]
        given = {name: (_parts(row.get(name), "number") or [None])[0] for name in _NUMBERS}
        numbers = {name: number(found, name) for name, found in given.items() if found is not None}
        return {"choice": ("left", "right").index(side), "strength": whole(strength, "strength"), **numbers}
    if kind == "rating":
        found = (_parts(answer, "rating") or [None])[0]
        return {"rating": found.get("number") if isinstance(found, dict) else found}
    chosen = _parts(answer, "choices")
    return {"up": truth(chosen[0] if chosen else "", "thumbs")} if kind == "thumbs" else {"harms": chosen}


def _order(answer: Any, names: Sequence[str]) -> list[int]:
    """Return the order of a Ranker without buckets: the ids of its one list, best first."""
    ranked = _parts(answer, "ranker")
    lists = list(ranked[0].values()) if ranked and isinstance(ranked[0], dict) else [ranked]
    if len(lists) != 1 or not isinstance(lists[0], list) or sorted(map(str, lists[0])) != sorted(names):
        raise ValueError(f"'ranking' must order each of {', '.join(names)} once, in one list, got {str(answer)[:200]}")
    return [names.index(str(name)) for name in lists[0]]


def _only_text(answer: Any, column: str) -> str:
    """Return a text. In a cell it is the text itself, also where a person wrote JSON."""
    if isinstance(answer, str):
        return answer
    texts = _parts(answer, "text")
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ValueError(f"{column!r} must be one text, got {str(answer)[:60]!r}")
    return texts[0]


def _parts(answer: Any, key: str) -> list[Any]:
    """Return what a control says: the values under a key in its results, which may be JSON, or plain values."""
    if isinstance(answer, str) and answer[:1] in ("[", "{"):
        try:
            answer = json.loads(answer)
        except ValueError:
            return [answer]
    parts = answer if isinstance(answer, list) else [answer] if answer not in (None, "") else []
    values = [part[key] if isinstance(part, dict) and key in part else part for part in parts]
    return [value for part in values for value in (part if isinstance(part, list) else [part])]


def _names(n: int) -> list[str]:
    return ["answer"] if n == 1 else [f"answer{i + 1}" for i in range(n)]
