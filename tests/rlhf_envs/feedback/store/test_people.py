"""What the store keeps about people: what they read, their training, panels and withdrawals, on both databases."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore, LeaseLost, NewItem
from rlhf_envs.feedback.formats.exporting import FORMATS, export_file
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.store.documents import current_document, digest_of, list_readings, note_reading
from rlhf_envs.feedback.store.panels import (
    answer_screening,
    end_part,
    enter_panel,
    list_panelists,
    panelist,
    return_address,
)
from rlhf_envs.feedback.store.steps import next_step, own_progress
from rlhf_envs.feedback.store.training import admit, answer_training, list_trainees, next_training
from rlhf_envs.feedback.store.withdrawing import answers_of, list_withdrawals, withdraw_person
from rlhf_envs.feedback.web.admin.summary import summarise

RIGHT, WRONG = {"rating": 3}, {"rating": 1}


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, seed=0, clock=clock) as store:
        store.update_settings(next_item="age")  # the tests know which item comes next
        store.add_annotator("ada")
        yield store


def judge(store: FeedbackStore, name: str, value: dict[str, Any] | None, seconds: float = 4.0) -> int:
    task = store.claim(name)
    assert task is not None
    return store.submit(task.id, name, value, key=f"{name}-{task.id}", seconds=seconds).item_id


def explained(n: int) -> list[NewItem]:
    return [NewItem("rating", f"gold {i}", ("c",), gold=RIGHT, meta={"explanation": f"because {i}"}) for i in range(n)]


# ---- what people read


def test_a_changed_text_is_read_again_and_every_version_is_known(store: FeedbackStore, clock: Any) -> None:
    assert next_step(store, "ada") == "work"
    assert current_document(store, "guidelines") is None
    for version, text in enumerate(["Be fair.", "Be kind.\ud800\0"], start=1):
        store.update_settings(guidelines=text)
        assert next_step(store, "ada") == "guidelines"
        shown = current_document(store, "guidelines")
        assert shown is not None
        assert (shown.version, shown.text) == (version, text)
        assert note_reading(store, "ada", "guidelines", shown.digest)
        assert next_step(store, "ada") == "work"
        clock.forward(60)
    store.update_settings(guidelines="Be fair.")  # it comes back with the version that it had, and was read
    shown = current_document(store, "guidelines")
    assert shown is not None
    assert (shown.version, next_step(store, "ada")) == (1, "work")
    assert [(reading.name, reading.version) for reading in list_readings(store, "ada")] == [
        ("guidelines", 1),
        ("guidelines", 2),
    ]


def test_reading_a_text_that_has_changed_meanwhile_does_not_count(store: FeedbackStore) -> None:
    store.update_settings(consent={"text": "You may withdraw."})
    assert not note_reading(store, "ada", "consent", digest_of("You may not."))
    assert next_step(store, "ada") == "consent"
    assert list_readings(store) == []


def test_consent_comes_before_guidelines_and_admins_need_neither(store: FeedbackStore) -> None:
    store.add_annotator("root", "admin")
    store.update_settings(consent={"text": "Agree?"}, guidelines="Be fair.", training={"n_items": 1})
    store.add_items(explained(1))
    steps = []
    for name, text in (("consent", "Agree?"), ("guidelines", "Be fair.")):
        steps.append(next_step(store, "ada"))
        note_reading(store, "ada", name, digest_of(text))
    assert [*steps, next_step(store, "ada")] == ["consent", "guidelines", "training"]
    assert next_step(store, "root") == "work"


# ---- training


def train(store: FeedbackStore, name: str, values: list[Any]) -> list[Any]:
    results = []
    for value in values:
        task = next_training(store, name)
        assert task is not None
        results.append(answer_training(store, name, task.attempt, task.item.id, value, seconds=2))
    return results


def test_training_is_passed_with_the_share_of_the_pass_mark(store: FeedbackStore) -> None:
    store.add_items([*explained(5), NewItem("rating", "real", ("c",))])
    store.update_settings(training={"n_items": 5, "pass_mark": 0.8})
    results = train(store, "ada", [RIGHT, RIGHT, WRONG, RIGHT, RIGHT])
    assert [result.is_right for result in results] == [True, True, False, True, True]
    assert [(result.done, result.n, result.outcome) for result in results[-2:]] == [(4, 5, ""), (5, 5, "passed")]
    assert results[2].expected == RIGHT
    assert results[2].explanation.startswith("because ")
    assert (next_step(store, "ada"), next_training(store, "ada")) == ("work", None)
    assert judge(store, "ada", RIGHT) == store.items()[-1].id  # no question of the training is asked again


def test_a_share_of_right_answers_that_equals_the_pass_mark_passes(store: FeedbackStore) -> None:
    store.add_items(explained(25))
    store.update_settings(training={"n_items": 25, "pass_mark": 0.28, "tries": 2})
    assert 0.28 * 25 > 7, "as floating-point numbers"
    for right, outcome in ((6, "again"), (7, "passed")):
        assert train(store, "ada", [RIGHT] * right + [WRONG] * (25 - right))[-1].outcome == outcome


def test_each_person_is_trained_in_an_order_of_their_own_and_admins_are_not(store: FeedbackStore) -> None:
    store.add_items(explained(8))
    store.update_settings(training={"n_items": 8})
    orders = []
    for name in ("ada", "bob"):
        store.add_annotator(name)
        asked = []
        while (task := next_training(store, name)) is not None:
            asked.append(task.item.id)
            train(store, name, [RIGHT])
        orders.append(asked)
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(1, 9))
    assert orders[0] != orders[1]
    store.add_annotator("root", "admin")
    assert (next_training(store, "root"), next_step(store, "root")) == (None, "work")


def test_who_failed_and_is_let_in_has_not_failed_any_more(store: FeedbackStore) -> None:
    store.add_items(explained(1))
    store.update_settings(training={"n_items": 1, "tries": 1})
    assert train(store, "ada", [WRONG])[-1].outcome == "failed"
    (trainee,) = list_trainees(store)
    assert trainee.failed is not None and trainee.admitted is None
    admit(store, "ada", by="root")
    (trainee,) = list_trainees(store)
    assert trainee.failed is None and trainee.admitted is not None
    assert next_step(store, "ada") == "work"
    entry = store.audit()[0]
    assert (entry.actor, entry.action, entry.annotator) == ("root", "let in", "ada")


HELPFUL = {"name": "helpful", "text": "How helpful?", "type": "rating"}
KIND = {"name": "kind", "text": "Kind?", "type": "labels", "labels": ["yes", "no"], "kinds": ["questions"]}
WHY = {"name": "why", "text": "Why?", "type": "text", "required": False}


def own_gold(kind: str, gold: dict[str, Any]) -> NewItem:
    return NewItem(kind, f"gold {kind}", ("c",), gold=gold, meta={"explanation": "because"})


def test_the_training_asks_the_projects_own_questions_and_marks_what_is_expected(store: FeedbackStore) -> None:
    store.update_settings(questions=[HELPFUL, KIND, WHY], training={"n_items": 1, "tries": 100, "pass_mark": 1})
    store.add_items([own_gold("rating", {**RIGHT, "answers": {"helpful": 4}})])

    def give(value: dict[str, Any] | None, answers: dict[str, Any], **more: Any) -> bool:
        task = next_training(store, "ada")
        assert task is not None
        return answer_training(store, "ada", task.attempt, task.item.id, value, answers=answers, **more).is_right

    with pytest.raises(ValueError, match="question 'helpful' needs an answer"):
        give(RIGHT, {})
    assert not give(RIGHT, {"helpful": 3})
    assert not give(WRONG, {"helpful": 4})
    assert not give(None, {})
    store.update_settings(questions=[{**HELPFUL, "scale": [0, 9]}, WHY])  # 4 means something else now, but is an answer
    with pytest.raises(ValueError, match="there is no version 7"):
        give(RIGHT, {"helpful": 4}, version=7)
    assert give(RIGHT, {"helpful": 4, "why": "it helps"})
    kept = [row["answers"] for row in answers_of(store, "ada")]
    assert kept == [{"helpful": 3}, {"helpful": 4}, None, {"helpful": 4, "why": "it helps"}]
    assert next_step(store, "ada") == "work"


def test_how_much_better_one_side_is_need_not_be_expected(store: FeedbackStore) -> None:
    truer = {"name": "truer", "text": "Which is truer?", "type": "choice"}
    store.update_settings(questions=[truer], training={"n_items": 1, "tries": 9, "pass_mark": 1})
    gold = {"choice": 0, "strength": 1, "answers": {"truer": {"choice": 1, "strength": 1}}}
    (item,) = store.add_items([NewItem("pairwise", "p", ("a", "b"), gold=gold, meta={"explanation": "because"})])
    for attempt, (side, is_right) in enumerate(((0, False), (1, True)), start=1):
        answers = {"truer": {"choice": side, "strength": 3}}
        assert answer_training(store, "ada", attempt, item, {"choice": 0}, answers=answers).is_right == is_right


def test_what_is_no_answer_to_a_changed_question_is_expected_no_more(store: FeedbackStore) -> None:
    store.update_settings(questions=[HELPFUL], training={"n_items": 1})
    (item,) = store.add_items([own_gold("rating", {**RIGHT, "answers": {"helpful": 5}})])
    store.update_settings(questions=[{**HELPFUL, "scale": [1, 3]}])
    assert answer_training(store, "ada", 1, item, RIGHT, answers={"helpful": 2}).is_right


def test_an_item_of_own_questions_only_may_be_a_gold_question(store: FeedbackStore) -> None:
    store.update_settings(questions=[HELPFUL, KIND], training={"n_items": 1, "tries": 9, "pass_mark": 1})
    (item,) = store.add_items([own_gold("questions", {"answers": {"kind": "no"}})])
    wrong = answer_training(store, "ada", 1, item, {}, answers={"helpful": 1, "kind": "yes"})
    assert (wrong.is_right, wrong.expected) == (False, {"answers": {"kind": "no"}})
    assert answer_training(store, "ada", 2, item, {}, answers={"helpful": 1, "kind": "no"}).outcome == "passed"


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ({"answers": {"helpfull": 4}}, "gold: no question 'helpfull' is asked about an item of kind 'rating'; did you"),
        ({"answers": {"helpful": 9}}, "gold: question 'helpful': a rating must be a whole number from 1 to 5, got 9"),
        ({"answers": {"kind": "yes"}}, "gold: no question 'kind' is asked"),
        ({"answers": {"why": "so"}}, "gold: question 'why' is of type 'text': it has no expected answer"),
        ({"answers": [4]}, "gold: answers must map names of questions to answers, got"),
    ],
)
def test_what_cannot_be_expected_is_refused(gold: dict[str, Any], message: str, store: FeedbackStore) -> None:
    store.update_settings(questions=[HELPFUL, KIND, WHY])
    with pytest.raises(ValueError, match=message):
        store.add_items([own_gold("rating", {**RIGHT, **gold})])
    with pytest.raises(ValueError, match="gold: an item of kind 'questions' has no question of its own"):
        store.add_items([own_gold("questions", {})])


def test_a_file_says_what_is_expected_of_own_questions(store: FeedbackStore, tmp_path: Path) -> None:
    store.update_settings(questions=[HELPFUL, KIND])
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "explanation": "why", "expected_answers": {"helpful": 4}},
        {"kind": "questions", "prompt": "p", "completion": "c", "expected_answers": {"kind": "no"}},
        {"prompt": "q", "completion": "c", "rating": 2, "expected_answers": {"helpful": 9}},
    ]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = import_file(store, tmp_path / "gold.jsonl", gold=True)
    assert [row.reason for row in done.bad] == [
        "gold: question 'helpful': a rating must be a whole number from 1 to 5, got 9"
    ]
    golds = {item.kind: item.gold for item in store.items()}
    assert golds["pairwise"] is not None
    assert (golds["pairwise"]["choice"], golds["pairwise"]["answers"]) == (0, {"helpful": 4})
    assert golds["questions"] == {"answers": {"kind": "no"}}
    assert all("expected_answers" not in item.meta for item in store.items())
    export_file(store, tmp_path / "items.jsonl", "items")
    with FeedbackStore(tmp_path / "copy.db") as copy:
        assert import_file(copy, tmp_path / "items.jsonl").bad == ()
        assert {item.kind: item.gold for item in copy.items()} == golds


def test_a_second_try_asks_other_questions_and_the_last_one_holds_the_person(store: FeedbackStore) -> None:
    store.add_items(explained(4))
    store.update_settings(training={"n_items": 2, "tries": 2, "pass_mark": 1.0})
    asked = []
    for attempt in (1, 2):
        for value in (RIGHT, None):  # a skip is not right
            task = next_training(store, "ada")
            assert task is not None
            assert task.attempt == attempt
            asked.append(task.item.id)
            result = answer_training(store, "ada", attempt, task.item.id, value)
        assert result.outcome == ("again" if attempt == 1 else "failed")
    assert len(set(asked)) == 4
    assert (next_step(store, "ada"), next_training(store, "ada")) == ("held", None)
    (trainee,) = list_trainees(store)
    assert (trainee.annotator, trainee.attempt, trainee.n_right, trainee.done) == ("ada", 2, 1, 2)
    assert trainee.failed is not None
    admit(store, "ada")
    assert next_step(store, "ada") == "work"


def test_the_same_answer_again_adds_nothing_and_a_late_one_is_refused(store: FeedbackStore) -> None:
    store.add_items(explained(3))
    store.update_settings(training={"n_items": 2, "tries": 3})
    task = next_training(store, "ada")
    assert task is not None
    first = answer_training(store, "ada", 1, task.item.id, WRONG)
    assert answer_training(store, "ada", 1, task.item.id, RIGHT) == first  # the first counts
    with pytest.raises(LeaseLost, match="not the next"):
        answer_training(store, "ada", 2, task.item.id, RIGHT)
    other = next_training(store, "ada")
    assert other is not None
    with pytest.raises(ValueError, match="must be from 1 to 5"):
        answer_training(store, "ada", 1, other.item.id, {"rating": 9})
    (last,) = train(store, "ada", [RIGHT])
    assert last.outcome == "again"
    assert answer_training(store, "ada", 1, task.item.id, RIGHT).outcome == "again"  # of its own try


def test_training_answers_are_in_no_export_and_no_count(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_items([*explained(2), NewItem("rating", "real", ("c",))])
    store.update_settings(training={"n_items": 2})
    train(store, "ada", [RIGHT, RIGHT])
    progress = store.progress("ada")
    assert (progress.items, progress.judgements, progress.mine) == (1, 0, 0)
    assert store.judgements(include_skips=True) == []
    (row,) = summarise(store).annotators
    assert (row.judged, row.gold_asked) == (0, 0)
    for format in FORMATS:
        done = export_file(store, tmp_path / ("x.csv" if format in ("argilla", "label-studio") else "x.jsonl"), format)
        assert all("judgements" not in item or item["judgements"] == [] for item in done.rows)


def test_without_fitting_questions_or_with_training_off_nobody_is_trained(store: FeedbackStore) -> None:
    ids = store.add_items([*explained(1), NewItem("rating", "p", ("c",), gold=RIGHT), NewItem("rating", "p", ("c",))])
    assert judge(store, "ada", RIGHT) == ids[0]  # off: a gold question like any other
    store.update_settings(training={"n_items": 3, "items": [ids[1]]})  # which has no explanation
    assert next_step(store, "ada") == "work"
    store.update_settings(training={"n_items": 3, "items": [ids[0]]})
    assert next_step(store, "ada") == "training"
    (result,) = train(store, "ada", [RIGHT])
    assert (result.n, result.outcome) == (1, "passed")  # as many as there are


# ---- progress


def test_own_progress_counts_what_is_left_for_the_person(store: FeedbackStore) -> None:
    store.add_annotator("bob")
    store.add_items([NewItem("rating", str(i), ("c",), overlap=2 if i == 0 else 1) for i in range(4)])
    assert own_progress(store, "ada") == own_progress(store, "bob")
    assert (own_progress(store, "ada").left, own_progress(store, "ada").per_hour) == (4, None)
    judge(store, "ada", RIGHT, seconds=10)
    judge(store, "ada", None, seconds=20)
    mine, theirs = own_progress(store, "ada"), own_progress(store, "bob")
    assert (mine.done, mine.left, mine.median_seconds, mine.per_hour) == (2, 2, 15, 240)
    assert (theirs.done, theirs.left) == (0, 4)
    store.undo("ada")
    assert own_progress(store, "ada").left == 3


# ---- panels

PROLIFIC = {"person": "PROLIFIC_PID", "parameters": ["STUDY_ID", "SESSION_ID"]}
LINK = {"PROLIFIC_PID": "5f0c", "STUDY_ID": "s1", "SESSION_ID": "x1", "utm": "dropped"}


def test_a_panels_link_makes_one_account_whose_name_tells_nothing(store: FeedbackStore) -> None:
    with pytest.raises(LookupError, match=r"panel\.person is empty"):
        enter_panel(store, LINK)
    store.update_settings(panel=PROLIFIC)
    first, again = enter_panel(store, LINK), enter_panel(store, {**LINK, "SESSION_ID": "x2"})
    assert first == again
    assert first.name.startswith("panel-")
    assert "5f0c" not in first.name
    assert enter_panel(store, {**LINK, "PROLIFIC_PID": "other"}) != first
    person = panelist(store, first.name)
    assert person is not None
    assert person.parameters == {"PROLIFIC_PID": "5f0c", "STUDY_ID": "s1", "SESSION_ID": "x2"}
    assert store.begin_session(first.name, None) is not None
    assert store.password_hash(first.name) is None


@pytest.mark.parametrize("change", [{"STUDY_ID": ""}, {"PROLIFIC_PID": "x" * 201}, {"PROLIFIC_PID": "a\nb"}])
def test_a_link_with_a_bad_parameter_is_refused(store: FeedbackStore, change: dict[str, str]) -> None:
    store.update_settings(panel=PROLIFIC)
    with pytest.raises(ValueError, match="the link needs"):
        enter_panel(store, {**LINK, **change})
    assert list_panelists(store) == []


@pytest.mark.parametrize("gap", ["{{%PROLIFIC_PID%}}", "{{PROLIFIC_PID}}", "${workerId}", "[%worker%]", "%%id%%"])
def test_a_link_whose_gaps_are_not_filled_makes_no_account_for_everybody(store: FeedbackStore, gap: str) -> None:
    store.update_settings(panel=PROLIFIC)
    with pytest.raises(ValueError, match="did not fill in; to try the link, write a name such as PROLIFIC_PID=test-1"):
        enter_panel(store, {**LINK, "PROLIFIC_PID": gap})
    assert list_panelists(store) == []
    assert enter_panel(store, {**LINK, "PROLIFIC_PID": "a{b}%c"}).name.startswith("panel-")


def test_a_link_used_in_two_browsers_at_once_is_one_person(store: FeedbackStore) -> None:
    store.update_settings(panel=PROLIFIC)
    found: list[str] = []
    barrier = threading.Barrier(8)

    def come() -> None:
        barrier.wait()
        found.append(enter_panel(store, LINK).name)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(list_panelists(store)) == 1


def test_screening_decides_once(store: FeedbackStore) -> None:
    question = {"text": "Do you read German?", "options": ["yes", "no"], "accept": ["yes"]}
    store.update_settings(panel={**PROLIFIC, "screening": [question], "screen_out_code": "OUT"})
    name, other = enter_panel(store, LINK).name, enter_panel(store, {**LINK, "PROLIFIC_PID": "b"}).name
    assert next_step(store, name) == "screening"
    with pytest.raises(ValueError, match="'maybe' is none of"):
        answer_screening(store, name, ["maybe"])
    for answers in ([], ["yes", "yes"]):
        with pytest.raises(ValueError, match=f"there are 1 questions, got {len(answers)} answers"):
            answer_screening(store, name, answers)
    assert not answer_screening(store, name, ["no"])
    assert not answer_screening(store, name, ["yes"])  # going back and choosing again does not help
    assert answer_screening(store, other, ["yes"])
    assert (next_step(store, name), next_step(store, other)) == ("finished", "work")
    person = panelist(store, name)
    assert person is not None
    assert (person.state, person.screening) == ("screened out", ["no"])
    assert return_address(store.settings, person) == ("OUT", "")


def test_a_cap_ends_the_part_and_the_way_back_carries_the_parameters(store: FeedbackStore) -> None:
    back = "https://panel.example/done?pid={PROLIFIC_PID}&cc=1"
    store.update_settings(panel={**PROLIFIC, "max_items": 2, "completion_url": back, "completion_code": "C1"})
    store.add_items([NewItem("rating", str(i), ("c",)) for i in range(5)])
    name = enter_panel(store, {**LINK, "PROLIFIC_PID": "a&b/c"}).name
    assert own_progress(store, name).left == 2
    judge(store, name, RIGHT)
    judge(store, name, None)
    assert (own_progress(store, name).left, next_step(store, name)) == (0, "finished")
    end_part(store, name, "completed")
    end_part(store, name, "screened out")  # the first end counts
    person = panelist(store, name)
    assert person is not None
    assert person.state == "completed"
    assert return_address(store.settings, person) == ("C1", "https://panel.example/done?pid=a%26b%2Fc&cc=1")


def test_who_finds_nothing_left_goes_back_as_one_who_was_screened_out(store: FeedbackStore) -> None:
    store.update_settings(panel={**PROLIFIC, "completion_code": "C1", "screen_out_code": "OUT"})
    name = enter_panel(store, LINK).name
    end_part(store, name, "full")
    person = panelist(store, name)
    assert person is not None
    assert return_address(store.settings, person) == ("OUT", "")


def test_failing_the_training_screens_out_who_came_from_a_panel(store: FeedbackStore) -> None:
    store.add_items(explained(1))
    store.update_settings(panel=PROLIFIC, training={"n_items": 1, "tries": 1})
    name = enter_panel(store, LINK).name
    train(store, name, [WRONG])
    assert next_step(store, name) == "finished"


# ---- withdrawing


@pytest.mark.parametrize("labels", ["keep", "delete"])
def test_labels_of_who_withdrew_leave_everything_and_others_are_asked(
    store: FeedbackStore, tmp_path: Path, labels: str
) -> None:
    store.add_annotator("bob")
    store.update_settings(consent={"withdrawn_labels": labels}, panel=PROLIFIC, training={"n_items": 1})
    store.add_items([*explained(1), *(NewItem("rating", str(i), ("c",)) for i in range(4))])
    name = enter_panel(store, LINK).name
    train(store, name, [RIGHT])
    admit(store, "bob")
    for value in (RIGHT, None, WRONG):
        judge(store, name, value)
    judge(store, "bob", RIGHT)  # the item that the other skipped
    store.claim(name)  # holds the last
    session = store.begin_session(name, None)
    assert session is not None
    done = withdraw_person(store, name, by="root")
    assert (done.judgements, done.by, done.labels) == (3, "root", "kept" if labels == "keep" else "deleted")
    assert list_withdrawals(store) == [done]
    assert store.session_annotator(session) is None
    assert {judgement.annotator for judgement in store.judgements(include_skips=True)} == {"bob"}
    assert (store.progress().judgements, store.progress().finished, store.count_undone()) == (1, 1, 0)
    export_file(store, tmp_path / "all.jsonl", "items")
    exported = (tmp_path / "all.jsonl").read_text()
    assert name not in exported
    assert "5f0c" not in exported
    assert sorted(judge(store, "bob", RIGHT) for _ in range(3)) == [2, 4, 5]  # all but the one that bob has judged
    with pytest.raises(ValueError, match=r"has withdrawn|no annotator"):
        store.claim(name)
    with pytest.raises(PermissionError, match="closed"):
        enter_panel(store, LINK)
    known = {annotator.name for annotator in store.annotators()}
    assert (name in known) == (labels == "keep")
    assert len(answers_of(store, name)) == (4 if labels == "keep" else 0)


def test_a_file_exported_before_brings_no_label_of_a_withdrawn_person_back(
    store: FeedbackStore, tmp_path: Path
) -> None:
    store.add_annotator("bob")
    store.add_items([NewItem("rating", "p", ("c",), overlap=2)])
    judge(store, "ada", RIGHT)
    judge(store, "bob", WRONG)
    export_file(store, tmp_path / "before.jsonl", "items")
    withdraw_person(store, "ada")
    done = import_file(store, tmp_path / "before.jsonl")
    assert "withdrawn: 'ada' has taken all labels back" in {row.reason for row in done.bad}
    assert {judgement.annotator for judgement in store.judgements()} == {"bob"}


def test_delete_leaves_no_trace_of_the_person(store: FeedbackStore) -> None:
    store.update_settings(consent={"text": "t", "withdrawn_labels": "delete"}, panel=PROLIFIC)
    store.add_items([NewItem("rating", "p", ("c",))])
    name = enter_panel(store, LINK).name
    note_reading(store, name, "consent", digest_of("t"))
    judge(store, name, RIGHT)
    withdraw_person(store, name)
    with store._database.read() as connection:
        for table in sa.inspect(connection).get_table_names():
            held = json.dumps([list(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}"))], default=str)
            assert name not in held, table
            assert "5f0c" not in held, table


def test_who_withdrew_cannot_be_switched_on_and_the_only_admin_stays(store: FeedbackStore) -> None:
    store.register(store.invite("admin"), "root", "hash")
    with pytest.raises(ValueError, match="only admin"):
        withdraw_person(store, "root")
    withdraw_person(store, "ada")
    for again in (lambda: withdraw_person(store, "ada"), lambda: store.switch_account("ada", active=True)):
        with pytest.raises(ValueError, match="has withdrawn"):
            again()
    with pytest.raises(ValueError, match="has withdrawn"):
        store.invite_to_reset("ada")


def test_an_item_that_is_no_longer_asked_stays_so(store: FeedbackStore) -> None:
    (item,) = store.add_items([NewItem("rating", "p", ("c",), overlap=3)])
    store.add_annotator("bob")
    judge(store, "ada", RIGHT)
    store.withdraw([item])
    withdraw_person(store, "ada")
    assert store.claim("bob") is None
    assert store.progress().finished == 1
    assert store.ask_again([item], by="root", reason="more are needed") == 1
    assert store.items()[0].overlap == 3
    assert judge(store, "bob", RIGHT) == item


def test_undone_answers_do_not_open_an_item_twice(store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "p", ("c",))])
    judge(store, "ada", RIGHT)
    store.undo("ada")
    withdraw_person(store, "ada")
    store.add_annotator("bob")
    judge(store, "bob", RIGHT)
    assert store.claim("bob") is None
    assert store.progress().finished == 1
