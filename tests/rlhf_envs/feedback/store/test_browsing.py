"""Pages of items and judgements: filters, search, order and keys, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.store.browsing import (
    ITEM_SORTS,
    ItemFilter,
    JudgementFilter,
    browse_items,
    browse_judgements,
    facets,
    matching_ids,
    one_item,
)

ANSWERS: dict[str, list[dict[str, Any] | None]] = {  # by annotator, of items 1 to 4
    "ann": [{"choice": 0, "strength": 3}, {"rating": 1}, {"up": True}, None],
    "bob": [{"choice": 0, "strength": 1}, {"rating": 5}, {"up": True}, {"text": "Éclair, bitte"}],
    "cid": [{"choice": 1, "strength": 1}, {"rating": 1}, {"up": True}],
}


def give(store: FeedbackStore, name: str, item_id: int, value: dict[str, Any] | None, comment: str = "") -> int:
    """Answer an item, which must be the next one of this annotator."""
    task = store.claim(name)
    assert task is not None
    assert task.item.id == item_id
    key = f"{name}-{item_id}-{task.id}"
    return store.submit(task.id, name, value, key=key, seconds=2.0, comment=comment).id


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, clock=clock) as store:
        store.update_settings(next_item="age")  # the tests know which item comes next
        store.add_items(
            [
                NewItem("pairwise", "Wie heißt STRASSE\0?", ("a % b", "c_d"), source="x", policy="old", overlap=3),
                NewItem("rating", "\ud800 你好世界", ("c",), source="y", overlap=3),
                NewItem("thumbs", 'say "x"\nnothing', ("c",), source="x", overlap=3, gold={"up": True}),
                NewItem("correction", "p", ("c",), policy="new", overlap=3, priority=-1),
                NewItem("rating", "last", ("c",), source="\u00e9\ud800", priority=-2),
            ]
        )
        for name, values in ANSWERS.items():
            store.add_annotator(name)
            for item_id, value in enumerate(values, start=1):
                give(store, name, item_id, value, "Is this FINE?" if (name, item_id) == ("bob", 2) else "")
        yield store


def found(store: FeedbackStore, **wanted: Any) -> list[int]:
    filter = ItemFilter(**wanted)
    page = browse_items(store, filter, sort="oldest")
    ids = [row.item.id for row in page.rows]
    assert page.total == len(ids)
    assert matching_ids(store, filter) == ids
    return ids


# A list, not parameters: a store a filter would take longer than the filters.
ITEM_FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [1, 2, 3, 4, 5]),
    ({"kind": "rating"}, [2, 5]),
    ({"source": "x"}, [1, 3]),
    ({"source": ""}, [4]),
    ({"source": "\u00e9\ud800"}, [5]),
    ({"policy": "new"}, [4]),
    ({"state": "finished"}, [1, 2, 3]),
    ({"state": "open"}, [4, 5]),
    ({"state": "unjudged"}, [5]),
    ({"annotator": "cid"}, [1, 2, 3]),
    ({"annotator": "nobody\0\ud800"}, []),
    ({"differing": True}, [1, 2]),
    ({"commented": True}, [2]),
    ({"skipped": True}, [4]),
    ({"gold": True}, [3]),
    ({"gold": False, "kind": "thumbs"}, []),
    ({"source": "x", "differing": True, "annotator": "ann"}, [1]),
    ({"text": "strasse"}, [1]),  # the sharp s folds to ss
    ({"text": "straße wie"}, [1]),
    ({"text": '"straße wie"'}, []),
    ({"text": "界"}, [2]),
    ({"text": "%"}, [1]),
    ({"text": "_"}, [1]),
    ({"text": "nothing"}, [3]),
    ({"text": "\\nothing"}, []),
    ({"text": "fine"}, [2]),  # a comment
    ({"text": "éCLAIR p"}, [4]),  # a correction, and the prompt
    ({"text": "rating"}, []),  # a name of a field is no text
    ({"text": "  "}, [1, 2, 3, 4, 5]),
]


def test_filters_and_search(store: FeedbackStore) -> None:
    for wanted, ids in ITEM_FILTERS:
        assert found(store, **wanted) == ids, wanted


def test_rows_tell_what_became_of_the_items(store: FeedbackStore) -> None:
    rows = {row.item.id: row for row in browse_items(store, ItemFilter()).rows}
    assert [(rows[i].answers, rows[i].skips, rows[i].comments) for i in (1, 2, 4, 5)] == [
        (3, 0, 0),
        (3, 0, 1),
        (1, 1, 0),
        (0, 0, 0),
    ]
    assert [rows[i].disagreement for i in (1, 2, 3, 4, 5)] == [pytest.approx(2 / 3)] * 2 + [0, None, None]
    assert rows[1].item == store.items([1])[0]
    assert [row.state for row in rows.values()] == ["open", "open", "finished", "finished", "finished"]
    store.withdraw([5])
    assert one_item(store, 5).state == "withdrawn"
    with pytest.raises(ValueError, match="no item 77"):
        one_item(store, 77)


def test_pages_by_key_hold_every_row_once_and_lead_back(store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", f"more {i}", ("c",), priority=float(i % 3)) for i in range(20)])
    for sort in ITEM_SORTS:
        check_pages(store, sort)


def check_pages(store: FeedbackStore, sort: str) -> None:
    whole = [row.item.id for row in browse_items(store, ItemFilter(), sort=sort).rows]
    pages, after = [], None
    while True:
        page = browse_items(store, ItemFilter(), sort=sort, after=after, limit=4)
        assert page.total == 25
        pages.append(page)
        after = page.after
        if after is None:
            break
    assert [row.item.id for page in pages for row in page.rows] == whole
    assert pages[0].before is None
    for page, following in itertools.pairwise(pages):
        back = browse_items(store, ItemFilter(), sort=sort, before=following.before, limit=4)
        assert [row.item.id for row in back.rows] == [row.item.id for row in page.rows]
        assert back.after is not None


def test_orders_begin_with_the_highest(store: FeedbackStore) -> None:
    def first(sort: str) -> int:
        return int(browse_items(store, ItemFilter(), sort=sort).rows[0].item.id)

    store.set_priority([3], 9, by="ann", reason="soon")
    assert [first(sort) for sort in ("newest", "oldest", "priority")] == [5, 1, 3]
    assert first("disagreement") == 2  # as much as item 1, and newer
    assert first("answers") == 3


def test_a_row_that_comes_in_moves_no_page(store: FeedbackStore) -> None:
    page = browse_items(store, ItemFilter(), limit=2)
    store.add_items([NewItem("rating", "new", ("c",))])
    after = browse_items(store, ItemFilter(), after=page.after, limit=2)
    assert [row.item.id for row in after.rows] == [3, 2]


def test_a_key_that_is_none_is_refused(store: FeedbackStore) -> None:
    for key in ("", "x", "1:", "nan:1", "1.0:x", "1.0:99999999999999999999999"):
        with pytest.raises(ValueError, match="is no key of a page"):
            browse_items(store, ItemFilter(), after=key)


JUDGEMENT_FILTERS: list[tuple[dict[str, Any], int]] = [
    ({}, 11),
    ({"annotator": "bob"}, 4),
    ({"kind": "rating"}, 3),
    ({"commented": True}, 1),
    ({"text": "fine"}, 1),
    ({"text": "ÉCLAIR"}, 1),
    ({"state": "standing"}, 10),
    ({"state": "skip"}, 1),
    ({"item_id": 2}, 3),
]


def test_judgements_by_filter(store: FeedbackStore) -> None:
    for wanted, n in JUDGEMENT_FILTERS:
        page = browse_judgements(store, JudgementFilter(**wanted))
        assert (len(page.rows), page.total) == (n, n), wanted
        ids = [row.judgement.id for row in page.rows]
        assert ids == sorted(ids, reverse=True)
        half = browse_judgements(store, JudgementFilter(**wanted), limit=(n + 1) // 2)
        rest = browse_judgements(store, JudgementFilter(**wanted), after=half.after) if n > 1 else None
        assert [row.judgement.id for part in (half, rest) if part for row in part.rows] == ids


def test_judgements_that_were_taken_back_are_shown_with_their_state(store: FeedbackStore) -> None:
    store.undo("cid")
    dropped = browse_judgements(store, JudgementFilter(annotator="ann", item_id=1)).rows[0].judgement.id
    store.drop_judgement(dropped, by="root", reason="asleep")
    fixed = browse_judgements(store, JudgementFilter(annotator="ann", item_id=2)).rows[0].judgement.id
    store.fix_judgement(fixed, {"rating": 2}, by="root", reason="a slip")
    rows = browse_judgements(store, JudgementFilter()).rows
    states = {(row.judgement.annotator, row.judgement.item_id): row.state for row in rows}
    assert states["cid", 3] == "taken back"
    assert states["ann", 1] == "dropped"
    assert states["ann", 2] == "fixed"
    assert states["bob", 1] == "stands"
    for state, n in (("taken back", 1), ("dropped", 1), ("fixed", 1)):
        assert browse_judgements(store, JudgementFilter(state=state)).total == n
    assert found(store, changed=True) == [1, 2]


def test_unknown_states_and_orders_are_refused(store: FeedbackStore) -> None:
    with pytest.raises(ValueError, match="unknown state 'lost': choose open"):
        browse_items(store, ItemFilter(state="lost"))
    with pytest.raises(ValueError, match="unknown order 'best': choose newest"):
        browse_items(store, ItemFilter(), sort="best")
    with pytest.raises(ValueError, match="unknown state 'lost': choose standing"):
        browse_judgements(store, JudgementFilter(state="lost"))


def test_facets_are_what_occurs(store: FeedbackStore) -> None:
    assert facets(store) == {
        "kind": ["correction", "pairwise", "rating", "thumbs"],
        "source": ["", "x", "y", "\u00e9\ud800"],
        "policy": ["", "new", "old"],
    }
