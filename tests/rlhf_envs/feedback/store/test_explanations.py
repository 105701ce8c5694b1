"""Explanations of a reward model: who could look at one, who did, and how far people agree with the model then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, Judgement, LeaseLost, NewItem
from rlhf_envs.feedback.explaining import compare_explanations, is_drawn
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.records import Explained

A, B = {"choice": 0, "strength": 1}, {"choice": 1, "strength": 1}
TEXTS = ("good film", "bad film")
SHOWN = Explained((1.5, -1.0), (((0, 4, 1.25),), ((0, 3, -0.75),)), A)
WITHHELD = Explained((1.5, -1.0), None, A)


@pytest.fixture
def store(store_url: str) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, seed=0) as opened:
        opened.update_settings(next_item="age")  # the tests know which item comes next
        opened.add_annotator("ann")
        opened.add_items([NewItem("pairwise", f"p{k}", TEXTS) for k in range(4)])
        yield opened


def look_and_answer(store: FeedbackStore, value: dict[str, Any], *, looks: bool, key: str) -> Judgement:
    """Take a task as the page does, perhaps look at the explanation, and answer."""
    task = store.claim("ann")
    assert task is not None
    store.offer_explanation(task.id)
    if looks:
        assert store.open_explanation(task.id, "ann") is not None
    return store.submit(task.id, "ann", value, key=key)


def test_an_answer_keeps_what_could_be_seen_before_it(store: FeedbackStore) -> None:
    store.explain({1: SHOWN, 2: SHOWN, 3: WITHHELD}, source="reward", version="1", method="leave_one_out")
    assert look_and_answer(store, A, looks=False, key="off").explained == "", "nobody is shown anything"
    store.update_settings(explanations="before")
    assert look_and_answer(store, A, looks=True, key="seen").explained == "seen"
    task = store.claim("ann")
    assert task is not None and store.offer_explanation(task.id) is False
    assert store.open_explanation(task.id, "ann") is None
    assert store.submit(task.id, "ann", B, key="withheld").explained == "withheld"
    assert look_and_answer(store, B, looks=False, key="none").explained == ""
    store.explain({4: SHOWN}, source="reward", version="1")
    assert store.undo("ann") is not None
    assert look_and_answer(store, B, looks=False, key="offered").explained == "offered"


def test_who_has_seen_it_is_marked_also_after_a_release_and_a_change_of_the_setting(store: FeedbackStore) -> None:
    store.explain({1: SHOWN}, source="reward")
    store.update_settings(explanations="before")
    task = store.claim("ann")
    assert task is not None
    opened = store.open_explanation(task.id, "ann")
    assert opened is not None and opened.explanation.marks == SHOWN.marks
    assert (opened.completions, opened.sides) == (TEXTS, task.sides)
    store.release(task.id, "ann")
    store.update_settings(explanations="off")
    assert look_and_answer(store, A, looks=False, key="later").explained == "seen"


def test_after_an_answer_it_is_there_and_only_a_changed_answer_is_marked(store: FeedbackStore) -> None:
    store.explain({1: SHOWN}, source="reward")
    store.update_settings(explanations="after")
    task = store.claim("ann")
    assert task is not None and not store.offer_explanation(task.id)
    assert store.open_explanation(task.id, "ann") is None, "not before"
    assert store.submit(task.id, "ann", B, key="own").explained == ""
    assert store.has_explanation_after(1) and not store.has_explanation_after(2)
    assert store.open_explanation(task.id, "ann") is not None
    assert store.judgements()[0].explained == ""
    store.undo("ann")
    assert look_and_answer(store, A, looks=False, key="changed").explained == "seen"


def test_an_explanation_is_for_whoever_has_the_task(store: FeedbackStore) -> None:
    store.explain({1: SHOWN}, source="reward")
    store.update_settings(explanations="before")
    store.add_annotator("bob")
    task = store.claim("ann")
    assert task is not None
    for task_id in (task.id, 99):
        with pytest.raises(LeaseLost):
            store.open_explanation(task_id, "bob")
    store.submit(task.id, "ann", A, key="done")
    assert store.open_explanation(task.id, "ann") is None, "it is for before the answer"


def test_the_newest_is_shown_and_the_same_version_is_replaced(store: FeedbackStore) -> None:
    store.update_settings(explanations="before")
    store.explain({1: SHOWN}, source="old")
    store.explain({1: WITHHELD}, source="new", version="1")
    task = store.claim("ann")
    assert task is not None and not store.offer_explanation(task.id)
    store.explain({1: SHOWN}, source="new", version="1")
    assert store.offer_explanation(task.id)
    assert [one.source for one in store.explanations(1)] == ["old", "new"]
    assert {one.marks for one in store.explanations(with_marks=False)} == {None}


@pytest.mark.parametrize(
    ("explained", "error"),
    [
        ({9: SHOWN}, "no items with the ids"),
        ({1: Explained((1.0,), None)}, "item 1: scores must be a finite number for each of the 2"),
        ({1: Explained((1.0, math.nan), None)}, "item 1: scores must be a finite number"),
        ({1: Explained((1.0, 2.0), ((),))}, "marks must be a list for each"),
        ({1: Explained((1.0, 2.0), (((0, 99, 1.0),), ()))}, "must lie within the 9 characters"),
        ({1: Explained((1.0, 2.0), (((0, 3, math.inf),), ()))}, "finite value"),
        ({1: Explained((1.0, 2.0), None, {"rating": 1})}, "item 1: .*not an answer of kind 'pairwise'"),
    ],
)
def test_what_suits_no_item_is_named_and_nothing_is_stored(
    store: FeedbackStore, explained: dict[int, Explained], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        store.explain({2: SHOWN, **explained}, source="reward")
    assert store.explanations() == []
    with pytest.raises(ValueError, match="source must have 1 to 200"):
        store.explain({1: SHOWN}, source="")
    with pytest.raises(ValueError, match="explanations must be one of off, after, before"):
        store.update_settings(explanations="always")


def test_agreement_is_told_by_what_could_be_seen(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db", seed=0) as store:
        store.update_settings(next_item="age", explanations="before")
        store.add_annotator("ann")
        store.add_annotator("ai:judge")
        ids = store.add_items([NewItem("pairwise", f"p{k}", TEXTS) for k in range(40)])
        store.explain({i: WITHHELD if i % 2 else SHOWN for i in ids}, source="reward", version="1")
        for k in range(40):  # item k + 1: odd ones are withheld, and half of their answers are the model's
            shown = bool(k % 2)
            look_and_answer(store, A if shown or k % 4 else B, looks=shown and k % 4 == 1, key=f"k{k}")
        found, sways = compare_explanations(store)
        shares = {one.group: (one.agreed, one.n) for one in found}
        assert shares == {"withheld": (10, 20), "offered": (10, 10), "seen": (10, 10)}
        (sway,) = sways
        assert sway.difference == 0.5 and 0.2 < sway.low < 0.5 < sway.high < 0.75
        assert (sway.source, sway.version, sway.kind) == ("reward", "1", "pairwise")

        export_file(store, tmp_path / "items.jsonl", "items")
        with FeedbackStore(tmp_path / "copy.db") as copy:
            import_file(copy, tmp_path / "items.jsonl", "items")
            assert [j.explained for j in copy.judgements()] == [j.explained for j in store.judgements()]
            text = (tmp_path / "items.jsonl").read_text().replace('"explained": "seen"', '"explained": "maybe"')
            (tmp_path / "items.jsonl").write_text(text)
            done = import_file(copy, tmp_path / "items.jsonl", "items", quarantine=tmp_path / "bad.jsonl")
            wrong = [bad.reason for bad in done.bad if not bad.reason.startswith("duplicate")]
            assert len(wrong) == 10 and "must be one of withheld, offered, seen" in wrong[0]


def test_an_answer_is_compared_with_what_could_be_seen_then(store: FeedbackStore) -> None:
    store.update_settings(explanations="before")
    store.explain({1: SHOWN}, source="reward", version="1")
    look_and_answer(store, A, looks=True, key="seen")
    store.update_settings(explanations="off")
    look_and_answer(store, A, looks=False, key="off")
    store.explain(dict.fromkeys((1, 2), Explained((-1.0, 1.5), None, B)), source="reward", version="2")
    found, _ = compare_explanations(store)
    assert [(one.version, one.group, one.agreed, one.n) for one in found] == [("1", "seen", 1, 1), ("2", "none", 0, 1)]


def test_newcombes_interval_is_that_of_his_paper() -> None:
    from rlhf_envs.feedback.explaining import _difference

    found = _difference([True] * 56 + [False] * 14, [True] * 48 + [False] * 32)  # Newcombe 1998, table II (a)
    assert [round(found[name], 4) for name in ("difference", "low", "high")] == [0.2, 0.0524, 0.3339]


def test_the_draw_is_of_the_item_and_the_seed_alone() -> None:
    drawn = [is_drawn(i, 0.5) for i in range(1000)]
    assert drawn == [is_drawn(i, 0.5) for i in range(1000)] != [is_drawn(i, 0.5, seed=1) for i in range(1000)]
    assert 430 < sum(drawn) < 570
    assert all(is_drawn(i, 1.0) for i in range(100)) and not any(is_drawn(i, 0.0) for i in range(100))
