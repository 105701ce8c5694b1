"""Potato 2.12.1: our data file, and annotations as its export to JSON lines writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file

# What was answered in its page, and what it means.
ANSWERS: list[tuple[str, tuple[str, ...], dict[str, Any], dict[str, Any]]] = [
    ("pairwise", ("a", "b"), {"preference": {"selection": "B"}}, {"choice": 1, "strength": 1}),
    ("pairwise", ("c", "d"), {"preference": {"selection": "tie"}}, {"choice": None, "strength": 0}),
    ("rating", ("a",), {"rating": {"4": "4"}}, {"rating": 4}),
    ("thumbs", ("a",), {"thumbs": {"down": "down"}}, {"up": False}),
    ("correction", ("a",), {"correction": {"text_box": 'b "c"'}}, {"text": 'b "c"'}),
    ("flags", ("a",), {"harms": {"hate": "hate", "violence": "violence"}}, {"harms": ["hate", "violence"]}),
    ("flags", ("b",), {"harms": {"none": "none"}}, {"harms": []}),
]


def annotated(path: Path, data: Path, labels: list[dict[str, Any]]) -> Path:
    """Write the annotations of the items in a data file, as `python -m potato.export --format jsonl` does."""
    ids = [json.loads(line)["id"] for line in data.read_text().splitlines()]
    rows = [
        {"instance_id": id, "user_id": "ada", "labels": {**given, "comment": {"text_box": "why"}}, "spans": {}}
        for id, given in zip(ids, labels, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_annotations_come_back_by_the_ids_of_the_data_file(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_items([NewItem(kind, "p\u2028q", completions) for kind, completions, _, _ in ANSWERS])
    export = export_file(store, tmp_path / "data.jsonl", "potato")
    assert export.dropped == {}
    assert [row["text"] for row in export.rows[1:3]] == ["p\u2028q", "p\u2028q\n\na"]
    assert len((tmp_path / "data.jsonl").read_text().splitlines()) == len(ANSWERS), "Potato cuts lines so too"
    done = import_file(store, annotated(tmp_path / "back.jsonl", tmp_path / "data.jsonl", [a[2] for a in ANSWERS]))
    assert (done.format, done.bad, done.items, done.judgements) == ("potato", (), 0, len(ANSWERS))
    given = {j.item_id: (j.annotator, j.value, j.comment) for j in store.judgements()}
    assert list(given.values()) == [("ada", value, "why") for _, _, _, value in ANSWERS]


def test_none_is_a_harm_where_the_project_has_one_of_that_name(store: FeedbackStore, tmp_path: Path) -> None:
    store.update_settings(harms=["hate", "none"])
    store.add_items([NewItem("flags", "p", ("a",))])
    export_file(store, tmp_path / "data.jsonl", "potato")
    back = annotated(tmp_path / "back.jsonl", tmp_path / "data.jsonl", [{"harms": {"none": "none"}}])
    assert import_file(store, back).bad == ()
    assert [judgement.value for judgement in store.judgements()] == [{"harms": ["none"]}]


def test_an_item_of_another_store_is_set_aside(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_items([NewItem("pairwise", "p", ("a", "b"))])
    export_file(store, tmp_path / "data.jsonl", "potato")
    back = annotated(tmp_path / "back.jsonl", tmp_path / "data.jsonl", [ANSWERS[0][2]])
    with FeedbackStore(tmp_path / "other.db") as other:
        other.add_items([NewItem("pairwise", "another", ("a", "b"))])  # with the same id in its store
        done = import_file(other, back)
        assert done.judgements == 0
        assert "no item of this store: Potato's annotations have no texts" in done.bad[0].reason


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"best": {"selection": "A"}}, "no answer to 'preference' in 'labels' .*best"),
        ({"preference": {}}, "no answer to 'preference'"),
        ({"preference": {"selection": "C"}}, "'preference' is 'C' where A, B or tie is expected"),
        ({"preference": {"a": "A", "b": "B"}}, "one answer to 'preference' is expected, got A, B"),
        ({"preference": "A"}, "'labels' must map schemes to labels"),
    ],
)
def test_what_is_no_answer_is_set_aside(
    store: FeedbackStore, tmp_path: Path, labels: dict[str, Any], reason: str
) -> None:
    store.add_items([NewItem("pairwise", "p", ("a", "b"))])
    export_file(store, tmp_path / "data.jsonl", "potato")
    row = {"instance_id": json.loads((tmp_path / "data.jsonl").read_text())["id"], "user_id": "ada", "labels": labels}
    (tmp_path / "back.jsonl").write_text(json.dumps(row))
    (bad,) = import_file(store, tmp_path / "back.jsonl").bad
    assert re.search(reason, bad.reason)


def test_what_potato_is_not_given_is_counted(store: FeedbackStore, tmp_path: Path) -> None:
    gold = {"choice": 0}
    store.add_items(
        [
            NewItem("ranking", "p", ("a", "b", "c")),
            NewItem("pairwise", "p", ("a", "b")),
            NewItem("pairwise", "q", ("a", "b"), gold=gold),
        ]
    )
    work(store, "ada", lambda task: Response({"choice": 0} if task.item.kind == "pairwise" else {"order": [0, 1, 2]}))
    export = export_file(store, tmp_path / "data.jsonl", "potato")
    assert len(export.rows) == 1
    assert export.dropped == {
        "gold question (item)": 1,
        "judgement: Potato is given questions only": 3,
        "ranking: no form for Potato (item)": 1,
    }
