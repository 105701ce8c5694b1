"""A store that the release before made (schema 0003) goes on with all it holds. On SQLite and on PostgreSQL alike.

The rows and the expected exports are what that release (87a1222) wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.store.browsing import ItemFilter, matching_ids
from rlhf_envs.feedback.store.training import pool_size

DAY = "2026-01-01 00:{}+00:00"
HI = 'Say \ud800 "hi"\n'
ITEMS: list[tuple[Any, ...]] = [  # kind, prompt, completions, meta, overlap, needed, gold, priority
    ("pairwise", HI, ["first\0", "zweiter"], {"n": 1}, 2, 1, None, 0.0),
    ("ranking", "rank", ["r0", "r1", "r2"], {}, 2, 0, None, 0.0),
    ("rating", "rate", ["c"], {}, 2, 0, None, 2.0),
    ("thumbs", "thumb", ["c"], {}, 2, 1, None, 0.0),
    ("correction", "correct", ["teh"], {}, 1, 0, None, 0.0),
    ("flags", "flag", ["c"], {}, 1, 0, None, 0.0),
    ("pairwise", "gold", ["good", "bad"], {"explanation": "because"}, 1, 0, {"choice": 0}, 0.0),
    ("rating", "withdrawn", ["c"], {}, 1, 0, None, 0.0),
]
JUDGEMENTS: list[tuple[Any, ...]] = [  # item, annotator, value, comment, sides, undone
    (3, "ann", {"rating": 7}, "", [0], False),
    (1, "ann", {"choice": 1, "strength": 2}, "so \ud800", [0, 1], False),
    (2, "ann", {"order": [2, 0, 1]}, "", [2, 1, 0], False),
    (4, "ann", {"up": True}, "", [0], False),
    (5, "ann", {"text": "the"}, "", [0], False),
    (6, "ann", {"harms": ["spam"]}, "", [0], False),
    (7, "ann", {"choice": 0, "strength": 1}, "", [0, 1], False),
    (8, "ann", {"rating": 2}, "", [0], False),
    (3, "bob", {"rating": 1}, "", [0], True),
    (3, "bob", {"rating": 5}, "", [0], False),
    (1, "bob", None, "", [1, 0], False),
    (2, "bob", {"order": [0, 1, 2]}, "", [0, 2, 1], False),
    (4, "bob", {"up": False}, "", [0], True),
]
HELD = len(JUDGEMENTS) + 1  # bob's open task, of item 4
SETTINGS = {"guidelines": "Be fair.\ud800", "harms": ["hate", "spam"], "scale": [1, 7]}
PEOPLE = {"ann": ("admin", True), "bob": ("annotator", True), "cid": ("annotator", False)}

EXPORTS: dict[str, list[tuple[Any, ...]]] = {
    "preference": [
        (HI, "zweiter", "first\0", "ann"),
        ("rank", "r2", "r0", "ann"),
        ("rank", "r0", "r2", "bob"),
        ("rank", "r2", "r1", "ann"),
        ("rank", "r1", "r2", "bob"),
        ("rank", "r0", "r1", "ann"),
        ("rank", "r0", "r1", "bob"),
        ("correct", "the", "teh", "ann"),
    ],
    "kto": [
        ("rate", "c", True, "ann"),
        (HI, "zweiter", True, "ann"),
        (HI, "first\0", False, "ann"),
        ("rank", "r2", True, "ann"),
        ("rank", "r1", False, "ann"),
        ("thumb", "c", True, "ann"),
        ("correct", "the", True, "ann"),
        ("correct", "teh", False, "ann"),
        ("flag", "c", False, "ann"),
        ("withdrawn", "c", False, "ann"),
        ("rate", "c", True, "bob"),
        ("rank", "r0", True, "bob"),
        ("rank", "r2", False, "bob"),
    ],
    "ratings": [("rate", "c", 7.0, "ann"), ("rate", "c", 5.0, "bob"), ("withdrawn", "c", 2.0, "ann")],
    "sft": [("thumb", "c"), ("correct", "the")],
}
DROPPED = {
    "preference": {"rating: nothing compared": 3, "thumbs: nothing compared": 1, "flags: nothing compared": 1},
    "kto": {},
    "ratings": {
        "pairwise: no rating": 1,
        "ranking: no rating": 2,
        "thumbs: no rating": 1,
        "correction: no rating": 1,
        "flags: no rating": 1,
    },
    "sft": {
        "rating: no text to imitate": 3,
        "pairwise: no text to imitate": 1,
        "ranking: no text to imitate": 2,
        "flags: no text to imitate": 1,
    },
}


def fill(connection: sa.Connection) -> None:
    """Write the rows as the former release did: texts of people and models as JSON."""

    def insert(table: str, **values: object) -> None:
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({places})"), values)

    for name, (role, active) in PEOPLE.items():
        account = {"name": name, "role": role, "active": active, "password_hash": f"hash of {name}"}
        insert("annotators", **account, created=DAY.format("00:02"))
    for kind, prompt, completions, meta, overlap, needed, gold, priority in ITEMS:
        counts = {"overlap": overlap, "needed": needed, "priority": priority, "created": DAY.format("00:10")}
        texts = {"prompt": prompt, "completions": completions, "source": "a", "policy": "", "meta": meta, "gold": gold}
        stored = {name: None if text is None else json.dumps(text) for name, text in texts.items()}
        insert("items", kind=kind, **stored, **counts)
    people = list(PEOPLE)
    for n, (item, name, value, comment, sides, undone) in enumerate(JUDGEMENTS, start=1):
        of = {"item_id": item, "annotator_id": people.index(name) + 1}
        insert("tasks", **of, sides=json.dumps(sides), expires=DAY.format(f"10:{n:02}"), state="done")
        given = {"value": None if value is None else json.dumps(value), "comment": json.dumps(comment), "seconds": 2.5}
        made = {"key": f"{name}-{n}", "created": DAY.format(f"01:{n:02}"), "undone": undone}
        insert("judgements", task_id=n, **of, **given, **made)
    insert("tasks", item_id=4, annotator_id=2, sides="[0]", expires=DAY.format("11:21"), state="open")
    for name, value in SETTINGS.items():
        insert("settings", name=name, value=json.dumps(value))
    token = {"token_hash": hashlib.sha256(b"token").hexdigest()}
    insert("sessions", **token, annotator_id=2, expires="2026-01-15 00:01:22+00:00")
    insert("invitations", **token, role="annotator", expires="2026-01-08 00:00:07+00:00")


@pytest.fixture
def store(new_store_url: str, clock: Any, database_of_revision: Callable[[str], sa.Engine]) -> Iterator[FeedbackStore]:
    engine = database_of_revision("0003")
    with engine.begin() as connection:
        fill(connection)
    engine.dispose()
    with FeedbackStore(new_store_url, clock=clock, seed=0) as opened:
        yield opened


@pytest.mark.parametrize("format", EXPORTS)
def test_a_former_store_exports_what_it_exported(store: FeedbackStore, tmp_path: Path, format: str) -> None:
    done = export_file(store, tmp_path / "rows.jsonl", format)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [tuple(row.values()) for row in rows] == EXPORTS[format]
    assert done.dropped == {"gold question": 1, "skip": 1, "undone": 2} | DROPPED[format]


def test_a_former_store_moves_with_every_field_it_had(store: FeedbackStore, tmp_path: Path) -> None:
    export_file(store, tmp_path / "all.jsonl", "items")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    names = ("kind", "prompt", "completions", "meta", "overlap", "gold", "priority", "source", "policy")
    expected = [(*item[:5], *item[6:], "a", "") for item in ITEMS]
    assert [tuple(row[name] for name in names) for row in rows] == expected
    assert {row["created"] for row in rows} == {"2026-01-01T00:00:10+00:00"}
    given = {j["key"]: {"item": row["id"], **j} for row in rows for j in row["judgements"]}
    stands = {f"{row[1]}-{n}": (n, row) for n, row in enumerate(JUDGEMENTS, start=1) if not row[5]}
    assert given.keys() == stands.keys()
    for key, (n, (item, name, value, comment, sides, _)) in stands.items():
        found = {of: given[key][of] for of in ("item", "annotator", "value", "comment", "sides", "seconds", "created")}
        wanted = {"item": item, "annotator": name, "value": value, "comment": comment, "sides": sides, "seconds": 2.5}
        assert found == {**wanted, "created": f"2026-01-01T00:01:{n:02}+00:00"}
    kept = rows[0]["store_settings"]
    assert {name: kept[name] for name in SETTINGS} == SETTINGS


def test_the_people_of_a_former_store_go_on(store: FeedbackStore) -> None:
    signed_in = store.session_annotator("token")
    assert signed_in is not None
    assert signed_in.name == "bob"
    assert {one.name: (one.role, one.active) for one in store.annotators()} == PEOPLE
    assert store.password_hash("ann") == "hash of ann"
    held = store.claim("bob")  # as long as the lease of then lives
    assert held is not None
    assert (held.id, held.item.id, held.sides) == (HELD, 4, (0,))
    store.submit(held.id, "bob", {"up": True}, key="now")
    assert store.claim("bob") is None  # of the pair he skipped the place is left, for another
    store.register("token", "dee", "hash of dee")
    task = store.claim("dee")
    assert task is not None
    assert task.item.id == 1
    store.submit(task.id, "dee", {"choice": 0, "strength": 1}, key="dee")
    assert store.claim("dee") is None
    progress = store.progress()
    assert (progress.items, progress.finished, progress.judgements, progress.skips) == (8, 8, 12, 1)
    assert (store.count_undone(), store.count_dropped()) == (2, 0)
    again = store.undo("bob")  # the answer of today, and then those of before
    assert again is not None
    again = store.undo("bob")
    assert again is not None
    assert (again.item.id, again.sides) == (2, (0, 2, 1))


def test_what_is_new_knows_what_a_former_store_holds(store: FeedbackStore) -> None:
    wanted: list[tuple[dict[str, Any], list[int]]] = [
        ({"text": "ZWEITER"}, [1]),
        ({"text": "so"}, [1]),  # a comment
        ({"differing": True}, [2, 3]),
        ({"skipped": True}, [1]),
        ({"gold": True}, [7]),
        ({"state": "open"}, [1, 4]),
        ({"state": "finished"}, [2, 3, 5, 6, 7, 8]),
    ]
    for filter, ids in wanted:
        assert sorted(matching_ids(store, ItemFilter(**filter))) == ids, filter
    store.update_settings(training={"n_items": 1})
    assert pool_size(store) == 1
    assert {number: asked.scale for number, asked in store.versions().items()} == {1: (1, 7)}
    assert {judgement.version for judgement in store.judgements()} == {1}
    [item] = store.items([1])
    assert (item.max_overlap, item.overlap) == (None, 2)
