"""Where the parts of the store meet: training, adaptive overlap, panels, webhooks, withdrawals. On both databases."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore, LeaseLost, NewItem
from rlhf_envs.feedback.deciding import judgements_needed
from rlhf_envs.feedback.settings import NEXT_ITEM, Webhooks
from rlhf_envs.feedback.store import queue as queue_module
from rlhf_envs.feedback.store.panels import end_part, enter_panel
from rlhf_envs.feedback.store.schema import items, settings
from rlhf_envs.feedback.store.steps import next_step, own_progress
from rlhf_envs.feedback.store.training import answer_training, next_training, pool_size
from rlhf_envs.feedback.store.withdrawing import withdraw_person

RIGHT, WRONG = {"rating": 3}, {"rating": 1}
A, B = {"choice": 0, "strength": 1}, {"choice": 1, "strength": 1}
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
WHY = {"by": "root", "reason": "a test"}


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, seed=0, clock=clock) as opened:
        for name in ("ann", "bob", "cid"):
            opened.add_annotator(name)
        opened.add_annotator("root", "admin")
        yield opened


def explained(n: int, overlap: int = 1) -> list[NewItem]:
    meta = {"explanation": "because"}
    return [NewItem("rating", f"gold {i}", ("c",), gold=RIGHT, meta=meta, overlap=overlap) for i in range(n)]


def answer(store: FeedbackStore, name: str, value: dict[str, Any] | None) -> Any:
    task = store.claim(name)
    assert task is not None
    return store.submit(task.id, name, value, key=f"{name}-{task.id}", seconds=2.0)


def needed(store: FeedbackStore, item_id: int) -> int:
    with store._database.read() as connection:
        return int(connection.execute(sa.select(items.c.needed).where(items.c.id == item_id)).scalar_one())


# ---- the training


@pytest.mark.parametrize("policy", NEXT_ITEM)
def test_no_policy_and_no_overlap_asks_items_of_the_training_outside_of_it(store: FeedbackStore, policy: str) -> None:
    store.update_settings(training={"n_items": 1}, next_item=policy, overlap="adaptive")
    gold = store.add_items(explained(2))
    real = store.add_items([NewItem("rating", f"p{i}", ("c",)) for i in range(2)])
    store.set_scores(dict.fromkeys([*gold, *real], 1.0))
    asked = {answer(store, name, RIGHT).item_id for name in ("ann", "bob") for _ in range(2)}
    assert asked == set(real)
    assert store.claim("cid") is None
    assert (store.progress().items, store.progress().finished, store.labels_left()) == (2, 2, 0)
    store.update_settings(training={"n_items": 0})
    assert store.labels_left() == 2
    assert own_progress(store, "ann").left == 2


def test_a_project_is_finished_although_the_training_never_needs_judgements(store: FeedbackStore) -> None:
    store.update_settings(training={"n_items": 1}, webhooks=Webhooks("https://here/hook", secret=SECRET))
    store.add_items([*explained(1), NewItem("rating", "real", ("c",))])
    answer(store, "ann", RIGHT)
    assert [one.event for one in store.deliveries()][::-1] == ["judgement.created", "item.finished", "project.finished"]


def test_gold_questions_that_the_training_does_not_name_are_asked_among_the_others(store: FeedbackStore) -> None:
    named, hidden = store.add_items(explained(2))
    store.update_settings(training={"n_items": 1, "items": [named]})
    assert answer(store, "ann", RIGHT).item_id == hidden
    assert store.claim("ann") is None
    assert (store.progress().items, store.labels_left(), own_progress(store, "bob").left) == (1, 0, 0)


@pytest.mark.parametrize("audited", [False, True])
def test_a_withdrawn_item_leaves_the_training_and_comes_back_to_it(store: FeedbackStore, audited: bool) -> None:
    first, second = store.add_items(explained(2))
    for _ in range(2):  # finished before there was a training
        answer(store, "bob", RIGHT)
    store.update_settings(training={"n_items": 2})
    assert pool_size(store) == 2
    store.withdraw_items([first], **WHY) if audited else store.withdraw([first])
    assert pool_size(store) == 1
    task = next_training(store, "ann")
    assert task is not None
    assert (task.item.id, task.n) == (second, 1)
    assert store.ask_again([first], **WHY) == 1
    assert (pool_size(store), needed(store, first)) == (2, 0)


def test_who_fails_a_training_that_began_at_work_gives_the_item_back(store: FeedbackStore) -> None:
    store.add_items([*explained(1), NewItem("rating", "real", ("c",), priority=1)])
    held = store.claim("ann")
    assert held is not None
    store.update_settings(training={"n_items": 1, "tries": 1})
    task = next_training(store, "ann")
    assert task is not None
    assert answer_training(store, "ann", task.attempt, task.item.id, WRONG).outcome == "failed"
    assert next_step(store, "ann") == "held"
    with pytest.raises(LeaseLost):
        store.submit(held.id, "ann", RIGHT, key="after all")
    with pytest.raises(LeaseLost):
        store.renew(held.id, "ann")
    taken = store.claim("bob")
    assert taken is not None
    assert taken.item.id == held.item.id


# ---- panels


def test_a_part_that_ends_gives_the_item_back(store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "p", ("c",))])
    store.update_settings(panel={"person": "PID", "completion_code": "C"})
    person = enter_panel(store, {"PID": "one"}).name
    held = store.claim(person)
    assert held is not None
    end_part(store, person, "screened out")
    with pytest.raises(LeaseLost):
        store.submit(held.id, person, RIGHT, key="after all")
    assert store.claim("ann") is not None


# ---- what changes under an answer


def test_fixing_an_answer_goes_by_the_questions_that_were_asked(store: FeedbackStore) -> None:
    store.update_settings(harms=("hate", "privacy"))
    store.add_items([NewItem("flags", "p", ("c",))])
    given = answer(store, "ann", {"harms": ["hate"]})
    store.update_settings(harms=("violence",))
    fixed = store.fix_judgement(given.id, {"harms": ["privacy"]}, **WHY)
    assert (fixed.value, fixed.version) == ({"harms": ["privacy"]}, 1)
    with pytest.raises(ValueError, match="violence"):
        store.fix_judgement(given.id, {"harms": ["violence"]}, **WHY)


@pytest.mark.parametrize("labels", ["keep", "delete"])
def test_events_of_who_withdraws_are_not_sent_any_more(store: FeedbackStore, labels: str) -> None:
    store.update_settings(consent={"text": "", "withdrawn_labels": labels})
    store.update_settings(webhooks=Webhooks("https://here/hook", ("judgement.created",), SECRET))
    store.add_items([NewItem("rating", f"p{i}", ("c",)) for i in range(3)])
    for name in ("ann", "bob", "ann"):
        answer(store, name, RIGHT)
    first = store.due_deliveries(1)
    store.settle_delivery(first[0])
    withdraw_person(store, "ann")
    left = [(one.payload["data"]["annotator"], one.state) for one in store.deliveries()][::-1]
    assert left == ([] if labels == "delete" else [("ann", "sent")]) + [("bob", "waiting")]


def test_rows_of_the_stores_own_notes_are_no_settings(store: FeedbackStore) -> None:
    with store._database.write() as connection:
        connection.execute(sa.insert(settings).values(name="_a_note_of_tomorrow", value=1))
    assert store.settings.scale == (1, 5)


# ---- adaptive overlap


def test_undo_and_an_answer_at_the_same_moment_settle_an_item_once(
    store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.update_settings(overlap="adaptive", max_overlap=3)
    (item,) = store.add_items([NewItem("pairwise", "p", ("a", "b"))])
    answer(store, "ann", A)
    answer(store, "bob", B)
    third = store.claim("cid")
    assert third is not None
    undoing, goes_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> int:
        if threading.current_thread().name == "undo":
            undoing.set()
            assert goes_on.wait(20)
        return judgements_needed(*given)

    monkeypatch.setattr(queue_module, "judgements_needed", slow)
    undo = threading.Thread(target=store.undo, args=("bob",), name="undo")
    submit = threading.Thread(target=store.submit, args=(third.id, "cid", A), kwargs={"key": "cid"})
    undo.start()
    assert undoing.wait(20)
    submit.start()  # bob's answer is being taken back, and cid agrees with ann: nobody else is needed
    submit.join(1.0)
    goes_on.set()
    undo.join(20)
    submit.join(20)
    assert [judgement.annotator for judgement in store.judgements()] == ["ann", "cid"]
    assert needed(store, item) == 0
