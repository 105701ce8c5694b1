"""What admins change: every change is in the audit, and the counts stay right. On SQLite and on PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.store.browsing import ItemFilter, browse_items, one_item
from rlhf_envs.feedback.store.schema import items, judgements

WHY = {"by": "root", "reason": "a slip"}


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, clock=clock) as store:
        store.update_settings(next_item="age")  # the tests know which item comes next
        store.add_items([NewItem("rating", f"p{i}", ("c",), overlap=2) for i in range(3)])
        for name in ("ann", "bob", "cid"):
            store.add_annotator(name)
        store.add_annotator("root", "admin")
        yield store


def rate(store: FeedbackStore, name: str, rating: int | None) -> int:
    task = store.claim(name)
    assert task is not None
    value = None if rating is None else {"rating": rating}
    return store.submit(task.id, name, value, key=f"{name}-{task.id}", comment="hm").id


def balances(store: FeedbackStore) -> bool:
    """Whether every item needs its overlap less the judgements that stand, as a migration would count it anew."""
    stand = sa.select(sa.func.count()).where(
        judgements.c.item_id == items.c.id, sa.not_(judgements.c.undone), judgements.c.value.is_not(None)
    )
    query = sa.select(items.c.overlap - items.c.needed, stand.correlate(items).scalar_subquery())
    with store._database.read() as connection:
        return all(given == counted for given, counted in connection.execute(query))


def test_a_fixed_judgement_is_read_as_fixed_and_the_audit_has_what_it_was(store: FeedbackStore, clock: Any) -> None:
    judgement = rate(store, "ann", 1)
    clock.forward(60)
    fixed = store.fix_judgement(judgement, {"rating": 5}, **WHY)
    assert store.judgements() == [fixed]
    assert (fixed.id, fixed.value, fixed.comment, fixed.annotator) == (judgement, {"rating": 5}, "hm", "ann")
    [entry] = store.audit()
    assert (entry.actor, entry.action, entry.annotator, entry.reason) == ("root", "fix", "ann", "a slip")
    assert (entry.item_id, entry.judgement_id, entry.created) == (1, judgement, clock())
    assert entry.before == {"value": {"rating": 1}, "comment": "hm"}
    assert entry.after == {"value": {"rating": 5}, "comment": "hm"}
    assert browse_items(store, ItemFilter(text="hm")).total == 1
    store.fix_judgement(judgement, {"rating": 5}, comment="Neu", **WHY)
    assert [browse_items(store, ItemFilter(text=text)).total for text in ("hm", "neu")] == [0, 1]
    assert balances(store)


def test_a_skip_can_become_an_answer_and_an_answer_a_skip(store: FeedbackStore) -> None:
    skip, answer = rate(store, "ann", None), rate(store, "bob", 2)
    store.fix_judgement(skip, {"rating": 3}, **WHY)
    assert one_item(store, 1).needed == 0
    store.fix_judgement(answer, None, **WHY)
    assert one_item(store, 1).needed == 1
    assert balances(store)


def test_what_cannot_be_fixed_changes_nothing(store: FeedbackStore) -> None:
    judgement = rate(store, "ann", 1)
    wrong: list[tuple[str, int, Any, dict[str, str]]] = [
        ("there is no judgement 99", 99, {"rating": 2}, WHY),
        ("must be from 1 to 5, got 9", judgement, {"rating": 9}, WHY),
        ("is {'rating': 1} already", judgement, {"rating": 1}, WHY),
        ("say why", judgement, {"rating": 2}, {"by": "root", "reason": " "}),
        ("say why", judgement, {"rating": 2}, {"by": "root", "reason": "x" * 2001}),
    ]
    for message, which, value, why in wrong:
        with pytest.raises(ValueError, match=message):
            store.fix_judgement(which, value, **why)
    store.undo("ann")
    for change in (
        lambda: store.fix_judgement(judgement, {"rating": 2}, **WHY),
        lambda: store.drop_judgement(judgement, **WHY),
    ):
        with pytest.raises(ValueError, match="taken back"):
            change()
    assert store.audit() == []


@pytest.mark.parametrize("reopen", [True, False])
def test_a_dropped_judgement_leaves_the_counts_and_another_is_asked_if_wished(
    store: FeedbackStore, reopen: bool
) -> None:
    first = rate(store, "ann", 1)
    rate(store, "bob", 2)
    store.drop_judgement(first, reopen=reopen, **WHY)
    assert [judgement.annotator for judgement in store.judgements()] == ["bob"]
    assert (store.progress().judgements, store.count_undone()) == (1, 0)
    assert one_item(store, 1).needed == (1 if reopen else 0)
    assert balances(store)
    task = store.claim("ann")  # who is not asked again
    assert task is not None
    assert task.item.id == 2
    task = store.claim("cid")
    assert task is not None
    assert task.item.id == (1 if reopen else 2)
    assert store.audit()[0].after == {"asked again": reopen}
    store.restore_judgement(first, **WHY)
    assert {judgement.annotator for judgement in store.judgements()} == {"ann", "bob"}
    assert one_item(store, 1).needed == 0
    assert balances(store)
    with pytest.raises(ValueError, match="was not dropped"):
        store.restore_judgement(first, **WHY)
    assert [entry.action for entry in store.audit()] == ["restore", "drop"]


def test_the_dropped_row_outlives_what_its_annotator_does_later(store: FeedbackStore) -> None:
    first = rate(store, "ann", 1)
    store.drop_judgement(first, **WHY)
    for _ in range(3):
        rate(store, "ann", 4)
        store.undo("ann")
    store.restore_judgement(first, **WHY)
    assert first in [judgement.id for judgement in store.judgements()]


def test_withdrawn_items_are_not_asked_until_they_are_asked_again(store: FeedbackStore) -> None:
    rate(store, "ann", 1)
    assert store.withdraw_items([1, 2, 99], **WHY) == 2
    assert store.withdraw_items([1], **WHY) == 0
    assert [row.state for row in browse_items(store, ItemFilter(), sort="oldest").rows] == ["withdrawn"] * 2 + ["open"]
    task = store.claim("bob")
    assert task is not None
    assert task.item.id == 3
    store.drop_judgement(1, **WHY)  # nobody is asked about a withdrawn item
    assert one_item(store, 1).needed == 0
    assert balances(store)
    assert store.ask_again([1, 2, 3], **WHY) == 2
    assert [one_item(store, i).needed for i in (1, 2, 3)] == [2, 2, 2]
    assert balances(store)
    assert [entry.item_id for entry in store.audit() if entry.action == "ask again"] == [2, 1]


@pytest.mark.parametrize("audited", [True, False])
@pytest.mark.parametrize("most", [None, 3])
def test_a_finished_item_can_be_withdrawn_and_no_undo_opens_it(
    store: FeedbackStore, audited: bool, most: int | None
) -> None:
    store.withdraw([1, 2, 3])
    (item,) = store.add_items([NewItem("rating", "finished", ("c",), overlap=2, max_overlap=most)])
    rate(store, "ann", 3)
    rate(store, "bob", 3)
    assert one_item(store, item).state == "finished"
    store.withdraw_items([item], **WHY) if audited else store.withdraw([item])
    assert (one_item(store, item).state, store.withdrawn_items()[item]) == ("withdrawn", 2)
    assert store.undo("bob") is not None
    assert (one_item(store, item).state, one_item(store, item).needed, store.labels_left()) == ("withdrawn", 0, 0)
    assert store.claim("cid") is None  # nobody else is asked in bob's place
    held = store.claim("bob")
    assert held is not None
    assert held.item.id == item
    store.submit(held.id, "bob", {"rating": 4}, key="again")
    assert balances(store)
    store.undo("bob")
    assert store.ask_again([item], **WHY) == 1
    assert (one_item(store, item).state, one_item(store, item).needed) == ("open", 1)
    assert balances(store)


def test_priority_and_overlap_of_a_selection(store: FeedbackStore) -> None:
    rate(store, "ann", 1)
    rate(store, "bob", 1)
    assert store.set_priority([2, 3], 5.5, **WHY) == 2
    assert store.set_priority([2], 5.5, **WHY) == 0
    assert [item.priority for item in store.items()] == [0, 5.5, 5.5]
    assert store.set_overlap([1, 2], 1, **WHY) == 2
    assert [(one_item(store, i).needed, one_item(store, i).item.overlap) for i in (1, 2)] == [(-1, 1), (1, 1)]
    assert store.set_overlap([1], 4, **WHY) == 1
    assert one_item(store, 1).needed == 2
    assert balances(store)
    assert store.audit(item_id=2)[0].before == {"overlap": 2, "needed": 2, "priority": 5.5}
    for change in (
        lambda: store.set_priority([1], float("nan"), **WHY),
        lambda: store.set_overlap([1], 0, **WHY),
        lambda: store.set_overlap([1], 3, by="root", reason=""),
    ):
        with pytest.raises(ValueError, match=r"priority must|overlap must|say why"):
            change()


def test_the_final_answer_replaces_an_earlier_one_and_the_audit_keeps_it(store: FeedbackStore) -> None:
    store.adjudicate(1, {"rating": 2}, by="root", comment="both are wrong")
    final = store.adjudicate(1, {"rating": 3}, by="root")
    assert store.adjudications() == {1: final}
    assert (final.value, final.by) == ({"rating": 3}, "root")
    assert [(entry.before, entry.after) for entry in store.audit()] == [
        ({"rating": 2}, {"rating": 3}),
        (None, {"rating": 2}),
    ]
    assert browse_items(store, ItemFilter(adjudicated=True)).total == 1
    assert browse_items(store, ItemFilter(adjudicated=False)).total == 2
    for message, item, value, by in (
        ("no item 9", 9, {"rating": 1}, "root"),
        ("no annotator 'eve'", 1, {"rating": 1}, "eve"),
        ("must be from 1 to 5", 1, {"rating": 7}, "root"),
    ):
        with pytest.raises(ValueError, match=message):
            store.adjudicate(item, value, by=by)
    store.remove_adjudication(1, **WHY)
    assert store.adjudications() == {}
    with pytest.raises(ValueError, match="has no final answer"):
        store.remove_adjudication(1, **WHY)


def test_roles_and_sessions(store: FeedbackStore) -> None:
    store.register(store.invite("admin"), "ada", "hash")
    tokens = [store.begin_session("ada", "hash") for _ in range(2)]
    assert store.live_sessions() == {"ada": 2}
    store.change_role("root", "annotator")
    with pytest.raises(ValueError, match="'ada' is the only admin"):
        store.change_role("ada", "annotator")
    assert store.end_sessions("ada") == 2
    assert [store.session_annotator(str(token)) for token in tokens] == [None, None]
    with pytest.raises(ValueError, match="unknown role 'boss'"):
        store.change_role("root", "boss")
    store.change_role("root", "admin")
    store.change_role("ada", "annotator")
    assert [person.role for person in store.annotators() if person.name == "ada"] == ["annotator"]
