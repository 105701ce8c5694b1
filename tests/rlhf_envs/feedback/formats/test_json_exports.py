"""The JSON that Argilla 2.8 and Label Studio (label-studio-sdk 2.1) write, in which values have their types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.formats.importing import import_file


def saved(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def said(store: FeedbackStore) -> list[tuple[str, str, Any]]:
    return [(j.annotator, j.kind, j.value) for j in store.judgements(include_skips=True)]


MINIMAL = {"id": 1, "prompt": "p", "annotator": 2, "annotation_id": 7, "created_at": "2026-01-31T12:00:00Z",
           "updated_at": "2026-01-31T12:00:00Z", "lead_time": 3.2}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "kind", "value"),
    [
        ({"answer1": "A", "answer2": "B", "comparison": [{"selected": "right"}]},
         "pairwise", {"choice": 1, "strength": 1}),
        ({"answer1": "A", "answer2": "B", "comparison": "left", "strength": [{"rating": 2}]},
         "pairwise", {"choice": 0, "strength": 2}),
        ({"answer": "A", "rating": [{"rating": 4}]}, "rating", {"rating": 4}),
        ({"answer": "A", "thumbs": "up"}, "thumbs", {"up": True}),
        ({"answer": "A", "correction": '{"text": ["A."]}'}, "correction", {"text": '{"text": ["A."]}'}),
        ({"answer": "A", "correction": [{"text": ["A."]}]}, "correction", {"text": "A."}),
        ({"answer": "A", "harms": "hate"}, "flags", {"harms": ["hate"]}),
        ({"answer": "A", "harms": {"choices": ["hate", "violence"]}}, "flags", {"harms": ["hate", "violence"]}),
        ({"answer": "A", "harms": ["hate", "violence"]}, "flags", {"harms": ["hate", "violence"]}),
    ],
)  # fmt: skip
def test_json_min_is_read(
    store: FeedbackStore, tmp_path: Path, row: dict[str, Any], kind: str, value: dict[str, Any]
) -> None:
    done = import_file(store, saved(tmp_path, {**MINIMAL, **row}))
    assert (done.format, done.bad, said(store)) == ("label-studio", (), [("2", kind, value)])
    (judgement,) = store.judgements()
    assert (judgement.seconds, judgement.created.isoformat()) == (3.2, "2026-01-31T12:00:00+00:00")


def annotation(who: Any, *results: tuple[str, Any], cancelled: bool = False) -> dict[str, Any]:
    found = [{"from_name": name, "to_name": "x", "type": "x", "value": value} for name, value in results]
    return {"id": 5, "completed_by": who, "result": found, "was_cancelled": cancelled, "lead_time": 1.5,
            "created_at": "2026-01-31T12:00:00.000000Z"}  # fmt: skip


def test_tasks_with_several_annotations_are_read(store: FeedbackStore, tmp_path: Path) -> None:
    data = {"prompt": [{"role": "user", "content": "Name a colour"}], "answer1": "Blue", "answer2": "Dog"}
    annotations = [
        annotation({"id": 1, "email": "ada@example.org"}, ("comparison", {"selected": "left"}),
                   ("strength", {"rating": 3}), ("comment", {"text": ["clear"]})),
        annotation(2, ("comparison", {"selected": "right"})),
        annotation(3, cancelled=True),
    ]  # fmt: skip
    done = import_file(store, saved(tmp_path, {"id": 1, "data": data, "annotations": annotations, "predictions": []}))
    assert (done.bad, done.items) == ((), 1)
    assert said(store) == [
        ("ada@example.org", "pairwise", {"choice": 0, "strength": 3}),
        ("2", "pairwise", {"choice": 1, "strength": 1}),
        ("3", "pairwise", None),
    ]
    assert store.items()[0].meta["messages"] == data["prompt"] and store.judgements()[0].comment == "clear"


def test_a_task_that_nobody_has_judged_is_a_question(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [{"id": 1, "data": {"prompt": "p", "answer1": "A", "answer2": "B"}, "annotations": []}]
    done = import_file(store, saved(tmp_path, *rows))
    assert (done.bad, done.items, done.judgements) == ((), 1, 0)


def test_a_rating_of_zero_is_an_answer(store: FeedbackStore, tmp_path: Path) -> None:
    store.update_settings(scale=(0, 4))
    assert import_file(store, saved(tmp_path, {**MINIMAL, "answer": "A", "rating": 0})).bad == ()
    assert [judgement.value for judgement in store.judgements()] == [{"rating": 0}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "A", "correction": [{"text": ["A.", "B."]}]}, "'correction' must be one text"),
        ({"answer": "A", "rating": [{"rating": 3.5}]}, "the rating 3.5 is no whole number from 1 to 5"),
        ({"answer1": "A", "answer2": 7, "comparison": "left"}, "'answer2' is int, not a string"),
        ({"answer1": "A", "answer2": None, "comparison": "left"}, "'answer2' is NoneType, not a string"),
        ({"answer1": "A", "answer2": "B", "comparison": [{"selected": "left"}], "lead_time": "soon"}, "'lead_time'"),
        ({"answer1": "A", "answer2": "B", "pairwise": "left"}, "annotation 7 has no answer in comparison, ranking"),
        ({"response1": "A", "response2": "B", "quality.responses": ["response1"]}, "the record answers quality, which"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_goes_to_the_quarantine(
    store: FeedbackStore, tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    (bad,) = import_file(store, saved(tmp_path, {**MINIMAL, **row})).bad
    assert reason in bad.reason and bad.where.endswith("rows.json, item 1")


def test_argillas_flat_lists_are_read(store: FeedbackStore, tmp_path: Path) -> None:
    """What `records.to_list(flatten=True)` gives: every record has every column, with null where there is nothing."""
    row = {"id": "b3", "_server_id": "x", "prompt": "p", "response1": "A", "response2": "B", "status": "completed",
           "preference.responses": ["response2", "response1", "tie", "response1"],
           "preference.responses.users": ["1", "2", "3", "4"],
           "preference.responses.status": ["submitted", "draft", None, "discarded"],
           "comment.responses": None}  # fmt: skip
    done = import_file(store, saved(tmp_path, row, {**dict.fromkeys(row), "id": "b4", "prompt": "q", "response1": "A",
                                                    "response2": "B"}))  # fmt: skip
    assert (done.format, done.bad, done.items) == ("argilla", (), 2)
    assert said(store) == [
        ("1", "pairwise", {"choice": 1, "strength": 1}),
        ("3", "pairwise", {"choice": None, "strength": 0}),
        ("4", "pairwise", None),
    ]


NESTED = {"id": "1", "fields": {"prompt": [{"role": "user", "content": "Name a colour"}], "response1": "Blue",
                                "response2": "Red", "response3": "Dog"},
          "metadata": {"n": 1}, "suggestions": {}, "vectors": {}, "status": "completed", "_server_id": "x",
          "responses": {"ranking": [{"value": ["response2", "response1", "response3"], "user_id": "7"}]}}  # fmt: skip


def test_argillas_nested_records_are_refused_with_the_export_that_says_which_answers_are_drafts(
    store: FeedbackStore, tmp_path: Path
) -> None:
    """What `records.to_json()` writes."""
    (bad,) = import_file(store, saved(tmp_path, NESTED)).bad
    assert "to_json() does not say which answers are drafts or discarded" in bad.reason
    assert "records.to_list(flatten=True)" in bad.reason and store.items() == []


def test_argillas_nested_records_without_responses_are_questions(store: FeedbackStore, tmp_path: Path) -> None:
    done = import_file(store, saved(tmp_path, {**NESTED, "responses": {}}))
    assert (done.bad, done.kinds, store.items()[0].prompt) == ((), {"ranking": 1}, "Name a colour")


def test_argillas_columns_are_read(store: FeedbackStore, tmp_path: Path) -> None:
    """What `records.to_dict(flatten=True)` gives, with the suggestion of a model, which is nobody's answer."""
    columns = {"id": ["1", "2"], "prompt": ["p", "q"], "response1": ["A", "A"], "response2": ["B", "B"],
               "preference.responses": [["response2"], None], "preference.responses.users": [["7"], None],
               "preference.responses.status": [["submitted"], None], "preference.suggestion": ["response1", None],
               "preference.suggestion.score": [0.9, None], "preference.suggestion.agent": ["gpt", None]}  # fmt: skip
    (tmp_path / "rows.json").write_text(json.dumps(columns))
    done = import_file(store, tmp_path / "rows.json")
    assert (done.bad, done.items, said(store)) == ((), 2, [("7", "pairwise", {"choice": 1, "strength": 1})])


def test_columns_of_different_lengths_are_refused(store: FeedbackStore, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({"prompt": ["p"], "chosen": ["a", "b"], "rejected": ["c", "d"]}))
    with pytest.raises(ValueError, match=r"lists of one length, got .*'prompt': 1, 'chosen': 2"):
        import_file(store, tmp_path / "rows.json")


TWO_QUESTIONS = {
    "id": "1", "fields": {"prompt": "p", "response1": "A", "response2": "B"},
    "responses": {"preference": [{"value": "response2", "user_id": "1", "status": "submitted"}],
                  "style": [{"value": "tie", "user_id": "1", "status": "submitted"}],
                  "strength": [{"value": 2, "user_id": "1", "status": "submitted"}],
                  "comment": [{"value": "c", "user_id": "1", "status": "submitted"}]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "judged"),
    [
        ({"question": "preference"}, {"choice": 1, "strength": 2}),
        ({"question": "style", "kind": "pairwise"}, {"choice": None, "strength": 0}),
    ],
)
def test_one_of_several_questions_of_argilla_is_chosen_by_its_name(
    store: FeedbackStore, tmp_path: Path, chosen: dict[str, str], judged: dict[str, Any]
) -> None:
    done = import_file(store, saved(tmp_path, TWO_QUESTIONS), **chosen)
    assert (done.bad, said(store)) == ((), [("1", "pairwise", judged)])


@pytest.mark.parametrize(
    ("row", "chosen", "reason"),
    [
        (TWO_QUESTIONS, {}, "the record answers preference, style: choose one, such as --question preference"),
        (TWO_QUESTIONS, {"question": "stile"}, "no answer to stile: the record answers preference, style"),
        (TWO_QUESTIONS, {"question": "style"}, "'style' does not tell what was asked: add --kind, one of pairwise,"),
        (
            {**TWO_QUESTIONS, "responses": {"quality": [{"value": 3, "user_id": "1", "status": "submitted"}]}},
            {},
            "the record answers quality, which does not tell what was asked: add --question quality --kind KIND",
        ),
    ],
)
def test_answers_to_another_question_of_argilla_are_never_dropped_in_silence(
    store: FeedbackStore, tmp_path: Path, row: dict[str, Any], chosen: dict[str, str], reason: str
) -> None:
    (bad,) = import_file(store, saved(tmp_path, row), **chosen).bad
    assert reason in bad.reason


def test_a_question_is_refused_where_the_file_is_not_argillas(store: FeedbackStore, tmp_path: Path) -> None:
    path = saved(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"})
    with pytest.raises(ValueError, match=r"question='style' is for Argilla's records, and the format is preference"):
        import_file(store, path, question="style")
