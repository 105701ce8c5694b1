from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, LeaseLost, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.formats.importing import Import, import_file


def jsonl(tmp_path: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def reasons(done: Import) -> list[tuple[str, str]]:
    return [(row.where.rpartition("/")[2], row.reason) for row in done.bad]


def test_the_same_file_again_adds_nothing(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(4)]
    path = jsonl(tmp_path, *rows, {"prompt": "?", "chosen": "a", "rejected": "b"})
    assert import_file(store, path).judgements == 5
    again = import_file(store, path, quarantine=tmp_path / "elsewhere.jsonl")
    assert (again.items, again.judgements, len(again.bad)) == (0, 0, 5)
    assert all(row.reason.startswith("duplicate") for row in again.bad)
    assert again.quarantine == tmp_path / "elsewhere.jsonl"


def test_disagreeing_annotators_judge_one_item_whichever_way_round_it_stands(
    store: FeedbackStore, tmp_path: Path
) -> None:
    (item_id,) = store.add_items([NewItem("pairwise", "p", ("z", "a"), overlap=3)])
    work(store, "live", lambda task: Response({"choice": 0, "strength": 2}))
    path = jsonl(
        tmp_path,
        {"prompt": "p", "chosen": "z", "rejected": "a", "annotator": "ada"},
        {"prompt": "p", "chosen": "a", "rejected": "z", "annotator": "bob"},
        {"prompt": "p", "chosen": "a", "rejected": "z", "annotator": "live"},
    )
    done = import_file(store, path)
    assert (done.items, done.judgements) == (0, 2) and "contradiction: 'live'" in done.bad[0].reason
    values = {judgement.annotator: judgement.value for judgement in store.judgements(item_ids=[item_id])}
    assert values == {
        "live": {"choice": 0, "strength": 2},
        "ada": {"choice": 0, "strength": 1},
        "bob": {"choice": 1, "strength": 1},
    }
    assert store.progress().finished == 1


@pytest.mark.parametrize("answers", [True, False], ids=["who has answered", "who holds the task"])
def test_an_annotator_at_work_while_a_file_is_read_loses_nothing(
    store: FeedbackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    store.add_items([NewItem("pairwise", "p", ("a", "b"), overlap=2)])
    task = store.claim(store.add_annotator("ada").name)
    assert task is not None
    add_items = store.add_items

    def meanwhile(items: Any) -> list[int]:
        if answers:
            store.submit(task.id, "ada", {"choice": 1, "strength": 1}, key="live")
        return add_items(items)

    monkeypatch.setattr(store, "add_items", meanwhile)
    rows = [{"prompt": p, "chosen": "a", "rejected": "b", "annotator": "ada"} for p in ("p", "q")]
    done = import_file(store, jsonl(tmp_path, *rows))
    if answers:
        assert (done.items, done.judgements) == (1, 1)
        assert reasons(done) == [("rows.jsonl:1", "duplicate: 'ada' has judged this item while the file was read")]
        assert store.judgements(item_ids=[1])[0].value == {"choice": 1, "strength": 1}
    else:
        assert (done.items, done.judgements, done.bad) == (1, 2, ())
        with pytest.raises(LeaseLost, match="lost"):
            store.submit(task.id, "ada", {"choice": 1, "strength": 1}, key="live")
        assert store.claim("ada") is None
    assert store.progress().judgements == 2


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "completion": "a", "label": True},
        {"prompt": "p", "completion": "a", "label": 4},
    ],
    ids=["preference", "kto", "ratings"],
)
def test_more_judgements_can_be_asked_for_than_a_file_brings(
    store: FeedbackStore, tmp_path: Path, row: dict[str, Any]
) -> None:
    import_file(store, jsonl(tmp_path, row), overlap=3)
    assert [item.overlap for item in store.items()] == [3]
    assert store.progress().finished == 0
    assert store.claim(store.add_annotator("ada").name) is not None


def test_imported_judgements_can_be_undone_and_asked_again(store: FeedbackStore, tmp_path: Path) -> None:
    import_file(store, jsonl(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"}), annotator="ada")
    task = store.undo("ada")
    assert task is not None and task.sides == (0, 1)
    assert store.progress().finished == 0


def test_a_megabyte_empty_texts_emoji_and_scripts_come_in_as_they_are(store: FeedbackStore, tmp_path: Path) -> None:
    texts = [
        "x" * 1_000_000,
        "",
        "👩‍👩‍👧 ❤️",
        "שלום \u202eevil",
        "\x00\x1b[31m\r\n",
        "\ud800",
        "<script>alert(1)</script>",
    ]
    rows = [{"prompt": f"{i}", "completion": text} for i, text in enumerate(texts)]
    done = import_file(store, jsonl(tmp_path, *rows))
    assert done.bad == () and [item.completions[0] for item in store.items()] == texts


def test_compressed_files_are_read(store: FeedbackStore, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n'))
    assert import_file(store, path).judgements == 1
