"""Write items as Potato's data file, and read its annotations, which name the items by their ids.

Potato (https://potato-annotation.readthedocs.io) reads JSON lines with an id and a text. Ours are `{"id", "text",
"completions", "kind"}`: for a pair the text is the prompt, and its pairwise scheme shows `completions` (`items_key`);
for a single completion the text is both. `python -m potato.export --format jsonl` writes `{"instance_id", "user_id",
"labels": {scheme: {label: value}}}` without texts. So annotations can be imported into the store alone that wrote the
data file. An id has a hash of the item's texts, and an item of another store is refused.

The annotation schemes have the names of `SCHEMES`: preference is pairwise (A, B, tie), rating a likert, thumbs a radio
with up and down, correction a text, harms a multiselect, in which the label none stands for no harm, and comment a
text. Rankings are not written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..records import Item
from .csv_cells import whole

__all__ = ["SCHEMES", "by_potato_id", "potato_row", "read_potato_row"]

SCHEMES = {
    "pairwise": "preference",
    "rating": "rating",
    "thumbs": "thumbs",
    "correction": "correction",
    "flags": "harms",
}  # by kind: the name of the annotation scheme that asks it
_CHOICES = {"A": 0, "B": 1, "tie": None}
_NO_HARM = "none"


def potato_row(item: Item) -> dict[str, Any]:
    """Return an item as a line of Potato's data file."""
    text = item.prompt if len(item.completions) > 1 else f"{item.prompt}\n\n{item.completions[0]}"
    return {"id": _potato_id(item), "text": text, "completions": list(item.completions), "kind": item.kind}


def by_potato_id(items: Iterable[Item]) -> dict[str, Item]:
    """Return the items by the ids that `potato_row` gives them."""
    return {_potato_id(item): item for item in items}


def read_potato_row(
    row: Mapping[str, Any], items: Mapping[str, Item], harms: Collection[str]
) -> tuple[Item, str, dict[str, Any], str]:
    """Return (item, annotator, value, comment) of an annotation.

    Args:
        row: a line of Potato's export.
        items: the store's items by their ids in Potato.
        harms: the harms of the store. If "none" is not among them, it stands for no harm.

    Raises:
        ValueError: the store has no such item, or its question has no answer. The message names the column.
    """
    name, labels = str(row.get("instance_id")), row.get("labels")
    if (item := items.get(name)) is None:
        raise ValueError(
            f"'instance_id' is {name[:40]!r}, which is no item of this store: Potato's annotations have no texts, so "
            "import them into the store that wrote the data file (rlhf feedback export data.jsonl --format potato)"
        )
    if not isinstance(labels, dict) or not all(isinstance(given, dict) for given in labels.values()):
        raise ValueError(f"'labels' must map schemes to labels, got {str(labels)[:60]!r}")
    scheme = SCHEMES[item.kind]
    given = labels.get(scheme)
    if not given:
        raise ValueError(
            f"no answer to {scheme!r} in 'labels' (there are: {', '.join(map(str, labels)) or 'none'}): give the "
            f"annotation scheme of a {item.kind} the name {scheme!r}"
        )
    value = _value(item.kind, scheme, given, harms)
    comment = str((labels.get("comment") or {}).get("text_box") or "")
    return item, str(row.get("user_id") or ""), value, comment


def _value(kind: str, scheme: str, given: Mapping[str, Any], harms: Collection[str]) -> dict[str, Any]:
    """Return the answer of an annotation scheme."""
    if kind == "correction":
        return {"text": given.get("text_box")}
    if kind == "flags":
        found = list(given)
        return {"harms": [] if found == [_NO_HARM] and _NO_HARM not in harms else found}
    answers = list(given.values()) if kind == "pairwise" else list(given)
    if len(answers) != 1:
        raise ValueError(f"one answer to {scheme!r} is expected, got {', '.join(map(str, answers))}")
    answer = answers[0]
    if kind == "rating":
        return {"rating": whole(answer, scheme)}
    if kind == "pairwise" and answer in _CHOICES:
        return {"choice": _CHOICES[answer]}
    if kind == "thumbs" and answer in ("up", "down"):
        return {"up": answer == "up"}
    raise ValueError(
        f"{scheme!r} is {str(answer)[:40]!r} where {'A, B or tie' if kind == 'pairwise' else 'up or down'} is expected"
    )


def _potato_id(item: Item) -> str:
    """Return the store's id of an item with a hash of what is asked, so that an item of another store is none."""
    asked = json.dumps([item.kind, item.prompt, item.completions])
    return f"{item.id}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
