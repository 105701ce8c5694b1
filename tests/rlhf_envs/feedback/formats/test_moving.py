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
from rlhf_envs.feedback.web.admin.archive import write_archive

from .test_pictures import image, url

QUESTION = {"name": "helpful", "type": "rating", "scale": [1, 5], "text": "How helpful?", "required": True}


@pytest.fixture
def everything(store: FeedbackStore, tmp_path: Path) -> FeedbackStore:
    """A store with a picture, two versions of what is asked, an overlap that adapts, and withdrawn items."""
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
    for name in ("ann", "bob"):
        store.add_annotator(name)
    for name, harms in (("ann", ("hate", "privacy")), ("bob", ("violence",))):
        store.update_settings(harms=harms, questions=[QUESTION] if name == "bob" else [])
        for number in range(3):
            task = store.claim(name)
            assert task is not None
            answers: dict[str, Any] = {"helpful": 4} if name == "bob" else {}
            value = {"harms": [harms[0]]}
            store.submit(task.id, name, value, key=f"{name}-{number}", answers=answers)
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
        trial = try_import(copy, tmp_path / "items.jsonl").report
        assert copy.items() == []
        done = import_file(copy, tmp_path / "items.jsonl")
        assert (done.bad, trial.bad) == ((), ())
        assert (trial.items, trial.judgements) == (done.items, done.judgements) == (4, 6)
        assert rows_of(copy, tmp_path / "again.jsonl") == before
        assert [row.get("withdrawn") for row in before] == [None, None, None, True]
        assert copy.versions() == everything.versions()
        assert copy.labels_left() == everything.labels_left()
        picture = copy.items()[0].meta["images"][0]["id"]
        assert copy.picture(picture) == everything.picture(picture) is not None


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
