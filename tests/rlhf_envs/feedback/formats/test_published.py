"""Rows as published datasets have them: read, or refused with the conversion."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_envs.feedback import FeedbackStore, Settings
from rlhf_envs.feedback.formats.detecting import detect_formats
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.formats.reading import FORMATS, Reading, read_entries


def jsonl(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def preferred(store: FeedbackStore, tmp_path: Path) -> list[tuple[str, str]]:
    """(the whole chosen text, the whole rejected text) of each pair that an export gives."""
    rows = export_file(store, tmp_path / "out.jsonl", "preference", conversational=False).rows
    return [(row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]) for row in rows]


@pytest.mark.parametrize(("labels", "chosen"), [(1, "Oslo."), (0, "No idea.")])
def test_shps_label_one_prefers_answer_a(store: FeedbackStore, tmp_path: Path, labels: int, chosen: str) -> None:
    row = {"post_id": "x", "history": "The capital of Norway?", "human_ref_A": "Oslo.", "human_ref_B": "No idea.",
           "labels": labels, "score_A": 5, "score_B": 3}  # fmt: skip
    assert import_file(store, jsonl(tmp_path, row)).format == "shp"
    ((better, _),) = preferred(store, tmp_path)
    assert better == f"User: The capital of Norway?\n\nAssistant: {chosen}"
    assert store.items()[0].meta["score_A"] == 5


def ultrafeedback(*scores: Any) -> dict[str, Any]:
    answers = [{"model": f"m{i}", "response": f"answer {i}", "overall_score": score} for i, score in enumerate(scores)]
    return {"source": "evol", "instruction": "Name a colour", "models": [], "completions": answers}


def test_ultrafeedbacks_scores_are_a_ranking(store: FeedbackStore, tmp_path: Path) -> None:
    done = import_file(store, jsonl(tmp_path, ultrafeedback(7.5, 9, "3.0", 8)))
    (item,), (judgement,) = store.items(), store.judgements()
    assert (done.format, item.kind, judgement.value) == ("ultrafeedback", "ranking", {"order": [1, 3, 0, 2]})
    assert item.prompt == "Name a colour" and item.meta["models"] == ["m0", "m1", "m2", "m3"]


def test_ultrafeedbacks_equal_scores_are_ties(store: FeedbackStore, tmp_path: Path) -> None:
    done = import_file(store, jsonl(tmp_path, ultrafeedback(8, 8, 2), ultrafeedback(5, None)))
    said = {item.completions: (store.judgements(item_ids=[item.id])[0].value or {})["choice"] for item in store.items()}
    assert said == {("answer 0", "answer 1"): None, ("answer 0", "answer 2"): 0, ("answer 1", "answer 2"): 0}
    assert [bad.reason for bad in done.bad] == ["'overall_score' must be a number, got 'None'"]


def said(role: str, text: str, *replies: dict[str, Any], rank: int | None = None) -> dict[str, Any]:
    return {"message_id": text, "text": text, "role": role, "rank": rank, "replies": list(replies)}


def test_the_ranked_replies_of_openassistants_trees_are_read_with_their_threads(
    store: FeedbackStore, tmp_path: Path
) -> None:
    deeper = said("prompter", "why?", said("assistant", "because", rank=1), said("assistant", "light", rank=0), rank=0)
    other = said("prompter", "and?", said("assistant", "alone", rank=0), rank=1)
    tree = said("prompter", "Name a colour", said("assistant", "Dog", rank=2),
                said("assistant", "Blue", deeper, other, rank=0),
                said("assistant", "Red", rank=1), said("assistant", "unranked"))  # fmt: skip
    row = {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": tree}
    done = import_file(store, jsonl(tmp_path, row, {**row, "prompt": said("prompter", "nobody answers")}))
    assert done.format == "oasst"
    first = "User: Name a colour\n\nAssistant:"
    later = f"{first} Blue\n\nUser: why?\n\nAssistant:"
    assert preferred(store, tmp_path) == [
        (f"{first} Blue", f"{first} Red"), (f"{first} Blue", f"{first} Dog"), (f"{first} Red", f"{first} Dog"),
        (f"{later} light", f"{later} because"),
    ]  # fmt: skip
    assert [bad.where.rpartition(":")[2] for bad in done.bad] == ["2"]


def test_sharegpt_conversations_are_questions_about_their_last_answer(store: FeedbackStore, tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    messages = [{"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]
    rows = [{"id": "1", "conversations": turns}, {"messages": messages}, {"conversations": turns[:2]}]
    done = import_file(store, jsonl(tmp_path, *rows), kind="thumbs")
    assert [(item.prompt, item.completions) for item in store.items()] == [
        ("System: s\n\nUser: q", ("a",)), ("q2", ("a2",))
    ]  # fmt: skip
    assert ["must be one assistant message" in bad.reason for bad in done.bad] == [True]


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        ("message_id parent_id text role lang rank", "take its file of trees"),
        ("prompt response helpfulness correctness coherence", "--column label:helpfulness"),
        ("prompt response_0 response_1 better_response_id", "PKU-SafeRLHF"),
        ("question answer_0 answer_1 score_0 score_1", "WebGPT's comparisons"),
        ("qid question response_j response_k", "--column chosen:response_j --column rejected:response_k"),
        ("conversation_a conversation_b winner", "Chatbot Arena"),
        ("info summaries choice", r"summaries\[choice\]"),
        ("instruction input output", "--column completion:output"),
        ("prompt completions labels", "stepwise"),
        ("context response1 response2 overall_preference", "HelpSteer3"),
        ("prompt answers num_responses turns", "Nectar"),
        ("instruction generations ratings", "distilabel"),
        ("instance_id user_id preference.selection", "Potato's annotations as a table: export them as JSON lines"),
    ],
)
def test_other_datasets_are_refused_by_name_with_the_conversion(
    store: FeedbackStore, tmp_path: Path, columns: str, advice: str
) -> None:
    with pytest.raises(ValueError, match=rf"rows\.jsonl:1: columns .*{advice}"):
        import_file(store, jsonl(tmp_path, dict.fromkeys(columns.split(), "x")))


def test_the_advised_names_of_columns_work(store: FeedbackStore, tmp_path: Path) -> None:
    row = {"qid": 1, "question": "q", "response_j": "good", "response_k": "bad"}
    import_file(store, jsonl(tmp_path, row), columns={"chosen": "response_j", "rejected": "response_k"})
    assert preferred(store, tmp_path) == [("User: q\n\nAssistant: good", "User: q\n\nAssistant: bad")]


NAMES = """prompt question system messages conversations chosen rejected completion completions label probability
    strength kind judgements response1 response2 preference.responses ranking.responses fields responses answer1 answer2
    comparison harms thumbs annotations data created_at was_cancelled history human_ref_A human_ref_B labels overlap
    meta"""
KEYS = """role content from value rank ranks order result from_name selected choices text replies response overall_score
    user_id prompt answer1"""
WORDS = st.sampled_from(["", "a", "[", '["a"]', "left", "user", "assistant", "ranking"])
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | WORDS
VALUES = st.recursive(
    LEAVES, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), part, max_size=4)
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(NAMES.split()), VALUES, max_size=8))
def test_a_row_of_any_shape_is_read_or_refused_with_a_value_error(row: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        assert detect_formats([row], (1, 5))[0] in FORMATS
    for format in FORMATS:
        with contextlib.suppress(ValueError):
            assert isinstance(read_entries(format, row, Reading(Settings())), list)
