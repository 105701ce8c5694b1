"""Write items in our own format: one row per item, with everything that a store holds of it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..records import Adjudication, AuditEntry, Item, Judgement, Suggestion
from ..settings import ASKED_SETTINGS, MOVING_SETTINGS, Settings
from ..settings_file import as_plain
from .table_rows import by_item
from .trainer_rows import Export

__all__ = ["add_fixes", "item_rows"]

Row = dict[str, Any]


def item_rows(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    settings: Settings | None = None,
    picture: Callable[[str], tuple[str, bytes] | None] | None = None,
    versions: Mapping[int, Settings] | None = None,
    withdrawn: Mapping[int, int] | None = None,
    finals: Mapping[int, Adjudication] | None = None,
    suggestions: Iterable[Suggestion] = (),
) -> Export:
    """Return one row per item with everything in it, also its judgements and skips. `import_file` restores it.

    The first row also has "store_settings": what in `settings` gives the answers their meaning (`MOVING_SETTINGS`), and
    `versions` of what was asked, by the numbers that the judgements have. With `picture`, such as
    `FeedbackStore.picture`, a row has its pictures as data URLs. Items that are asked no more, as
    `FeedbackStore.withdrawn_items` gives them, have "withdrawn" and the overlap that they had. A final answer is the
    column "final", and what programs suggest is "suggestions".
    """
    given, suggested = by_item(judgements), by_item(suggestions)
    fields = ("annotator", "value", "seconds", "comment", "sides", "key", "answers", "version")
    rows = []
    for item in items:
        row: Row = {name: getattr(item, name) for name in Item.__dataclass_fields__ if name != "created"}
        row |= {"completions": list(item.completions), "created": item.created.isoformat()}
        had = (withdrawn or {}).get(item.id)
        if had is not None or item.overlap < 1:
            row |= {"overlap": max(1, item.overlap if had is None else had), "withdrawn": True}
        row["judgements"] = [
            {
                **{name: getattr(judgement, name) for name in fields},
                "created": judgement.created.isoformat(),
                **({"explained": judgement.explained} if judgement.explained else {}),
            }
            for judgement in given[item.id]
        ]
        if (final := (finals or {}).get(item.id)) is not None:
            row["final"] = {**asdict(final), "created": final.created.isoformat()}
        if item.id in suggested:
            row["suggestions"] = [_suggestion(suggestion) for suggestion in suggested[item.id]]
        if picture is not None and item.meta.get("images"):
            row |= _pictures(item, picture)
        rows.append(row)
    if rows and settings is not None:
        rows[0]["store_settings"] = {name: as_plain(getattr(settings, name)) for name in MOVING_SETTINGS}
        if versions is not None:
            asked = {str(number): _asked(version) for number, version in versions.items()}
            rows[0]["store_settings"]["versions"] = asked
    return Export(rows)


def _suggestion(suggestion: Suggestion) -> Row:
    plain = {name: getattr(suggestion, name) for name in ("source", "version", "value")}
    return {**plain, "created": suggestion.created.isoformat()}


def _pictures(item: Item, picture: Callable[[str], tuple[str, bytes] | None]) -> Row:
    """Return the column "images" of an item, and its meta without those that stand there."""
    embedded, left = [], []
    for entry in item.meta["images"]:
        found = picture(entry["id"])
        if found is None:
            left.append(entry)
            continue
        kept = {name: entry[name] for name in ("name", "alt", "message") if name in entry}
        embedded.append({"data": f"data:{found[0]};base64,{base64.b64encode(found[1]).decode()}", **kept})
    meta = {name: value for name, value in item.meta.items() if name != "images"}
    return {"meta": {**meta, "images": left} if left else meta, "images": embedded}


def _asked(settings: Settings) -> Row:
    return {name: as_plain(getattr(settings, name)) for name in ASKED_SETTINGS}


def add_fixes(rows: Sequence[Row], judgements: Sequence[Judgement], fixes: Iterable[AuditEntry]) -> None:
    """Add to the judgements in rows of items what admins have changed, the oldest change first."""
    keys = {judgement.id: judgement.key for judgement in judgements}
    given = {judgement["key"]: judgement for row in rows for judgement in row["judgements"]}
    for entry in sorted(fixes, key=lambda entry: entry.id):
        if (fixed := given.get(keys.get(entry.judgement_id or 0, ""))) is not None:
            change = {"by": entry.actor, "created": entry.created.isoformat(), "before": entry.before}
            fixed.setdefault("fixed", []).append({**change, "reason": entry.reason})
