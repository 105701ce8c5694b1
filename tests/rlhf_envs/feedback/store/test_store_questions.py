"""A project's own questions in the store, on SQLite and on PostgreSQL: answers, versions, migration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import Assignment, FeedbackStore, NewItem, Question
from rlhf_envs.feedback.store.schema import training_answers, versions
from rlhf_envs.feedback.store.training import answer_training

HELPFUL = Question("helpful", "How helpful?", "rating", scale=(1, 7), each=True)
TONE = Question("tone", "Tone?", "labels", labels=("kind", "cold"), required=False)
PAIR = NewItem("pairwise", "p", ("good", "bad"), overlap=9)
ANSWERS = {"helpful": [7, 1]}


@pytest.fixture
def store(store_url: str) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url) as opened:
        opened.update_settings(next_item="age")  # the tests know which item comes next
        for name in ("ann", "bob", "cleo"):
            opened.add_annotator(name)
        opened.update_settings(questions=(HELPFUL, TONE))
        opened.add_items([PAIR])
        yield opened


def claimed(store: FeedbackStore, annotator: str) -> Assignment:
    task = store.claim(annotator)
    assert task is not None
    return task


def submit(store: FeedbackStore, name: str, **given: Any) -> Any:
    task = claimed(store, name)
    return store.submit(task.id, name, given.pop("value", {"choice": 0}), key=f"{name}{task.id}", **given)


def test_answers_come_back_with_the_version_that_asked(store: FeedbackStore, store_url: str) -> None:
    given = submit(store, "ann", answers={"tone": "cold", **ANSWERS})
    assert (given.answers, given.version) == ({"helpful": [7, 1], "tone": "cold"}, 1)
    with FeedbackStore(store_url) as again:
        assert again.judgements() == [given]


def test_what_a_question_does_not_take_is_refused_and_the_item_stays_lent(store: FeedbackStore) -> None:
    task = claimed(store, "ann")
    wrong: list[tuple[dict[str, Any] | None, str]] = [
        (None, r"question 'helpful' needs an answer \('How helpful\?'\)"),
        ({"helpful": [8, 1]}, r"question 'helpful': a rating must be a whole number from 1 to 7, got 8"),
        ({"helpfull": [1, 1]}, r"no question 'helpfull' is asked.*did you mean 'helpful'\?"),
        ({**ANSWERS, "tone": "warm"}, r"question 'tone': unknown label 'warm'; there are kind, cold"),
    ]
    for answers, words in wrong:
        with pytest.raises(ValueError, match=words):
            store.submit(task.id, "ann", {"choice": 0}, key="k", answers=answers)
    with pytest.raises(ValueError, match="a skip has no answers"):
        store.submit(task.id, "ann", None, key="k", answers=ANSWERS)
    with pytest.raises(ValueError, match="there is no version 7 of what is asked; there are 1"):
        store.submit(task.id, "ann", {"choice": 0}, key="k", answers=ANSWERS, version=7)
    assert claimed(store, "ann").id == task.id
    assert store.submit(task.id, "ann", None, key="k").answers == {}


def test_before_anybody_was_asked_a_change_is_no_new_version(store: FeedbackStore) -> None:
    store.update_settings(questions=())
    assert list(store.versions()) == [1] and store.versions()[1].questions == ()


NARROW = Question("helpful", "How helpful?", "rating", scale=(1, 3), each=True)


def test_an_answer_of_the_training_keeps_the_version_that_asked(store: FeedbackStore) -> None:
    gold = {"choice": 0, "strength": 1, "answers": {"helpful": [7, 1]}}
    (item,) = store.add_items([replace(PAIR, gold=gold, meta={"explanation": "because"})])
    store.update_settings(training={"n_items": 1, "tries": 9, "pass_mark": 1})
    answer_training(store, "ann", 1, item, {"choice": 0}, answers={"helpful": [7, 2]})
    store.update_settings(questions=(NARROW,))
    assert {number: asked.questions for number, asked in store.versions().items()} == {1: (HELPFUL, TONE), 2: (NARROW,)}
    later: list[tuple[list[int], int | None]] = [([7, 2], 1), ([3, 1], None)]
    for attempt, (given, version) in enumerate(later, start=2):
        done = answer_training(store, "ann", attempt, item, {"choice": 0}, answers={"helpful": given}, version=version)
        # In its former meaning the question expects [7, 1]; as it is asked now that is no answer, so nothing is.
        assert done.is_right == (version is None)
    with store._database.read() as connection:
        kept = sa.select(training_answers.c.version).order_by(training_answers.c.id)
        assert connection.execute(kept).scalars().all() == [1, 1, 2]


def test_a_final_answer_keeps_the_version_that_asked_and_the_audit_what_it_replaced(store: FeedbackStore) -> None:
    store.adjudicate(1, {"choice": 0}, by="ann", answers=ANSWERS)
    store.update_settings(questions=(NARROW,))
    assert {number: asked.questions for number, asked in store.versions().items()} == {1: (HELPFUL, TONE), 2: (NARROW,)}
    assert store.adjudications()[1].version == 1
    with pytest.raises(ValueError, match="from 1 to 3, got 7"):
        store.adjudicate(1, {"choice": 0}, by="bob", answers={"helpful": [7, 2]})
    for given, version in (([7, 2], 1), ([3, 1], 2)):
        final = store.adjudicate(1, {"choice": 0}, by="bob", answers={"helpful": given}, version=version)
        assert store.adjudications() == {1: final}
        assert (final.answers, final.version) == ({"helpful": given}, version)
    before = [entry.before and entry.before["answers"] for entry in store.audit()]
    assert before == [{"helpful": [7, 2]}, ANSWERS, None]


def test_a_final_answer_to_own_questions_only_is_not_empty(store: FeedbackStore) -> None:
    (item,) = store.add_items([NewItem("questions", "p", ("a", "b"))])
    store.update_settings(questions=(TONE,))
    for empty in (None, {}):
        with pytest.raises(ValueError, match="answers: an item of kind 'questions' asks nothing but the project's own"):
            store.adjudicate(item, {}, by="ann", answers=empty)
    assert store.adjudicate(item, {}, by="ann", answers={"tone": "cold"}).answers == {"tone": "cold"}


def test_a_change_half_way_is_a_new_version_and_the_old_one_is_kept(store: FeedbackStore) -> None:
    seen = claimed(store, "bob")  # who has the page of version 1 open
    submit(store, "ann", answers=ANSWERS)
    new = Question("helpful", "How helpful?", "rating", scale=(1, 3), each=True)
    store.update_settings(questions=(new,))
    store.update_settings(guidelines="Be kind.")
    assert {number: asked.questions for number, asked in store.versions().items()} == {1: (HELPFUL, TONE), 2: (new,)}
    assert store.asked() == (2, store.settings)
    old = store.submit(seen.id, "bob", {"choice": 1}, key="b", answers={"helpful": [7, 7]}, version=1)
    assert (old.answers, old.version) == ({"helpful": [7, 7]}, 1)
    task = claimed(store, "cleo")
    with pytest.raises(ValueError, match="from 1 to 3, got 7"):
        store.submit(task.id, "cleo", {"choice": 1}, key="c", answers={"helpful": [7, 7]})
    now = store.submit(task.id, "cleo", {"choice": 1}, key="c", answers={"helpful": [3, 3]})
    assert now.version == 2


def test_an_answer_to_an_old_version_is_checked_by_its_scale_and_harms(store: FeedbackStore) -> None:
    store.withdraw([1])
    store.add_items([NewItem("flags", "p", ("c",), overlap=2)])
    store.update_settings(questions=())
    task = claimed(store, "ann")
    store.update_settings(harms=("spam",))
    with pytest.raises(ValueError, match="unknown categories hate; there are spam"):
        store.submit(task.id, "ann", {"harms": ["hate"]}, key="k")
    assert store.submit(task.id, "ann", {"harms": ["hate"]}, key="k", version=1).version == 1


def test_undo_lends_the_item_again_and_asks_the_present_questions(store: FeedbackStore) -> None:
    submit(store, "ann", answers=ANSWERS)
    store.update_settings(questions=())
    assert store.undo("ann") is not None
    given = submit(store, "ann")
    assert (given.answers, given.version) == ({}, 2)


def test_items_that_only_ask_the_projects_questions(store: FeedbackStore) -> None:
    store.withdraw([1])
    [item] = store.add_items([NewItem("questions", "p", ("a", "b", "c"))])
    given = submit(store, "ann", value={}, answers={"helpful": [1, 2, 3]})
    assert (given.item_id, given.kind, given.value, given.answers) == (item, "questions", {}, {"helpful": [1, 2, 3]})
    assert store.progress().finished == 2
    with pytest.raises(ValueError, match="at least 1 completion, got 0"):
        store.add_items([NewItem("questions", "p", ())])
    with pytest.raises(ValueError, match="has no question of its own whose answer is known"):
        store.add_items([NewItem("questions", "p", ("a",), gold={})])
    store.update_settings(questions=(Question("only", "Which?", "choice"),))
    with pytest.raises(ValueError, match="there are none for it: rlhf feedback settings study"):
        store.add_items([NewItem("questions", "p", ("a",))])


def test_judgements_of_an_older_store_belong_to_version_1(
    new_store_url: str, database_of_revision: Callable[[str], sa.Engine]
) -> None:
    engine = database_of_revision("0003")
    with engine.begin() as connection:
        for line in (
            "INSERT INTO annotators (id, name, role, created) VALUES (1, 'ann', 'annotator', '2026-01-01 00:00:00')",
            "INSERT INTO items (id, kind, prompt, completions, source, policy, meta, overlap, priority, created) "
            "VALUES (1, 'thumbs', '\"p\"', '[\"c\"]', '\"\"', '\"\"', '{}', 1, 0, '2026-01-01 00:00:00')",
            "INSERT INTO tasks (id, item_id, annotator_id, sides, expires, state) VALUES "
            "(1, 1, 1, '[0]', '2026-01-01 00:00:00', 'done')",
            "INSERT INTO judgements (id, task_id, item_id, annotator_id, value, seconds, comment, key, created, undone)"
            " VALUES (1, 1, 1, 1, '{\"up\": true}', 1, '\"\"', 'k', '2026-01-01 00:00:00', false)",
        ):
            connection.execute(sa.text(line.replace(":", "\\:")))
    engine.dispose()
    with FeedbackStore(new_store_url) as store:
        [judgement] = store.judgements()
        assert (judgement.value, judgement.answers, judgement.version) == ({"up": True}, {}, 1)
        store.update_settings(questions=(TONE,))
        assert {number: asked.questions for number, asked in store.versions().items()} == {1: (), 2: (TONE,)}
        with store._database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(versions)).scalar_one() == 2
