"""Which of equally urgent items is asked next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem


@pytest.fixture
def store(store_url: str) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, seed=1) as opened:
        opened.update_settings(next_item="age")
        opened.add_annotator("ann")
        opened.add_items([NewItem("rating", str(place), ("c",), priority=float(place == 7)) for place in range(8)])
        yield opened


def order(store: FeedbackStore) -> list[int]:
    return [int(item.prompt) for item in store.queue()]


def asked(store: FeedbackStore, n: int) -> list[int]:
    found = []
    for _ in range(n):
        task = store.claim("ann")
        assert task is not None
        found.append(int(task.item.prompt))
        store.submit(task.id, "ann", {"rating": 3}, key=f"key {task.id}")
    return found


def test_the_oldest_is_asked_first_unless_something_is_urgent(store: FeedbackStore) -> None:
    assert order(store) == [7, 0, 1, 2, 3, 4, 5, 6]
    assert asked(store, 3) == [7, 0, 1]


def test_a_random_order_covers_items_old_and_new_and_ends_with_the_setting(store: FeedbackStore) -> None:
    store.update_settings(next_item="random")
    drawn = order(store)
    assert drawn[0] == 7  # what is urgent comes first all the same
    assert sorted(drawn) == list(range(8))
    assert drawn[1:] != list(range(7))
    store.add_items([NewItem("rating", str(place), ("c",)) for place in range(8, 40)])
    mixed = order(store)[1:]
    assert [place for place in mixed if place < 8] == drawn[1:]
    assert min(mixed.index(place) for place in range(8, 40)) < 7  # the new ones do not queue at the end
    store.update_settings(next_item="age")
    assert order(store) == [7, *range(7), *range(8, 40)]


def test_the_drawn_order_is_one_for_all_annotators_and_outlives_restarts(store_url: str) -> None:
    n, overlap = 12, 3
    with FeedbackStore(store_url) as store:
        store.add_items([NewItem("rating", str(place), ("c",), overlap=overlap) for place in range(n)])
        drawn = [item.id for item in store.queue()]
        for name in ("ann", "bob", "cid", "dan"):
            store.add_annotator(name)
    assert drawn != list(range(1, n + 1))  # by chance once in 479 million runs
    seen: dict[str, list[int]] = {"ann": [], "bob": [], "cid": [], "dan": []}
    for turn in range(n // 2):
        with FeedbackStore(store_url, seed=turn) as store:
            assert [item.id for item in store.queue()] == [i for i in drawn if _votes(store, i) < overlap]
            for name in ("ann", "bob", "cid"):
                task = store.claim(name)
                assert task is not None
                seen[name].append(task.item.id)
                store.submit(task.id, name, {"rating": 3}, key=f"{name}-{task.id}")
    assert seen["ann"] == seen["bob"] == seen["cid"] == drawn[: n // 2]  # so each item has its three before the next
    with FeedbackStore(store_url) as store:
        task = store.claim("dan")
        assert task is not None
        assert task.item.id == drawn[n // 2]


def _votes(store: FeedbackStore, item_id: int) -> int:
    return len(store.judgements(item_ids=[item_id]))


def test_scores_decide_and_items_without_come_last(store: FeedbackStore) -> None:
    store.update_settings(next_item="uncertainty")
    assert store.set_scores({3: 0.5, 5: 0.9}) == 2
    assert order(store)[:3] == [7, 4, 2]  # prompt "4" is item 5
    assert asked(store, 3) == [7, 4, 2]
    store.set_scores({1: 0.0})
    assert order(store)[0] == 0
    store.update_settings(next_item="gain")  # another policy begins anew
    assert store.set_scores({}) == 0


def test_a_score_that_is_none_is_refused(store: FeedbackStore) -> None:
    for score in (-0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="the score of item 3 must be a number of at least 0"):
            store.set_scores({3: score})
    with pytest.raises(ValueError, match=r"no items with the ids \[99\]"):
        store.set_scores({99: 1.0})
    with pytest.raises(ValueError, match="next_item must be one of age, random, uncertainty, disagreement, gain"):
        store.update_settings(next_item="oldest")


def test_the_queue_is_read_from_its_index(store: FeedbackStore) -> None:
    """A claim must not sort the queue: at 10,000 items that is what would make it slow."""
    if store._database.is_sqlite:
        with store._database.read() as connection:
            plan = connection.exec_driver_sql(
                "EXPLAIN QUERY PLAN SELECT id FROM items WHERE items.needed > 0 "
                "ORDER BY priority DESC, score DESC, id LIMIT 1"
            ).all()
        assert "items_in_queue" in str(plan)
        assert "TEMP B-TREE" not in str(plan)
