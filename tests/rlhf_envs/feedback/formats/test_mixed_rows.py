"""Files whose rows are of several formats, and the answers of gold questions beside their texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.formats.importing import import_file

from .test_importing import jsonl

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}
QUESTION = {"prompt": "q", "completions": ["a", "b"]}
THUMB = {"prompt": "r", "completion": "c", "label": True}


@pytest.mark.parametrize("rows", [[QUESTION, PAIR, THUMB], [THUMB, QUESTION, PAIR], [PAIR, THUMB, QUESTION]])
def test_each_row_is_told_by_its_own_columns(store: FeedbackStore, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    done = import_file(store, jsonl(tmp_path, *rows))
    assert (done.bad, done.items, done.judgements) == ((), 3, 2)
    assert done.kinds == {"pairwise": 2, "thumbs": 1}
    assert sorted(done.format.split(", ")) == ["items", "kto", "preference"]
    assert {item.prompt: item.completions for item in store.items()} == {"p": ("bad", "good"), "q": ("a", "b"),
                                                                         "r": ("c",)}  # fmt: skip


def test_empty_columns_of_a_table_of_several_formats_tell_nothing(store: FeedbackStore, tmp_path: Path) -> None:
    columns = dict.fromkeys(("prompt", "chosen", "rejected", "completions"))
    done = import_file(store, jsonl(tmp_path, {**columns, **QUESTION}, {**columns, **PAIR}))
    assert (done.bad, done.format, done.items) == ((), "items, preference", 2)


def test_a_row_that_is_no_format_is_named_by_what_it_lacks(store: FeedbackStore, tmp_path: Path) -> None:
    done = import_file(store, jsonl(tmp_path, PAIR, {"prompt": "p", "chosen": "x"}, {"note": 1}, QUESTION))
    assert [bad.where.rpartition(":")[2] for bad in done.bad] == ["2", "3"] and done.items == 2
    assert all("'rejected'" in bad.reason or "'chosen'" in bad.reason for bad in done.bad)


def test_an_answer_beside_a_question_is_set_aside_wherever_it_stands(store: FeedbackStore, tmp_path: Path) -> None:
    done = import_file(store, jsonl(tmp_path, QUESTION, {**QUESTION, "prompt": "x", "choice": 1}))
    (bad,) = done.bad
    assert done.items == 1
    assert "'choice' looks like a rating or a choice" in bad.reason
    assert '"judgements": [{"value": {"choice": 1}}]; or add the file with --gold' in bad.reason


def test_labels_are_thumbs_or_ratings_for_the_whole_file(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [{**THUMB, "prompt": str(label), "label": label} for label in (1, 4)]
    done = import_file(store, jsonl(tmp_path, rows[0], PAIR, rows[1]))
    assert done.kinds == {"rating": 2, "pairwise": 1}


@pytest.mark.parametrize(
    ("row", "kind", "gold"),
    [
        ({"completions": ["a", "b"], "choice": 0}, "pairwise", {"choice": 0, "strength": 1}),
        ({"completions": ["a", "b"], "choice": 1, "strength": 3}, "pairwise", {"choice": 1, "strength": 3}),
        ({"completions": ["a", "b", "c"], "order": [2, 0, 1]}, "ranking", {"order": [2, 0, 1]}),
        ({"completion": "a", "rating": 4}, "rating", {"rating": 4}),
        ({"completion": "a", "up": False}, "thumbs", {"up": False}),
        ({"completion": "a", "text": "b"}, "correction", {"text": "b"}),
        ({"completion": "a", "harms": []}, "flags", {"harms": []}),
        ({"completions": ["a", "b"], "gold": {"choice": 1}}, "pairwise", {"choice": 1, "strength": 1}),
        ({"completions": ["a", "b"], "judgements": [{"value": {"choice": 1}}]}, "pairwise",
         {"choice": 1, "strength": 1}),
        ({"chosen": "a", "rejected": "b"}, "pairwise", {"choice": 0, "strength": 1}),
        ({"completion": "a", "label": True}, "thumbs", {"up": True}),
    ],
)  # fmt: skip
def test_the_expected_answer_of_a_gold_question_stands_beside_it(
    store: FeedbackStore, tmp_path: Path, row: dict[str, Any], kind: str, gold: dict[str, Any]
) -> None:
    done = import_file(store, jsonl(tmp_path, {"prompt": "p", **row}), gold=True)
    assert done.bad == () and done.judgements == 0
    (item,) = store.items()
    assert (item.kind, item.gold) == (kind, gold)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"completions": ["a", "b"], "choice": 2}, "is not an answer of kind 'pairwise': choice: Input should be less"),
        ({"completions": ["a", "b"], "choice": "a"}, "is not an answer of kind 'pairwise': choice: Input should be"),
        ({"completions": ["a", "b"]}, 'the answer beside the texts, "choice": 0 where the first completion is better'),
        ({"completion": "a"}, 'beside the texts, "rating": 4'),
    ],
)
def test_a_gold_question_without_a_valid_answer_says_how_to_write_it(
    store: FeedbackStore, tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    (bad,) = import_file(store, jsonl(tmp_path, {"prompt": "p", **row}), gold=True).bad
    assert reason in bad.reason
