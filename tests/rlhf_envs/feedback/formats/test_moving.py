"""A whole project moves to another store: by an export, by the zip of everything, and by an upload's preview first."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.formats.rehearsing import try_import
from rlhf_envs.feedback.store.withdrawing import withdraw_person
from rlhf_envs.feedback.web.admin.archive import write_archive

from .test_pictures import image, url

QUESTION = {"name": "helpful", "type": "rating", "scale": [1, 5], "text": "How helpful?", "required": True}


@pytest.fixture
def everything(store: FeedbackStore, tmp_path: Path) -> FeedbackStore:
    """A store with a picture, two versions of what is asked, and an overlap that adapts.

    It has withdrawn items, final answers and suggestions too.
    """
    (tmp_path / "pictures.jsonl").write_text(
        json.dumps({"prompt": "seen", "completion": "c", "kind": "flags", "images": [{"data": url(image())}]}) + "\n"
    )
    import_file(store, tmp_path / "pictures.jsonl")
    ids = store.add_items(
        [
            NewItem("flags", "adapts", ("c",), overlap=2, max_overlap=3),
            NewItem("flags", "withdrawn", ("c",), overlap=2),
            NewItem("flags", "withdrawn unseen", ("c",), overlap=3),
        ]
    )
    for name in ("ann", "bob", "root"):
        store.add_annotator(name)
    for name, harms in (("ann", ("hate", "privacy")), ("bob", ("violence",))):
        store.update_settings(harms=harms, questions=[QUESTION] if name == "bob" else [])
        for number in range(3):
            task = store.claim(name)
            assert task is not None
            answers: dict[str, Any] = {"helpful": 4} if name == "bob" else {}
            value = {"harms": [harms[0]]}
            store.submit(task.id, name, value, key=f"{name}-{number}", answers=answers)
        if name == "ann":  # under harms that the store asks no more afterwards
            store.adjudicate(ids[0], {"harms": ["hate"]}, by="root", comment="both\ud800\0 are wrong")
            store.adjudicate(ids[1], {"harms": []}, by="ann")
            for version in ("1", "2"):
                store.suggest({ids[0]: {"harms": ["privacy"]}, ids[2]: {"harms": []}}, source="judge", version=version)
    store.withdraw(ids[1:])
    return store


def rows_of(store: FeedbackStore, path: Path) -> list[dict[str, Any]]:
    export_file(store, path, "items")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("by_zip", [False, True])
def test_a_project_comes_back_whole(everything: FeedbackStore, tmp_path: Path, by_zip: bool) -> None:
    before = rows_of(everything, tmp_path / "items.jsonl")
    if by_zip:
        write_archive(everything, tmp_path / "all.zip")
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            archive.extract("items.jsonl", tmp_path)
    with FeedbackStore(tmp_path / "copy.db") as copy:
        copy.update_settings(next_item="age")  # as the other store; it does not move with the items
        trial = try_import(copy, tmp_path / "items.jsonl").report
        assert copy.items() == []
        done = import_file(copy, tmp_path / "items.jsonl")
        assert (done.bad, trial.bad) == ((), ())
        assert (trial.items, trial.judgements) == (done.items, done.judgements) == (4, 6)
        assert rows_of(copy, tmp_path / "again.jsonl") == before
        assert (done.finals, done.suggestions) == (trial.finals, trial.suggestions) == (2, 4)
        assert copy.adjudications() == everything.adjudications()
        assert copy.suggestions() == everything.suggestions()
        assert [row.get("withdrawn") for row in before] == [None, None, True, True]
        assert copy.versions() == everything.versions()
        assert copy.labels_left() == everything.labels_left()
        picture = copy.items()[0].meta["images"][0]["id"]
        assert copy.picture(picture) == everything.picture(picture) is not None


def test_the_same_file_again_adds_nothing_and_what_is_new_in_it_is_taken(
    everything: FeedbackStore, tmp_path: Path
) -> None:
    rows = rows_of(everything, tmp_path / "items.jsonl")
    again = import_file(everything, tmp_path / "items.jsonl")
    assert (again.items, again.judgements, again.finals, again.suggestions) == (0, 0, 0, 0)
    assert all(row.reason.startswith("duplicate") for row in again.bad)
    for row in rows:
        row["judgements"] = []
    rows[0]["final"] = {"value": {"harms": ["hate"]}, "by": "new"}
    rows[1]["final"]["value"] = {"harms": []}
    rows[1]["suggestions"][0]["value"] = {"harms": []}
    rows[1]["suggestions"].append({"source": "judge", "version": "3", "value": {"harms": []}})
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = import_file(everything, tmp_path / "more.jsonl")
    assert (more.items, more.judgements, more.finals, more.suggestions) == (0, 0, 1, 1)
    assert everything.adjudications()[1].by == "new"
    assert everything.adjudications()[2].value == {"harms": ["hate"]}
    assert [(s.version, s.value["harms"]) for s in everything.suggestions(2)] == [
        ("1", ["privacy"]),
        ("2", ["privacy"]),
        ("3", []),
    ]
    assert sorted(row.reason for row in more.bad if row.where.endswith(":2")) == [
        "contradiction: 'judge', version '1', suggests {'harms': ['privacy']} already",
        "contradiction: the item has the final answer {'harms': ['hate']} already",
    ]


def test_answers_to_a_pair_that_is_stored_the_other_way_round_are_turned(store: FeedbackStore, tmp_path: Path) -> None:
    (item,) = store.add_items([NewItem("pairwise", "p", ("b", "a"))])
    row = {
        "prompt": "p",
        "completions": ["a", "b"],
        "final": {"value": {"choice": 0, "strength": 2}, "by": "root"},
        "suggestions": [{"source": "judge", "value": {"choice": 1}}],
    }
    (tmp_path / "pair.jsonl").write_text(json.dumps(row) + "\n")
    assert import_file(store, tmp_path / "pair.jsonl").bad == ()
    assert store.adjudications()[item].value == {"choice": 1, "strength": 2}
    assert store.suggestions()[0].value["choice"] == 0


def test_no_final_answer_of_who_withdrew_comes_back(everything: FeedbackStore, tmp_path: Path) -> None:
    rows_of(everything, tmp_path / "items.jsonl")
    withdraw_person(everything, "ann")
    assert set(everything.adjudications()) == {2}
    done = import_file(everything, tmp_path / "items.jsonl")
    assert "withdrawn: 'ann' has taken the final answer back" in [row.reason for row in done.bad]
    assert set(everything.adjudications()) == {2}


def test_what_comes_back_is_told_to_no_webhook(everything: FeedbackStore, tmp_path: Path) -> None:
    rows_of(everything, tmp_path / "items.jsonl")
    with FeedbackStore(tmp_path / "copy.db") as copy:
        copy.update_settings(webhooks={"url": "https://here/hook", "secret": "whsec_" + "a2s" * 16})
        assert import_file(copy, tmp_path / "items.jsonl").bad == ()
        assert copy.withdrawn_items() == everything.withdrawn_items() != {}
        assert copy.deliveries() == []


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("final", [], "'final' must be an object with 'value' and 'by'"),
        ("final", {"value": {"rating": 1}}, "'final' must be an object with 'value' and 'by'"),
        ("final", {"value": None, "by": "root"}, "'final' must be an object"),
        ("final", {"value": {"rating": 9}, "by": "root"}, "final: {'rating': 9} is not an answer of kind 'rating'"),
        ("suggestions", {}, "'suggestions' must be a list"),
        ("suggestions", [{"source": "s", "value": None}], "'value' of a suggestion must be an answer"),
        ("suggestions", [{"value": {"rating": 1}}], "a suggestion needs a 'source' of 1 to 200"),
        ("suggestions", [{"source": "s", "value": {"up": True}}], "suggestions: "),
        ("suggestions", [{"source": "s", "value": {"rating": 1}}] * 2, "two suggestions by 's'"),
    ],
)
def test_final_answers_and_suggestions_that_are_none_are_named(
    store: FeedbackStore, tmp_path: Path, column: str, value: Any, said: str
) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "p", "completion": "c", column: value}) + "\n")
    [bad] = import_file(store, tmp_path / "bad.jsonl").bad
    assert said in bad.reason
    assert store.items() == []


def test_an_item_that_an_older_version_withdrew_stays_so(store: FeedbackStore, tmp_path: Path) -> None:
    row = {"id": 7, "kind": "rating", "prompt": "p", "completions": ["c"], "overlap": 0, "judgements": []}
    (tmp_path / "old.jsonl").write_text(json.dumps(row) + "\n")
    assert import_file(store, tmp_path / "old.jsonl").bad == ()
    assert store.withdrawn_items() == {1: 1}
    assert store.labels_left() == 0


@pytest.mark.parametrize(("column", "value"), [("withdrawn", "yes"), ("max_overlap", "3")])
def test_what_is_none_is_named(store: FeedbackStore, tmp_path: Path, column: str, value: str) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "p", "completion": "c", column: value}) + "\n")
    [bad] = import_file(store, tmp_path / "bad.jsonl").bad
    assert f"{column!r} must be" in bad.reason
