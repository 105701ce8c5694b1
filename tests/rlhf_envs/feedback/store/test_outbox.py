"""Events for webhooks: queued with what they tell, leased, tried again, never lost. On both databases."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.settings import EVENTS, Webhooks
from rlhf_envs.feedback.store.outbox import RETRIES
from rlhf_envs.feedback.store.withdrawing import withdraw_person

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, clock=clock) as store:
        store.update_settings(next_item="age")  # the tests know which item comes next
        store.add_items([NewItem("rating", "\ud800", ("c",), overlap=2), NewItem("rating", "p", ("c",))])
        for name in ("ann", "bob"):
            store.add_annotator(name)
        yield store


def rate(store: FeedbackStore, name: str, value: dict[str, Any] | None) -> None:
    task = store.claim(name)
    assert task is not None
    store.submit(task.id, name, value, key=f"{name}-{task.id}", seconds=2.0, comment="hm")
    store.submit(task.id, name, value, key=f"{name}-{task.id}", seconds=2.0, comment="hm")  # tells nothing twice


def test_events_tell_what_happens(store: FeedbackStore, clock: Any) -> None:
    rate(store, "ann", {"rating": 1})  # nobody is told: it is off
    assert store.deliveries() == []
    store.update_settings(webhooks=Webhooks("https://here/hook", secret=SECRET))
    rate(store, "bob", {"rating": 2})
    rate(store, "bob", None)
    rate(store, "ann", {"rating": 5})
    found = store.due_deliveries()
    assert [one.event for one in found] == [
        "judgement.created",
        "item.finished",
        "judgement.created",
        "judgement.created",
        "item.finished",
        "project.finished",
    ]
    data = found[0].payload["data"]
    assert (data["item_id"], data["annotator"], data["value"], data["comment"]) == (1, "bob", {"rating": 2}, "hm")
    assert found[0].payload["timestamp"] == clock().isoformat()
    assert len({one.key for one in found}) == 6
    store.update_settings(webhooks=Webhooks("https://here/hook", ("item.finished",), SECRET))
    store.add_items([NewItem("rating", "more", ("c",))])
    rate(store, "ann", {"rating": 5})
    assert [one.event for one in store.deliveries()][:1] == ["item.finished"]


def told(store: FeedbackStore) -> list[tuple[str, Any]]:
    """What the events since the last call tell: their type, and the item's or the judgement's id."""
    found = store.due_deliveries(1000)
    for one in found:
        store.settle_delivery(one)
    return [(one.event, one.payload["data"].get("id", one.payload["data"].get("item_id"))) for one in found]


def test_a_receiver_can_follow_what_counts(store: FeedbackStore) -> None:
    """Whoever adds what is created and removes what is undone has the judgements of the store at every moment."""
    store.add_annotator("root", "admin")
    store.update_settings(webhooks=Webhooks("https://here/hook", secret=SECRET))
    store.add_items([NewItem("rating", "more", ("c",), overlap=3)])
    counts: dict[int, Any] = {}

    def follow() -> list[str]:
        found = store.due_deliveries(1000)
        for one in found:
            data = one.payload["data"]
            if one.event == "judgement.created":
                counts[data["id"]] = data["value"]
            elif one.event == "judgement.undone":
                assert set(data) == {"id", "item_id", "kind"}
                del counts[data["id"]]
            store.settle_delivery(one)
        assert counts == {j.id: j.value for j in store.judgements(include_skips=True)}
        return [one.event for one in found]

    rate(store, "ann", {"rating": 1})
    rate(store, "bob", {"rating": 2})
    assert follow() == ["judgement.created", "judgement.created", "item.finished"]
    assert store.undo("bob") is not None
    assert follow() == ["judgement.undone"]
    rate(store, "bob", {"rating": 5})  # anew: the item is finished again
    assert follow() == ["judgement.created", "item.finished"]
    rate(store, "ann", None)
    assert store.undo("ann") is not None
    assert follow() == ["judgement.created", "judgement.undone"]
    store.undo("ann")
    assert follow() == ["judgement.undone"]
    last = store.judgements()[-1].id
    store.fix_judgement(last, {"rating": 4}, by="root", reason="a slip")
    assert follow() == ["judgement.created"]
    store.drop_judgement(last, by="root", reason="a bot")
    assert follow() == ["judgement.undone"]
    store.restore_judgement(last, by="root", reason="no bot")
    assert follow() == ["judgement.created"]
    withdraw_person(store, "bob", by="root")
    assert follow() == ["judgement.undone"]
    assert counts == {}


def test_a_project_that_an_admin_ends_is_told_of(store: FeedbackStore) -> None:
    store.add_annotator("root", "admin")
    store.update_settings(webhooks=Webhooks("https://here/hook", secret=SECRET))
    why = {"by": "root", "reason": "enough"}
    rate(store, "ann", {"rating": 1})  # one of two about item 1
    assert told(store) == [("judgement.created", 1)]
    store.set_priority([1, 2], 3.0, **why)
    assert told(store) == []
    store.set_overlap([1, 2], 1, **why)
    assert told(store) == [("item.finished", 1)]
    store.set_overlap([1], 1, **why)
    store.withdraw_items([1], **why)  # it was finished
    assert told(store) == []
    held = store.claim("bob")
    store.withdraw_items([2], **why)
    assert told(store) == [("item.finished", 2), ("project.finished", None)]
    assert held is not None
    store.submit(held.id, "bob", {"rating": 2}, key="late")  # it was finished before, and is told once
    assert told(store) == [("judgement.created", 2)]
    store.ask_again([1, 2], **why)
    assert told(store) == []
    (more,) = store.add_items([NewItem("rating", "more", ("c",))])
    store.withdraw([2, more])
    assert told(store)[-2:] == [("item.finished", more), ("project.finished", None)]


def test_a_withdrawal_that_decides_an_item_finishes_it(store: FeedbackStore) -> None:
    """Two of four agree, which decides nothing; without one of the others they are most."""
    store.withdraw([1, 2])
    store.add_items([NewItem("rating", "p", ("c",), overlap=2, max_overlap=5)])
    store.update_settings(webhooks=Webhooks("https://here/hook", secret=SECRET))
    for name, rating in (("ann", 1), ("bob", 5), ("cid", 3), ("dan", 1)):
        store.add_annotator(name)
        rate(store, name, {"rating": rating})
    assert [event for event, _ in told(store)] == ["judgement.created"] * 4
    withdraw_person(store, "cid")
    assert told(store) == [("judgement.undone", 3), ("item.finished", 3), ("project.finished", None)]


def test_questions_of_the_training_finish_nothing(store: FeedbackStore) -> None:
    meta, gold = {"explanation": "because"}, {"rating": 3}
    (kept,) = store.add_items([NewItem("rating", "gold", ("c",), gold=gold, meta=meta)])
    store.update_settings(training={"n_items": 1}, webhooks=Webhooks("https://here/hook", secret=SECRET))
    store.withdraw([kept])
    assert told(store) == []
    store.withdraw([1, 2])
    assert told(store) == [("item.finished", 1), ("item.finished", 2), ("project.finished", None)]


def test_nothing_is_queued_for_nobody(store: FeedbackStore) -> None:
    rate(store, "ann", {"rating": 1})
    store.undo("ann")
    store.withdraw([1, 2])
    assert store.deliveries() == []


def test_a_webhook_that_named_its_events_gets_no_others(store: FeedbackStore) -> None:
    store.update_settings(webhooks=Webhooks("https://here/hook", ("judgement.created",), SECRET))
    rate(store, "ann", {"rating": 1})
    store.undo("ann")
    store.withdraw([1, 2])
    assert told(store) == [("judgement.created", 1)]


def test_an_event_is_tried_again_later_and_later_and_kept_when_all_fails(store: FeedbackStore, clock: Any) -> None:
    store.update_settings(webhooks=Webhooks("https://here/hook", ("judgement.created",), SECRET))
    rate(store, "ann", {"rating": 1})
    for wait in RETRIES:
        [delivery] = store.due_deliveries()
        assert store.due_deliveries() == []  # it is lent
        store.settle_delivery(delivery, "down")
        clock.forward(wait - 1)
        assert store.due_deliveries() == []
        clock.forward(1)
    [delivery] = store.due_deliveries()
    store.settle_delivery(delivery, "still down")
    assert store.count_deliveries() == {"failed": 1}
    assert store.retry_deliveries() == 1
    [delivery] = store.due_deliveries()
    store.settle_delivery(delivery, "down again")
    assert store.count_deliveries() == {"waiting": 1}, "it has all its tries anew"
    clock.forward(31 * 24 * 3600)
    store.forget_deliveries()
    assert store.count_deliveries() == {"waiting": 1}, "only what was sent is forgotten"
    [delivery] = store.due_deliveries()
    store.settle_delivery(delivery)
    assert store.count_deliveries() == {"sent": 1}
    store.forget_deliveries()
    assert store.count_deliveries() == {}


def test_whoever_dies_with_an_event_in_hand_loses_it_to_another(store: FeedbackStore, clock: Any) -> None:
    store.update_settings(webhooks=Webhooks("https://here/hook", ("judgement.created",), SECRET))
    rate(store, "ann", {"rating": 1})
    assert len(store.due_deliveries(lease=60)) == 1
    clock.forward(61)
    [again] = store.due_deliveries()
    store.settle_delivery(again, "busy", retry_after=100)
    clock.forward(99)
    assert store.due_deliveries() == []
    clock.forward(1)
    assert len(store.due_deliveries()) == 1


def test_two_who_look_at_once_never_take_the_same_event(store: FeedbackStore) -> None:
    store.update_settings(webhooks=Webhooks("https://here/hook", ("judgement.created",), SECRET))
    store.add_items([NewItem("rating", str(i), ("c",)) for i in range(20)])
    for _ in range(20):
        rate(store, "ann", {"rating": 1})
    taken: list[str] = []
    both = threading.Barrier(2)

    def take() -> None:
        both.wait()
        while found := store.due_deliveries(limit=3):
            taken.extend(one.key for one in found)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 20


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"url": "ftp://here/hook", "secret": SECRET}, "http://"),
        ({"url": "file:///etc/passwd", "secret": SECRET}, "http://"),
        ({"url": "https://", "secret": SECRET}, "http://"),
        ({"url": "https://here:99999/", "secret": SECRET}, "http://"),
        ({"url": "https://here/a b", "secret": SECRET}, "http://"),
        ({"url": "https://here/\r\nx: y", "secret": SECRET}, "http://"),
        ({"url": "https://here"}, "secret must be"),
        ({"url": "https://here", "secret": "whsec_short"}, "secret must be"),
        ({"events": ("judgement",)}, "unknown event 'judgement'; there are judgement.created"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Webhooks(**fields)
    assert Webhooks().events == EVENTS
