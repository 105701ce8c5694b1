"""The answers to a project's own questions as comparisons and ratings, by version, and out of and into files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem, Question
from rlhf_envs.feedback.criteria import all_criteria, derive, find_criterion, read_criterion
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file

HELPFUL = Question("helpful", "?", "rating", each=True)
TRUER = Question("truer", "?", "choice")
HARMLESS = Question("harmless", "?", "labels", labels=("yes", "no"))
CLEAR = Question("clear", "?", "rating", scale=(0, 2))
WHY = Question("why", "?", "text", required=False)
TAGS = Question("tags", "?", "labels", labels=("a", "b"), multiple=True, required=False)


@pytest.fixture
def store(empty_store: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(empty_store, seed=0) as store:
        for name in ("ann", "bob"):
            store.add_annotator(name)
        yield store


def asking(store: FeedbackStore, *questions: Question, items: tuple[tuple[str, ...], ...] = (("good", "bad"),)) -> None:
    store.update_settings(questions=questions)
    store.add_items([NewItem("questions", f"p{i}", texts, overlap=2) for i, texts in enumerate(items)])


def answer(store: FeedbackStore, name: str, *answers: dict[str, Any]) -> None:
    for given in answers:
        task = store.claim(name)
        assert task is not None
        store.submit(task.id, name, {}, key=f"{name}{task.id}", answers=given)


def rows(store: FeedbackStore, tmp_path: Path, format: str, **more: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    done = export_file(store, tmp_path / "rows.jsonl", format, **more)
    return [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()], done.dropped


def test_ratings_of_each_completion_are_pairs_or_ratings(store: FeedbackStore, tmp_path: Path) -> None:
    asking(store, HELPFUL, items=(("a", "b"), ("c", "d", "e"), ("f", "g")))
    answer(store, "ann", {"helpful": [5, 1]}, {"helpful": [3, 1, 3]}, {"helpful": [2, 2]})
    pairs, dropped = rows(store, tmp_path, "preference", criterion="helpful")
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in pairs] == [
        ("p0", "a", "b"),
        ("p1", "c", "d"),
        ("p1", "e", "d"),
    ]
    assert dropped == {"tie": 2}
    ratings, dropped = rows(store, tmp_path, "ratings", criterion="helpful")
    assert [(row["completion"], row["label"]) for row in ratings] == [
        ("a", 5.0), ("b", 1.0), ("c", 3.0), ("d", 1.0), ("e", 3.0), ("f", 2.0), ("g", 2.0),
    ]  # fmt: skip
    assert dropped == {}
    kto, _ = rows(store, tmp_path, "kto", criterion="helpful")
    assert [(row["completion"], row["label"]) for row in kto] == [
        ("a", True), ("b", False), ("d", False), ("f", False), ("g", False),
    ]  # fmt: skip


def test_several_annotators_are_counted_as_for_any_comparison(store: FeedbackStore, tmp_path: Path) -> None:
    asking(store, TRUER)
    answer(store, "ann", {"truer": {"choice": 0, "strength": 3}})
    answer(store, "bob", {"truer": {"choice": None}})
    [row], _ = rows(store, tmp_path, "preference", criterion="truer", how="soft")
    assert (row["chosen"], row["probability"]) == ("good", 0.75)
    [row], dropped = rows(store, tmp_path, "preference", criterion="truer", strength_margin=0.5)
    assert (row["annotator"], row["margin"], dropped) == ("ann", 1.0, {"tie": 1})


def test_two_labels_are_thumbs_and_a_rating_of_one_completion_stays(store: FeedbackStore, tmp_path: Path) -> None:
    asking(store, HARMLESS, CLEAR, items=(("a",), ("b",), ("c", "d")))
    answer(store, "ann", *({"harmless": label, "clear": n} for label, n in (("yes", 2), ("no", 0), ("no", 1))))
    kto, dropped = rows(store, tmp_path, "kto", criterion="harmless")
    assert [(row["completion"], row["label"]) for row in kto] == [("a", True), ("b", False)]
    assert dropped == {"'harmless' asked of several completions together": 1}
    ratings, _ = rows(store, tmp_path, "ratings", criterion="harmless")
    assert [(row["completion"], row["label"]) for row in ratings] == [("a", 1.0), ("b", 0.0)]
    ratings, _ = rows(store, tmp_path, "ratings", criterion="clear")
    assert [(row["completion"], row["label"]) for row in ratings] == [("a", 2.0), ("b", 0.0)]


@pytest.mark.parametrize(
    ("criterion", "format", "words"),
    [
        ("helpfull", "preference", r"no criterion 'helpfull'; did you mean 'helpful'\?"),
        ("xyz", "preference", r"no criterion 'xyz'; there are clear, harmless, helpful, tags, truer, why"),
        ("why", "preference", "criterion 'why' .*says of no completion that it is better or worse"),
        ("tags", "ratings", r"criterion 'tags' \(several labels\) says of no completion"),
        ("truer", "ratings", "criterion 'truer' rates no completion by itself: its answers are comparisons"),
        ("clear", "preference", "criterion 'clear' compares no two completions: its answers are ratings"),
        ("helpful", "sft", "takes no criterion: choose preference, ratings or kto"),
    ],
)
def test_what_a_criterion_cannot_give_is_said(
    store: FeedbackStore, tmp_path: Path, criterion: str, format: str, words: str
) -> None:
    asking(store, HELPFUL, TRUER, HARMLESS, CLEAR, WHY, TAGS)
    with pytest.raises(ValueError, match=words):
        rows(store, tmp_path, format, criterion=criterion)


def test_answers_that_a_format_has_no_room_for_are_counted(store: FeedbackStore, tmp_path: Path) -> None:
    asking(store, HELPFUL)
    answer(store, "ann", {"helpful": [5, 1]})
    found, dropped = rows(store, tmp_path, "preference")
    assert found == []
    assert dropped == {
        "answers to the project's own questions (--criterion NAME, or --format items)": 1,
        "questions: nothing compared": 1,
    }
    done = export_file(store, tmp_path / "rows.csv", "argilla")
    assert done.dropped == {"asks the project's own questions alone: only --format items has them (item)": 1}


def half_way(store: FeedbackStore) -> None:
    """Two answers in version 1, the other words of version 2 do not matter, and another scale in version 3."""
    asking(store, HELPFUL, items=tuple((f"{i}a", f"{i}b") for i in range(5)))
    answer(store, "ann", {"helpful": [5, 1]}, {"helpful": [1, 5]})
    store.update_settings(questions=(Question("helpful", "How helpful?", "rating", each=True),))
    answer(store, "ann", {"helpful": [4, 1]})
    store.update_settings(questions=(Question("helpful", "?", "rating", each=True, scale=(0, 100)), WHY))
    answer(store, "ann", {"helpful": [40, 100], "why": "because"}, {"helpful": [100, 40]})


def test_versions_are_kept_apart_and_what_is_left_out_is_counted(store: FeedbackStore, tmp_path: Path) -> None:
    half_way(store)
    found, dropped = rows(store, tmp_path, "ratings", criterion="helpful")
    assert [row["label"] for row in found] == [40.0, 100.0, 100.0, 40.0]
    assert dropped == {
        "answers to another version of 'helpful' (--version 1 reads them)": 2,
        "answers to another version of 'helpful' (--version 2 reads them)": 1,
    }
    found, dropped = rows(store, tmp_path, "ratings", criterion="helpful", version=1)
    assert [row["label"] for row in found] == [5.0, 1.0, 1.0, 5.0, 4.0, 1.0]
    assert dropped == {"answers to another version of 'helpful' (--version 3 reads them)": 2}
    with pytest.raises(ValueError, match="version 1 does not ask 'why'; these do: 3"):
        rows(store, tmp_path, "ratings", criterion="why", version=1)
    assert {name: sorted(found.versions) for name, found in all_criteria(store.versions()).items()} == {
        "helpful": [3],
        "why": [3],
    }


def test_a_question_that_is_asked_no_more_is_still_read(store: FeedbackStore) -> None:
    asking(store, HELPFUL)
    answer(store, "ann", {"helpful": [5, 1]})
    store.update_settings(questions=())
    assert len(read_criterion(store, "helpful", "pairs").judgements) == 1
    assert find_criterion(store.versions(), "helpful").versions == {1}


def test_gold_questions_skips_and_missing_answers_give_nothing(store: FeedbackStore) -> None:
    store.update_settings(questions=(Question("helpful", "?", "rating", each=True, required=False),))
    store.add_items(
        [NewItem("pairwise", "p", ("a", "b"), gold={"choice": 0}), *[NewItem("pairwise", "p", ("c", "d"))] * 2]
    )
    for value, answers in (({"choice": 0}, {"helpful": [5, 1]}), (None, {}), ({"choice": 1}, {})):
        task = store.claim("ann")
        assert task is not None
        store.submit(task.id, "ann", value, key=f"{task.id}{task.item.id}", answers=answers)
    criterion = find_criterion(store.versions(), "helpful")
    found = derive(store.items(), store.judgements(include_skips=True), criterion, "pairs")
    assert found.judgements == []
    assert found.dropped == {"gold question": 1, "without an answer to 'helpful'": 1}


def test_a_moved_store_keeps_answers_questions_and_versions(store: FeedbackStore, tmp_path: Path) -> None:
    half_way(store)
    export_file(store, tmp_path / "all.jsonl", "items")
    with FeedbackStore(tmp_path / "new.db") as new:
        done = import_file(new, tmp_path / "all.jsonl")
        assert (done.bad, done.settings) == ((), ("questions",))
        assert new.versions() == store.versions()
        kept = [(j.annotator, j.value, j.answers, j.version, j.key) for j in new.judgements()]
        assert kept == [(j.annotator, j.value, j.answers, j.version, j.key) for j in store.judgements()]
        assert import_file(new, tmp_path / "all.jsonl").judgements == 0
        export_file(new, tmp_path / "again.jsonl", "items")
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "all.jsonl").read_text()


def test_answers_to_what_a_store_does_not_ask_are_not_taken(store: FeedbackStore, tmp_path: Path) -> None:
    half_way(store)
    export_file(store, tmp_path / "all.jsonl", "items")
    with FeedbackStore(tmp_path / "other.db") as other:
        other.update_settings(questions=(Question("helpful", "?", "rating", each=True, scale=(0, 100)),))
        other.add_items([NewItem("thumbs", "p", ("c",))])
        done = import_file(other, tmp_path / "all.jsonl")
        assert len(done.bad) == 4  # version 3's answer without the text is to the same question
        assert "this store does not ask these questions as the file's did" in done.bad[0].reason
        assert [judgement.answers for judgement in other.judgements()] == [{"helpful": [100, 40]}]


def test_wrong_answers_and_versions_in_a_file_go_to_the_quarantine(store: FeedbackStore, tmp_path: Path) -> None:
    half_way(store)
    export_file(store, tmp_path / "all.jsonl", "items")
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    lines[0]["judgements"][0]["answers"]["helpful"] = [9, 9]
    lines[1]["judgements"][0]["version"] = 8
    lines[2]["judgements"][0]["answers"] = ["helpful"]
    lines[3]["judgements"][0]["version"] = "3"
    (tmp_path / "bad.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with FeedbackStore(tmp_path / "new.db") as new:
        reasons = [row.reason for row in import_file(new, tmp_path / "bad.jsonl").bad]
        assert len(new.judgements()) == 1
    for reason, words in zip(
        reasons, ("from 1 to 5, got 9", "version 8", "must be an object", "whole number"), strict=True
    ):
        assert words in reason


def test_answers_follow_a_pair_that_is_stored_the_other_way_round(store: FeedbackStore, tmp_path: Path) -> None:
    spans = Question("faults", "?", "spans", labels=("x",), field="both")
    store.update_settings(questions=(HELPFUL, TRUER, HARMLESS, spans))
    store.add_items([NewItem("pairwise", "p", ("a", "b"), overlap=2)])
    marks = [{"completion": place, "start": 0, "end": 1, "label": "x"} for place in (None, 0)]
    given = {"helpful": [5, 1], "truer": {"choice": 0, "strength": 2}, "harmless": "yes", "faults": marks}
    row = {"kind": "pairwise", "prompt": "p", "completions": ["b", "a"]}
    row |= {"judgements": [{"annotator": "cleo", "value": {"choice": 1}, "answers": given}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert import_file(store, tmp_path / "rows.jsonl").bad == ()
    [judgement] = store.judgements()
    assert judgement.value == {"choice": 0, "strength": 1}
    assert judgement.answers["helpful"] == [1, 5] and judgement.answers["truer"] == {"choice": 1, "strength": 2}
    assert judgement.answers["faults"] == [marks[0], {**marks[1], "completion": 1}]


def test_rows_without_answers_are_taken_by_a_store_with_questions(store: FeedbackStore, tmp_path: Path) -> None:
    store.update_settings(questions=(HELPFUL,))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    assert import_file(store, tmp_path / "rows.jsonl").bad == ()
    assert store.judgements()[0].answers == {}
