"""Read and write Label Studio's CSV: one row per annotation, as its CSV export writes it.

The columns are the task's data, one column per control, and annotator, annotation_id, created_at, updated_at, lead_time
and was_cancelled (https://labelstud.io/guide/export). Our data are prompt and answer1, answer2 (answer, for a single
completion), as in Label Studio's own template for preferences. Our controls are comparison (Pairwise), strength and
rating (Rating), thumbs and harms (Choices), and correction (TextArea). A cancelled annotation is a skip. Pairwise has
no tie, and no control in a CSV has a ranking. Label Studio keeps no order of the completions and no idempotency key.
"""

from __future__ import annotations

import json
from typing import Any

from ..records import Item, Judgement
from .csv_cells import Answer, as_json, kind_of, moment, thumb, whole

__all__ = ["label_studio_row", "read_label_studio_row"]

CONTROLS = {
    "comparison": "pairwise",
    "rating": "rating",
    "thumbs": "thumbs",
    "correction": "correction",
    "harms": "flags",
}


def label_studio_row(item: Item, judgement: Judgement | None) -> dict[str, Any]:
    """Return an annotation of Label Studio, or a task without one."""
    row: dict[str, Any] = {"id": item.id, "kind": item.kind, "prompt": item.prompt}
    row.update(zip(_names(len(item.completions)), item.completions, strict=True))
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
        return {"comparison": as_json([{"selected": side}]), "strength": as_json([{"rating": value["strength"]}])}
    if kind == "rating":
        return {"rating": as_json([{"rating": value["rating"]}])}
    if kind == "thumbs":
        return {"thumbs": "up" if value["up"] else "down"}
    if kind == "correction":
        return {"correction": value["text"]}
    harms = value["harms"]
    return {"harms": harms[0] if len(harms) == 1 else as_json([{"choices": harms}]) if harms else ""}


def read_label_studio_row(row: dict[str, str]) -> tuple[str, tuple[str, ...], list[Answer]]:
    """Return (kind, completions, answers) of an annotation, with no answers if the task has none yet.

    Raises:
        ValueError: the row is no such annotation. The message names the column.
    """
    kind = kind_of(row, CONTROLS, 2 if row.get("answer1") or row.get("answer2") else 1)
    if kind not in CONTROLS.values():
        known = ", ".join(CONTROLS.values())
        raise ValueError(f"kind {kind!r} has no form in Label Studio's CSV: these have one: {known}")
    names = _names(2 if kind == "pairwise" else 1)
    if missing := [name for name in ("prompt", *names) if name not in row]:
        raise ValueError(f"no column {', '.join(missing)}: name the columns that hold the prompt and the completions")
    completions = tuple(row[name] for name in names)
    control = next(name for name, of in CONTROLS.items() if of == kind)
    cancelled = row.get("was_cancelled", "").lower() in ("true", "1")
    answer = row.get(control, "")
    judged = bool(answer) or cancelled or (kind == "flags" and bool(row.get("annotation_id")))
    if not judged:
        return kind, completions, []
    extra: dict[str, Any] = {"comment": row.get("comment", "")}
    if row.get("lead_time"):
        extra["seconds"] = _seconds(row["lead_time"])
    if row.get("created_at"):
        extra["created"] = moment(row["created_at"], "created_at")
    value = None if cancelled else _value_of_control(kind, answer, row)
    return kind, completions, [(row.get("annotator", ""), value, extra)]


def _value_of_control(kind: str, answer: str, row: dict[str, str]) -> dict[str, Any]:
    if kind == "correction":
        texts = [text for part in _regions(answer, "text") for text in part]
        return {"text": texts[0] if len(texts) == 1 else answer}
    if kind == "pairwise":
        side = (_regions(answer, "selected") or [answer])[0]
        if side not in ("left", "right"):
            raise ValueError(f"'comparison' must say left or right, got {answer!r}")
        strength = (_regions(row.get("strength", ""), "rating") or [1])[0]
        return {"choice": ("left", "right").index(side), "strength": whole(strength, "strength")}
    if kind == "rating":
        return {"rating": whole((_regions(answer, "rating") or [answer])[0], "rating")}
    chosen = [choice for part in _regions(answer, "choices") for choice in part]
    if kind == "thumbs":
        return {"up": thumb(chosen[0] if chosen else answer)}
    return {"harms": chosen or ([answer] if answer else [])}


def _regions(answer: str, key: str) -> list[Any]:
    """Return the values under a key in the JSON results of a control. A plain choice or text has none."""
    try:
        regions = json.loads(answer)
    except ValueError:
        return []
    regions = regions if isinstance(regions, list) else [regions]
    return [region[key] for region in regions if isinstance(region, dict) and key in region]


def _names(n: int) -> list[str]:
    return ["answer"] if n == 1 else [f"answer{i + 1}" for i in range(n)]


def _seconds(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"'lead_time' must be seconds, got {cell[:40]!r}") from None
