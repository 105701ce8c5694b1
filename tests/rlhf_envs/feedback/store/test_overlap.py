"""Overlap that adapts: two annotators are asked first, and a third only where they disagree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, LeaseLost, NewItem
from rlhf_envs.feedback.deciding import is_decided, judgements_needed, same_answer
from rlhf_envs.feedback.store.restoring import PastJudgement, restore

A, B, TIE = ({"choice": 0, "strength": 1}, {"choice": 1, "strength": 2}, {"choice": None, "strength": 0})
PAIR = NewItem("pairwise", "p", ("a", "b"))
PEOPLE = ("ann", "bob", "cy", "dee", "eve")


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, clock=clock) as opened:
        opened.update_settings(next_item="age")  # the tests know which item comes next
        for name in PEOPLE:
            opened.add_annotator(name)
        opened.update_settings(overlap="adaptive")
        yield opened


def answer(store: FeedbackStore, name: str, value: dict[str, Any] | None) -> None:
    task = store.claim(name)
    assert task is not None
    store.submit(task.id, name, value, key=f"{name}-{task.id}")


@pytest.mark.parametrize(
    ("kind", "values", "decided"),
    [
        ("pairwise", [A, {"choice": 0, "strength": 3}], True),
        ("pairwise", [A, B], False),
        ("pairwise", [A, TIE], True),
        ("pairwise", [TIE, TIE], False),
        ("pairwise", [A, B, TIE], False),
        ("pairwise", [A, B, B], True),
        ("thumbs", [{"up": True}, {"up": False}], False),
        ("ranking", [{"order": [0, 1, 2]}, {"order": [0, 2, 1]}], False),
        ("flags", [{"harms": ["hate", "privacy"]}, {"harms": ["privacy", "hate"]}], True),
        ("rating", [{"rating": 3}, {"rating": 4}], True),
        ("rating", [{"rating": 2}, {"rating": 4}], False),
        ("rating", [{"rating": 1}, {"rating": 5}, {"rating": 4}], True),
        ("rating", [{"rating": 1}, {"rating": 3}, {"rating": 5}], False),
    ],
)
def test_an_item_is_decided_by_a_lead_or_by_more_than_half(
    kind: str, values: list[dict[str, Any]], decided: bool
) -> None:
    assert is_decided(kind, values) is decided
    assert judgements_needed(kind, values, 2, 9) == int(not decided)
    assert judgements_needed(kind, values, 2, len(values)) == 0


@pytest.mark.parametrize(
    ("scale", "one", "other", "near"),
    [
        ((1, 5), 2, 3, True),
        ((1, 5), 2, 4, False),
        ((0, 100), 10, 35, True),
        ((0, 100), 10, 36, False),
        ((1, 3), 1, 2, False),
    ],
)
def test_ratings_agree_within_a_quarter_of_the_scale(scale: tuple[int, int], one: int, other: int, near: bool) -> None:
    values = [{"rating": one}, {"rating": other}]
    assert same_answer("rating", *values, scale) is near
    assert is_decided("rating", values, scale) is near
    assert judgements_needed("rating", values, 2, 3, scale) == int(not near)


def test_two_who_agree_are_enough_and_a_third_is_asked_where_they_do_not(store: FeedbackStore) -> None:
    agreed, disputed = store.add_items([PAIR, PAIR])
    for name, values in (("ann", (A, A)), ("bob", (A, B))):
        for value in values:
            answer(store, name, value)
    assert store.progress().finished == 1
    task = store.claim("cy")
    assert task is not None
    assert task.item.id == disputed != agreed
    store.submit(task.id, "cy", B, key="third")
    assert store.progress().finished == 2
    assert store.claim("dee") is None


def test_asking_ends_at_the_maximum(store: FeedbackStore) -> None:
    store.update_settings(max_overlap=4)
    store.add_items([PAIR])
    for name, value in zip(PEOPLE, (A, B, TIE, TIE), strict=False):
        answer(store, name, value)
    assert store.progress().finished == 1
    assert store.claim("eve") is None


def test_skips_do_not_count_as_disagreement(store: FeedbackStore) -> None:
    store.add_items([PAIR])
    answer(store, "ann", A)
    answer(store, "bob", None)
    assert store.claim("cy") is not None  # in bob's place
    assert store.claim("dee") is None


def test_undoing_settles_anew_and_the_third_may_still_answer(store: FeedbackStore) -> None:
    store.add_items([PAIR])
    answer(store, "ann", A)
    answer(store, "bob", B)
    third = store.claim("cy")
    assert third is not None
    again = store.undo("bob")
    assert again is not None
    store.submit(again.id, "bob", A, key="changed")  # now they agree
    assert store.progress().finished == 1
    assert store.claim("dee") is None
    store.submit(third.id, "cy", B, key="late")  # whoever holds the item may still answer
    assert store.progress().finished == 1
    taken_back = store.undo("cy")
    assert taken_back is not None
    assert store.progress().finished == 1


def test_undoing_an_agreement_opens_the_item_again(store: FeedbackStore) -> None:
    store.add_items([PAIR])
    answer(store, "ann", A)
    answer(store, "bob", A)
    again = store.undo("ann")
    assert again is not None
    assert store.progress().finished == 0
    store.submit(again.id, "ann", B, key="changed")
    assert store.claim("cy") is not None  # now they disagree


def test_a_lease_that_ran_out_goes_to_another(store: FeedbackStore, clock: Any) -> None:
    store.add_items([PAIR])
    answer(store, "ann", A)
    answer(store, "bob", B)
    third = store.claim("cy")
    assert third is not None
    assert store.claim("dee") is None
    clock.forward(601)
    answer(store, "dee", B)
    with pytest.raises(LeaseLost):
        store.submit(third.id, "cy", A, key="late")


def test_withdrawn_items_stay_finished_after_disagreement(store: FeedbackStore) -> None:
    [disputed] = store.add_items([PAIR])
    answer(store, "ann", A)
    held = store.claim("bob")
    assert held is not None
    store.withdraw([disputed])
    store.submit(held.id, "bob", B, key="late")
    assert store.progress().finished == 1
    assert store.claim("cy") is None
    [item] = store.items()
    assert (item.overlap, item.max_overlap) == (2, 3)  # it counts what was given


def test_restored_judgements_count_by_what_they_say(store: FeedbackStore) -> None:
    agreed, disputed = store.add_items([PAIR, PAIR])
    past = [(item, PastJudgement(name, value)) for item, other in ((agreed, A), (disputed, B)) for name, value in
            (("ann", A), ("bob", other))]  # fmt: skip
    assert restore(store, past, {}) == []
    assert store.progress().finished == 1
    task = store.claim("cy")
    assert task is not None
    assert task.item.id == disputed


def test_an_item_of_its_own_adapts_without_the_setting(store: FeedbackStore) -> None:
    store.update_settings(overlap="fixed")
    fixed, adapts = store.add_items([PAIR, NewItem("pairwise", "p", ("a", "b"), overlap=2, max_overlap=3)])
    assert [(item.overlap, item.max_overlap) for item in store.items([fixed, adapts])] == [(1, None), (2, 3)]


def test_gold_questions_corrections_and_items_that_say_so_stay_fixed(store: FeedbackStore) -> None:
    store.add_items(
        [
            NewItem("pairwise", "p", ("a", "b"), gold=A),
            NewItem("correction", "p", ("a",), overlap=3),
            NewItem("rating", "p", ("a",), overlap=1, max_overlap=1),
            NewItem("rating", "p", ("a",), overlap=5),
        ]
    )
    found = [(item.overlap, item.max_overlap) for item in store.items()]
    assert found == [(1, None), (3, None), (1, 1), (2, 5)]


def test_a_wrong_maximum_is_refused_by_name(store: FeedbackStore) -> None:
    with pytest.raises(ValueError, match=r"items\[0\]: max_overlap must be a whole number from the overlap \(3\) on"):
        store.add_items([NewItem("rating", "p", ("a",), overlap=3, max_overlap=2)])
    with pytest.raises(ValueError, match="overlap must be one of fixed, adaptive, got 'two'"):
        store.update_settings(overlap="two")
    with pytest.raises(ValueError, match="max_overlap must be a whole number from 3 to 1000, got 2"):
        store.update_settings(max_overlap=2)


def test_an_admins_changes_settle_an_item_too(store: FeedbackStore) -> None:
    [item] = store.add_items([PAIR])
    answer(store, "ann", A)
    answer(store, "bob", B)
    second = store.judgements()[-1]
    store.fix_judgement(second.id, A, by="eve", reason="a slip")
    assert store.progress().finished == 1
    store.fix_judgement(second.id, B, by="eve", reason="no slip")
    assert store.progress().finished == 0
    store.drop_judgement(second.id, by="eve", reason="a bot")
    held = store.claim("cy")  # in bob's place
    assert held is not None
    store.release(held.id, "cy")
    store.withdraw_items([item], by="eve", reason="enough")
    assert store.progress().finished == 1
    store.ask_again([item], by="eve", reason="not enough")
    answer(store, "cy", B)
    answer(store, "dee", B)
    assert store.progress().finished == 1
    store.set_overlap([item], 4, by="eve", reason="more")
    assert (store.items([item])[0].overlap, store.items([item])[0].max_overlap) == (4, None)
    answer(store, "eve", B)
    assert store.progress().finished == 1


def test_dropping_without_asking_again_leaves_an_item_finished(store: FeedbackStore) -> None:
    store.add_items([PAIR])
    for name, value in zip(PEOPLE, (A, B, B), strict=False):
        answer(store, name, value)
    dropped = store.judgements()[-1]
    store.drop_judgement(dropped.id, by="eve", reason="a bot", reopen=False)
    assert store.progress().finished == 1
    store.restore_judgement(dropped.id, by="eve", reason="no bot")
    assert store.progress().finished == 1
