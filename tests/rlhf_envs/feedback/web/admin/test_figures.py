"""The figures of the admin's pages: intervals, ability and difficulty, cost, and what is remembered of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, Item, Judgement, NewItem
from rlhf_envs.feedback.agreement import CrowdFigures, alpha_interval, krippendorff_alpha
from rlhf_envs.feedback.settings import Cost
from rlhf_envs.feedback.store.browsing import ItemFilter, browse_items
from rlhf_envs.feedback.web.admin import figures as figures_module
from rlhf_envs.feedback.web.admin.figures import Figures
from rlhf_envs.feedback.web.admin.summary import summarise
from rlhf_envs.preferences.crowd import crowd_figures


def crowd(n_items: int, noise: Sequence[float], seed: int = 0) -> list[tuple[int, str, float]]:
    """Votes 0 or 1 of annotators who are wrong with these probabilities."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(2, size=n_items)
    return [
        (item, f"p{i}", float(truth[item] ^ (generator.random() < wrong)))
        for item in range(n_items)
        for i, wrong in enumerate(noise)
    ]


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_the_interval_is_that_of_a_bootstrap_written_out(level: Any) -> None:
    votes = crowd(60, (0.1, 0.2, 0.3))
    generator = np.random.default_rng(1)
    found = []
    for _ in range(400):
        drawn = generator.integers(60, size=60)
        again = [(place, who, value) for place, i in enumerate(drawn) for item, who, value in votes if item == i]
        found.append(krippendorff_alpha(again, level))
    low, high = alpha_interval(votes, level)
    assert low < krippendorff_alpha(votes, level) < high
    np.testing.assert_allclose([low, high], np.percentile(found, [2.5, 97.5]), atol=0.05)


def test_the_interval_covers_the_alpha_of_many_items() -> None:
    truth = krippendorff_alpha(crowd(20_000, (0.2, 0.2)))
    inside = [low <= truth <= high for low, high in (alpha_interval(crowd(80, (0.2, 0.2), seed)) for seed in range(60))]
    assert np.mean(inside) >= 0.85
    assert np.isnan(alpha_interval(crowd(9, (0.2, 0.2)))).all()
    assert np.isnan(alpha_interval([(i, who, 1.0) for i in range(20) for who in "ab"])).all()


def give(store: FeedbackStore, answers: dict[str, list[Any]], seconds: float = 36.0) -> None:
    for name, values in answers.items():
        store.add_annotator(name)
        for value in values:
            task = store.claim(name)
            assert task is not None
            store.submit(task.id, name, value, key=f"{name}-{task.id}", seconds=seconds)


@pytest.fixture
def judged(store: FeedbackStore) -> FeedbackStore:
    """Of 24 thumbs good ones agree, but for the last, and one annotator says always the opposite of every third."""
    pytest.importorskip("crowdkit", reason='needs pip install "rlhf-envs[agreement]"')
    store.add_items([NewItem("thumbs", f"p{i}", ("c",), overlap=4) for i in range(24)])
    truth = [i % 2 == 0 for i in range(24)]
    good = [{"up": up} for up in truth]
    odd = [{"up": not up} if i % 3 else {"up": up} for i, up in enumerate(truth)]
    give(store, {"ann": good, "bob": good, "cid": [*good[:-1], {"up": not truth[-1]}]})
    give(store, {"dan": odd[:20]})
    return store


def test_ability_and_difficulty_side_by_side(judged: FeedbackStore) -> None:
    found = crowd_figures(judged.items(), judged.judgements())
    assert found.ability["ann"][0] > 0.85
    assert found.ability["dan"][0] < 0.5
    assert found.ability["dan"][1] == 20
    assert max(found.difficulty, key=lambda item: found.difficulty[item]) == 24
    assert all(0 <= value <= 1 for value in found.difficulty.values())
    figures = Figures(judged, crowd_figures)
    shown = {row.name: row.ability for row in figures.get().annotators}
    assert shown["ann"] == pytest.approx(found.ability["ann"][0])
    assert browse_items(judged, ItemFilter(), sort="difficulty").rows[0].item.id == 24


def test_kinds_are_estimated_apart_and_those_without_labels_are_left_out(store: FeedbackStore) -> None:
    pytest.importorskip("crowdkit", reason='needs pip install "rlhf-envs[agreement]"')
    store.add_items([NewItem("pairwise", "p", ("a", "b"), overlap=2), NewItem("rating", "p", ("c",), overlap=2)])
    store.add_items([NewItem("ranking", "p", ("a", "b", "c"), overlap=2), NewItem("flags", "p", ("c",), overlap=2)])
    values = [{"choice": 0, "strength": 1}, {"rating": 1}, {"order": [0, 1, 2]}, {"harms": []}]
    give(store, {"ann": values, "bob": [values[0], {"rating": 5}, values[2], values[3]]})
    found = crowd_figures(store.items(), store.judgements())
    assert set(found.difficulty) == {1, 2, 3}
    assert found.difficulty[2] > max(found.difficulty[1], found.difficulty[3])
    assert found.ability["ann"][1] == 5  # a comparison, three pairs of a ranking, a rating
    assert crowd_figures([], []) == CrowdFigures({}, {})


def test_cost_and_time(judged: FeedbackStore) -> None:
    cost = summarise(judged).cost
    assert (cost.hours, cost.money, cost.labels_left) == (pytest.approx(0.92), None, 4)
    assert cost.hours_left == pytest.approx(0.04)
    judged.update_settings(cost=Cost(per_label=0.5, per_hour=10, currency="EUR"))
    cost = summarise(judged).cost
    assert (cost.money, cost.money_left) == (pytest.approx(46 + 9.2), pytest.approx(2 + 0.4))
    with pytest.raises(ValueError, match="at least 0"):
        Cost(per_label=-1)


def test_figures_are_remembered_until_the_store_changes(judged: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        figures_module, "summarise", lambda *args, **named: called.append(1) or summarise(*args, **named)
    )
    monkeypatch.setattr(figures_module, "_CHEAP", 60.0)
    figures = Figures(judged)
    assert figures.get() is figures.get()
    changes: list[Callable[[], object]] = [
        lambda: judged.add_items([NewItem("thumbs", "more", ("c",))]),
        lambda: judged.undo("ann"),
        lambda: judged.fix_judgement(1, {"up": False}, by="root", reason="r"),
        lambda: judged.update_settings(paused=True),
        lambda: judged.add_annotator("eve"),
        lambda: judged.adjudicate(1, {"up": True}, by="ann"),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        assert figures.get() is figures.get()
        assert len(called) == number


def test_where_figures_take_long_a_page_shows_the_last_ones(
    judged: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures_module, "_CHEAP", -1.0)
    go_on = threading.Event()

    def slow(items: Sequence[Item], judgements: Sequence[Judgement]) -> CrowdFigures:
        if len(items) > 24:
            assert go_on.wait(20)
        return CrowdFigures({"ann": (0.5, 1)}, {})

    figures = Figures(judged, slow)
    first = figures.get()
    judged.add_items([NewItem("thumbs", "more", ("c",))])
    assert figures.get() is first
    assert figures.get() is first
    judged.update_settings(paused=True)
    assert figures.get() == first.model_copy(update={"paused": True}), "whether it is paused is of now"
    go_on.set()
    end = time.monotonic() + 20
    while figures.get().items == first.items and time.monotonic() < end:
        time.sleep(0.02)
    assert figures.get().items == 25


def test_the_page_shows_them(judged: FeedbackStore, sign_in: Callable[..., TestClient]) -> None:
    judged.update_settings(cost=Cost(per_label=0.5, currency="EUR"))
    page = sign_in("root", "admin").get("/admin").text
    assert "95% interval" in page
    assert "46.00 EUR" in page
    assert "4 judgements, about 0.0 hours" in page
