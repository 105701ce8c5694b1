from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.formats.csv_cells import parse_list
from rlhf_envs.feedback.formats.importing import Import, import_file


def table(tmp_path: Path, *rows: dict[str, Any], name: str = "table.csv") -> Path:
    path = tmp_path / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def reasons(done: Import) -> list[tuple[str, str]]:
    return [(row.where.rpartition("/")[2], row.reason) for row in done.bad]


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("", []),
        ('["a", null]', ["a", None]),
        ("['a', None, 'it\\'s']", ["a", None, "it's"]),
        ("['response1' 'response2']", ["response1", "response2"]),
        ("[1 None]", [1, None]),
        ("[4. nan]", [4.0, None]),
        ("[array(['a', 'b'], dtype=object) array([], dtype=object)]", [["a", "b"], []]),
        ("['it\\'s \"x\"\\ny' 'é 😀']", ['it\'s "x"\ny', "é 😀"]),
        ("[[\"b\", \"a\"]]", [["b", "a"]]),
    ],
)  # fmt: skip
def test_lists_are_read_as_json_python_and_numpy_write_them(cell: str, values: list[Any]) -> None:
    assert parse_list(cell, "column") == values


@pytest.mark.parametrize("cell", ["a", "['a'", "[__import__('os')]", "['a'] ['b']", '{"a": 1}', "]"])
def test_what_is_no_list_is_refused_and_never_run(cell: str) -> None:
    with pytest.raises(ValueError, match="'column'"):
        parse_list(cell, "column")


def test_an_export_of_argilla_comes_in(store: FeedbackStore, tmp_path: Path) -> None:
    """The cells are what `datasets` writes for Argilla's lists."""
    rows = [
        {"id": "1", "status": "completed", "_server_id": "x", "instruction": "p", "response1": "a", "response2": "b",
         "preference.responses": "['response2' 'tie' None 'response1']",
         "preference.responses.users": "['u1' 'u2' 'u3' 'u4']",
         "preference.responses.status": "['submitted' 'submitted' 'discarded' 'draft']"},
        {"id": "2", "status": "pending", "_server_id": "y", "instruction": "q", "response1": "a", "response2": "b"},
        {"id": "3", "status": "completed", "_server_id": "z", "instruction": "r", "response1": "a", "response2": "b",
         "preference.responses": "['neither']", "preference.responses.users": "['u1']"},
    ]  # fmt: skip
    done = import_file(store, table(tmp_path, *rows), columns={"prompt": "instruction"})
    assert done.format == "argilla" and (done.items, done.judgements) == (2, 3)
    assert reasons(done) == [("table.csv:4", "'neither' is none of response1, response2")]
    assert {j.annotator: j.value for j in store.judgements(include_skips=True)} == {
        "u1": {"choice": 1, "strength": 1}, "u2": {"choice": None, "strength": 0}, "u3": None
    }  # fmt: skip


def test_an_export_of_label_studio_comes_in(store: FeedbackStore, tmp_path: Path) -> None:
    """The cells are what Label Studio's converter writes: JSON, but one choice and one text as they are."""
    common = {"annotation_id": 5, "annotator": "ada@example.org", "created_at": "2026-01-31T12:00:00.000000Z",
              "updated_at": "2026-01-31T12:00:00.000000Z", "lead_time": 3.5,
              "answer1": "a", "answer2": "b"}  # fmt: skip
    rows = [
        {**common, "prompt": "p", "comparison": '[{"selected": "right"}]', "was_cancelled": False},
        {**common, "prompt": "q", "was_cancelled": True},
        {**common, "prompt": "r", "comparison": '[{"selected": "up"}]'},
        {**common, "prompt": "s", "comparison": '[{"selected": "left"}]', "lead_time": "soon"},
    ]  # fmt: skip
    done = import_file(store, table(tmp_path, *rows))
    assert done.format == "label-studio" and (done.items, done.judgements) == (2, 2)
    assert [where for where, _ in reasons(done)] == ["table.csv:4", "table.csv:5"]
    first, second = store.judgements(include_skips=True)
    assert (first.value, first.seconds, first.annotator) == ({"choice": 1, "strength": 1}, 3.5, "ada@example.org")
    assert first.created.isoformat() == "2026-01-31T12:00:00+00:00" and second.value is None


@pytest.mark.parametrize(
    ("row", "kind", "value"),
    [
        ({"answer": "a", "rating": '[{"rating": 4}]'}, "rating", {"rating": 4}),
        ({"answer": "a", "thumbs": "down"}, "thumbs", {"up": False}),
        ({"answer": "a", "correction": "A."}, "correction", {"text": "A."}),
        ({"answer": "a", "correction": "[1, 2]"}, "correction", {"text": "[1, 2]"}),
        ({"answer": "a", "correction": '[{"text": ["A."]}]'}, "correction", {"text": "A."}),
        ({"answer": "a", "harms": "hate"}, "flags", {"harms": ["hate"]}),
        ({"answer": "a", "harms": '[{"choices": ["hate", "privacy"]}]'}, "flags", {"harms": ["hate", "privacy"]}),
        ({"answer": "a", "harms": ""}, "flags", {"harms": []}),
    ],
)
def test_label_studios_controls_are_read(
    store: FeedbackStore, tmp_path: Path, row: dict[str, str], kind: str, value: dict[str, Any]
) -> None:
    done = import_file(store, table(tmp_path, {"prompt": "p", "annotation_id": "3", "annotator": "7", **row}))
    assert done.bad == ()
    assert [(judgement.kind, judgement.value) for judgement in store.judgements()] == [(kind, value)]
