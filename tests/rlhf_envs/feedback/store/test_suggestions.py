"""Suggestions of models: kept apart from people's answers, shown after them, and compared with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, Judgement, NewItem

A, B = {"choice": 0, "strength": 1}, {"choice": 1, "strength": 1}


@pytest.fixture
def store(store_url: str) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url) as opened:
        opened.update_settings(next_item="age")  # the tests know which item comes next
        opened.add_annotator("ann")
        opened.add_items([NewItem("pairwise", "p", ("a", "b")) for _ in range(2)])
        yield opened


def answer(store: FeedbackStore, value: dict[str, Any] | None, key: str) -> Judgement:
    task = store.claim("ann")
    assert task is not None
    return store.submit(task.id, "ann", value, key=key)


def test_the_newest_suggestion_is_shown_after_an_answer_if_the_setting_says_so(store: FeedbackStore) -> None:
    assert store.suggest({1: A, 2: A}, source="judge", version="1") == 2
    first = answer(store, B, "first")
    assert store.suggestion_after(first) is None  # off
    store.update_settings(suggestions="after")
    store.suggest({1: B}, source="judge", version="2")
    shown = store.suggestion_after(first)
    assert shown is not None
    assert (shown.source, shown.version, shown.value) == ("judge", "2", B)
    skipped = answer(store, None, "skipped")
    assert store.suggestion_after(skipped) is None


def test_the_same_version_again_takes_the_place_of_its_answer(store: FeedbackStore) -> None:
    store.suggest({1: A}, source="judge", version="1")
    store.suggest({1: B}, source="judge", version="1")
    store.suggest({1: A}, source="another", version="1")
    assert [(s.source, s.value) for s in store.suggestions(1)] == [("judge", B), ("another", A)]


def test_an_answer_that_was_changed_after_a_suggestion_is_compared_as_it_was(store: FeedbackStore) -> None:
    store.update_settings(suggestions="after")
    store.suggest({1: A}, source="judge", version="1")
    answer(store, B, "own")
    for key in ("changed", "again", "and again"):
        assert store.undo("ann") is not None
        answer(store, A, key)
    assert [j.value for j in store.judgements()] == [A]
    assert [(j.key, j.value) for j in store.unswayed_judgements()] == [("own", B)]


def test_an_answer_that_was_changed_without_a_suggestion_is_the_persons_own(store: FeedbackStore) -> None:
    store.suggest({1: A}, source="judge", version="1")  # the setting is "off": nobody saw it
    answer(store, B, "first")
    store.undo("ann")
    answer(store, A, "second")
    assert [j.key for j in store.unswayed_judgements()] == ["second"]


def test_a_suggestion_must_be_an_answer(store: FeedbackStore) -> None:
    with pytest.raises(ValueError, match="is not an answer of kind 'pairwise'"):
        store.suggest({1: A, 2: {"rating": 3}}, source="judge")
    with pytest.raises(ValueError, match="item 1: a suggestion must be an answer, got None"):
        store.suggest({1: None}, source="judge")  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"no items with the ids \[9\]"):
        store.suggest({9: A}, source="judge")
    with pytest.raises(ValueError, match="source must have 1 to 200 characters"):
        store.suggest({1: A}, source="")
    assert store.suggestions() == []
