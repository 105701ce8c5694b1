from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.formats.csv_cells import parse_list
from rlhf_envs.feedback.formats.exporting import export_file
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
        ("[NaN, 1]", [None, 1]),
        ("[array([{'value': 'a', 'rank': 2},\n {'value': 'b', 'rank': 1}], dtype=object)]",
         [[{"value": "a", "rank": 2}, {"value": "b", "rank": 1}]]),
        ("[{'value': 'a', 'rank': None} {'value': 'b', 'rank': nan}]",
         [{"value": "a", "rank": None}, {"value": "b", "rank": None}]),
    ],
)  # fmt: skip
def test_lists_are_read_as_json_python_and_numpy_write_them(cell: str, values: list[Any]) -> None:
    assert parse_list(cell, "column") == values


@pytest.mark.parametrize(
    "cell", ["a", "['a'", "[__import__('os')]", "['a'] ['b']", '{"a": 1}', "]", "['a' ...]", "[" * 500]
)
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


def test_argillas_ranks_count_and_not_the_places_in_its_list(store: FeedbackStore, tmp_path: Path) -> None:
    def ranked(*ranks: Any) -> str:
        return json.dumps([[{"value": f"response{i + 1}", "rank": rank} for i, rank in enumerate(ranks)]])

    texts = {"response1": "a", "response2": "b", "response3": "c"}
    answers = [ranked(3, 1, 2), ranked("1", "2.0", 3), json.dumps([["response2", "response3", "response1"]])]
    bad = [ranked(1, 2), ranked(1, 2, None), json.dumps([["response1", "response1", "response3"]])]
    rows = [{"prompt": f"p{i}", **texts, "ranking.responses": answer} for i, answer in enumerate(answers + bad)]
    done = import_file(store, table(tmp_path, *rows))
    orders = [["abc"[i] for i in (judgement.value or {})["order"]] for judgement in store.judgements()]
    assert orders == [["b", "c", "a"], ["a", "b", "c"], ["b", "c", "a"]]
    assert [where for where, _ in reasons(done)] == ["table.csv:5", "table.csv:6", "table.csv:7"]
    assert "'rank' must be a number, got 'None'" in done.bad[1].reason


def test_equal_ranks_are_ties_of_pairs(store: FeedbackStore, tmp_path: Path) -> None:
    answers = [[{"value": f"response{i + 1}", "rank": rank} for i, rank in enumerate(ranks)]
               for ranks in ((1, 2, 2), (1, 2, 3))]  # fmt: skip
    row = {"prompt": "p", "response1": "a", "response2": "b", "response3": "c",
           "ranking.responses": json.dumps([*answers, None]),
           "ranking.responses.users": "['u1' 'u2' 'u3']"}  # fmt: skip
    done = import_file(store, table(tmp_path, row))
    assert (done.bad, done.items, done.judgements) == ((), 3, 9)
    said = {
        (item.completions, judgement.annotator): (judgement.value or {"choice": "skip"})["choice"]
        for item in store.items()
        for judgement in store.judgements(item_ids=[item.id], include_skips=True)
    }
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert [said[pair, "u1"] for pair in pairs] == [0, 0, None]
    assert [said[pair, "u2"] for pair in pairs] == [0, 0, 0]
    assert [said[pair, "u3"] for pair in pairs] == ["skip"] * 3


def test_argillas_table_has_what_its_server_asks_for(store: FeedbackStore, tmp_path: Path) -> None:
    """Ranks with a ranking, and a label where nothing harms. Its server refuses a ranking and a list without."""
    store.add_items([NewItem("ranking", "p", ("a", "b", "c")), NewItem("flags", "p", ("c",))])
    work(store, "ada", lambda task: Response({"order": [2, 0, 1]} if task.item.kind == "ranking" else {"harms": []}))
    export = export_file(store, tmp_path / "table.csv", "argilla")
    given = [json.loads(row[name]) for row in export.rows for name in row if re.fullmatch(r"\w+\.responses", name)]
    assert given == [
        [[{"value": "response3", "rank": 1}, {"value": "response1", "rank": 2}, {"value": "response2", "rank": 3}]],
        [["none"]],
    ]
    with FeedbackStore(tmp_path / "back.db") as back:
        import_file(back, tmp_path / "table.csv")
        assert [judgement.value for judgement in back.judgements()] == [{"order": [2, 0, 1]}, {"harms": []}]


@pytest.mark.parametrize("harms", [["none"], []])
def test_a_harm_of_the_name_none_stays_one(store: FeedbackStore, tmp_path: Path, harms: list[str]) -> None:
    store.update_settings(harms=("none", "rude"))
    store.add_items([NewItem("flags", "p", ("c",))])
    work(store, "ada", lambda _: Response({"harms": harms}))
    export_file(store, tmp_path / "table.csv", "argilla")
    with FeedbackStore(tmp_path / "back.db") as back:
        back.update_settings(harms=("none", "rude"))
        import_file(back, tmp_path / "table.csv")
        assert [judgement.value for judgement in back.judgements()] == [{"harms": harms}]


def test_a_discarded_record_with_a_comment_alone_is_a_skip(store: FeedbackStore, tmp_path: Path) -> None:
    """Argilla's SDK reads no answer without a value, so of such a record it exports the comment."""
    row = {
        **{"prompt": "p", "response1": "a", "response2": "b"},
        **{"preference.responses": ["tie"], "preference.responses.users": ["u1"]},
        "comment.responses": ["why", "unsure", "later"],
        "comment.responses.users": ["u1", "u2", "u3"],
        "comment.responses.status": ["submitted", "discarded", "draft"],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert import_file(store, tmp_path / "rows.jsonl").bad == ()
    said = {j.annotator: (j.value, j.comment) for j in store.judgements(include_skips=True)}
    assert said == {"u1": ({"choice": None, "strength": 0}, "why"), "u2": (None, "unsure")}


@pytest.mark.slow
def test_rankings_through_a_csv_of_datasets_are_read_whole(store: FeedbackStore, tmp_path: Path) -> None:
    """`datasets` writes lists of objects in numpy's form, over several lines and without commas."""
    from datasets import Dataset

    ranked = [{"value": "response1", "rank": 2}, {"value": "response2", "rank": 1}, {"value": "response3", "rank": 3}]
    answers = {"ranking.responses": [ranked] * 2, "ranking.responses.status": ["submitted", "draft"]}
    row = {"prompt": "2024-01-01", "response1": "it's", "response2": '"b"', "response3": "c\nd", **answers}
    Dataset.from_list([row]).to_csv(tmp_path / "table.csv")
    done = import_file(store, tmp_path / "table.csv")
    assert (done.bad, [judgement.value for judgement in store.judgements()]) == ((), [{"order": [1, 0, 2]}])


@pytest.mark.parametrize("name", ["prompt", "chosen"])
def test_messages_in_a_cell_are_refused_by_name(store: FeedbackStore, tmp_path: Path, name: str) -> None:
    cell = "[{'content': 'Hi', 'role': 'user'}\n {'content': 'Yes', 'role': 'assistant'}]"
    row = {"prompt": "p", "chosen": "a", "rejected": "[{not a message}]", name: cell}
    done = import_file(store, table(tmp_path, row, {"prompt": "q", "chosen": "a", "rejected": "[{not a message}]"}))
    assert reasons(done) == [
        ("table.csv:2", f"{name!r} is a list of messages, which a CSV cannot hold: save as .jsonl")
    ]
    assert done.judgements == 1


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
        ({"answer": "a", "correction": '[{"text": ["A."]}]'}, "correction", {"text": '[{"text": ["A."]}]'}),
        ({"answer": "a", "thumbs": "Down "}, "thumbs", {"up": False}),
        ({"answer": "a", "rating": "4.0"}, "rating", {"rating": 4}),
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
