"""Pack everything that a project has into one zip, without secrets."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from ...formats.exporting import item_rows
from ...formats.table_rows import by_item
from ...settings_file import as_plain
from ...store.browsing import JudgementFilter, browse_judgements
from ...store.schema import items
from ...store.store import FeedbackStore

__all__ = ["write_archive"]

_README = """Everything of a feedback project of rlhf-envs, as JSON lines and JSON.

items.jsonl          the items by their ids, with the judgements that stand: `rlhf feedback import` reads it
judgements.jsonl     every judgement, also those taken back or dropped ("state"), but for people who withdrew
final_answers.jsonl  the final answers to disputed items
audit.jsonl          who changed what, when and why
annotators.jsonl     names, roles, and whether the account is on; no passwords, no sessions
settings.json        the settings, without the secret of the webhook
"""
_PAGE = 1000


def write_archive(store: FeedbackStore, target: Path | IO[bytes]) -> dict[str, int]:
    """Write the zip. Return the number of rows in each file of it.

    Files are read one after the other. What comes in meanwhile may be in a later file and not in an earlier one.

    Args:
        store: what is packed.
        target: a path, or a file that is open for writing.
    """
    parts: dict[str, Iterable[dict[str, Any]]] = {
        "items.jsonl": _items(store),
        "judgements.jsonl": _judgements(store),
        "final_answers.jsonl": (asdict(final) for final in store.adjudications().values()),
        "audit.jsonl": (asdict(entry) for entry in reversed(store.audit())),
        "annotators.jsonl": (asdict(person) for person in store.annotators()),
    }
    written = {}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.writestr("README.txt", _README)
        for name, rows in parts.items():
            written[name] = 0
            with archive.open(name, "w", force_zip64=True) as file:
                for row in rows:
                    file.write(json.dumps(row, default=datetime.isoformat).encode() + b"\n")
                    written[name] += 1
        plain = as_plain(store.settings)
        plain["webhooks"] = {**plain["webhooks"], "secret": ""}
        archive.writestr("settings.json", json.dumps(plain, indent=2))
    return written


def _items(store: FeedbackStore) -> Iterator[dict[str, Any]]:
    with store._database.read() as connection:
        ids = list(connection.execute(sa.select(items.c.id).order_by(items.c.id)).scalars())
    settings, versions, withdrawn = store.settings, store.versions(), store.withdrawn_items()
    finals, suggested = store.adjudications(), by_item(store.suggestions())
    for start in range(0, len(ids), _PAGE):
        part = ids[start : start + _PAGE]
        given = store.judgements(item_ids=part, include_skips=True)
        first = settings if start == 0 else None
        beside = finals, [suggestion for item_id in part for suggestion in suggested.get(item_id, ())]
        yield from item_rows(store.items(part), given, first, store.picture, versions, withdrawn, *beside).rows


def _judgements(store: FeedbackStore) -> Iterator[dict[str, Any]]:
    key = None
    pages = []
    while True:  # the pages begin with the newest
        page = browse_judgements(store, JudgementFilter(), after=key, limit=_PAGE)
        pages.append([{**asdict(row.judgement), "state": row.state} for row in page.rows if not row.withdrawn])
        key = page.after
        if key is None:
            break
    for rows in reversed(pages):
        yield from reversed(rows)
