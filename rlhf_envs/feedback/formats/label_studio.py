"""Read and write Label Studio's annotations: its CSV and JSON-MIN, one row per annotation, and its JSON, one per task.

The columns are the task's data, one column per control, and annotator, annotation_id, created_at, updated_at, lead_time
and was_cancelled (https://labelstud.io/guide/export). Our data are prompt and answer1, answer2 (answer, for a single
completion), as in Label Studio's own template for preferences. Our controls are comparison (Pairwise), strength and
rating (Rating), margin and probability (Number), thumbs and harms (Choices), and correction (TextArea). A cancelled
annotation is a skip. Pairwise has no tie, and no control in a CSV has a ranking. Label Studio keeps no order of the
completions and no idempotency key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..records import Item, Judgement
from .csv_cells import Answer, as_json, kind_of, moment, number, objects, truth, whole

__all__ = ["label_studio_row", "read_label_studio_row"]

CONTROLS = {
    "comparison": "pairwise",
    "rating": "rating",
    "thumbs": "thumbs",
    "correction": "correction",
    "harms": "flags",
}
_NUMBERS = ("margin", "probability")  # of a comparison


def label_studio_row(item: Item, judgement: Judgement | None) -> dict[str, Any]:
    """Return an annotation of Label Studio, or a task without one."""
    row: dict[str, Any] = {"id": item.id, "kind": item.kind, "prompt": item.prompt}
    row.update(zip(_names(len(item.completions)), item.completions, strict=True))
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
        row |= _controls(judgement.kind, judgement.value)
    return row


def _controls(kind: str, value: dict[str, Any]) -> dict[str, str]:
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
    kind = kind_of(columns, CONTROLS, 2 if columns.get("answer1") or columns.get("answer2") else 1)
    names = _names(2 if kind == "pairwise" else 1)
    if missing := [name for name in names if name not in columns]:
        raise ValueError(f"no column {', '.join(missing)}: name the columns that hold the completions")
    answers = [answer for annotation in annotations for answer in _answers(kind, annotation)]
    return kind, {name: columns[name] for name in names}, answers


def _annotations(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a task of the JSON as the rows of the JSON-MIN."""
    rows = []
    for annotation in objects(task.get("annotations"), "annotations") or [{}]:
        row = {**task["data"], **{name: annotation.get(name) for name in ("created_at", "lead_time", "was_cancelled")}}
        by = annotation.get("completed_by")
        row["annotator"] = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
        row["annotation_id"] = annotation.get("id")
        controls: dict[str, list[Any]] = {}
        for result in objects(annotation.get("result"), "result"):
            controls.setdefault(str(result.get("from_name")), []).append(result.get("value"))
        rows.append(row | controls)
    return rows


def _answers(kind: str, row: Mapping[str, Any]) -> list[Answer]:
    """Return the answer of an annotation, in a list that is empty if it has none."""
    control = next(name for name, of in CONTROLS.items() if of == kind)
    cancelled = bool(row.get("was_cancelled")) and truth(row["was_cancelled"], "was_cancelled")
    answer = row.get(control)
    judged = answer not in (None, "", []) or cancelled or (kind == "flags" and bool(row.get("annotation_id")))
    if not judged:
        _check_controls(row)
        return []
    extra: dict[str, Any] = {"comment": _only_text(row.get("comment") or "", "comment")}
    if row.get("lead_time"):
        extra["seconds"] = number(row["lead_time"], "lead_time")
    if row.get("created_at"):
        extra["created"] = moment(row["created_at"], "created_at")
    value = None if cancelled else _value_of_control(kind, answer, row)
    return [(str(row.get("annotator") or ""), value, extra)]


def _check_controls(row: Mapping[str, Any]) -> None:
    """Raise a ValueError if an annotation has no answer: it has the name of another control, and would be lost."""
    if row.get("annotation_id"):
        raise ValueError(
            f"annotation {row['annotation_id']} has no answer in {', '.join(CONTROLS)}: rename your control, "
            "in a table with --column comparison:NAME"
        )


def _value_of_control(kind: str, answer: Any, row: Mapping[str, Any]) -> dict[str, Any]:
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
        return {"rating": (_parts(answer, "rating") or [None])[0]}
    chosen = _parts(answer, "choices")
    return {"up": truth(chosen[0] if chosen else "", "thumbs")} if kind == "thumbs" else {"harms": chosen}


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
