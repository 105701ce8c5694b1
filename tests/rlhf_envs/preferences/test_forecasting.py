"""Forecasts of the pairs that a reward model needs: against known curves, and where nothing can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.preferences import forecasting
from rlhf_envs.preferences.forecasting import CurvePoint, forecast, forecast_labels, learning_curve


def points(curve: tuple[float, float, float], largest: int, held_out: int = 3000, seed: int = 0) -> list[CurvePoint]:
    """A learning curve whose held-out pairs are right with the probability a - b n^-c."""
    a, b, c = curve
    generator = np.random.default_rng(seed)
    luck = generator.random(held_out)  # the same pairs are hard for every model
    found = []
    for n in (largest // 8, largest // 4, largest // 2, largest):
        for repeat in range(5):
            own = 0.5 * luck + 0.5 * generator.random(held_out)
            order = np.argsort(np.argsort(own)) / held_out
            found.append(CurvePoint(n, repeat, (order < a - b * n**-c).astype(float)))
    return found


def test_a_known_curve_is_continued() -> None:
    curve = (0.85, 1.5, 0.5)  # 0.80 needs (1.5 / 0.05)^2 = 900 pairs
    found = forecast(points(curve, 400), 0.8)
    assert found.needed == pytest.approx(900, rel=0.25)
    assert found.needed_interval is not None
    low, high = found.needed_interval
    assert low < 900 < high
    assert found.ceiling == pytest.approx(0.85, abs=0.03)
    assert found.sizes == [50, 100, 200, 400]
    assert found.accuracy == pytest.approx([0.85 - 1.5 * n**-0.5 for n in found.sizes], abs=0.005)


@pytest.mark.slow
def test_the_interval_covers_the_truth_over_many_curves() -> None:
    inside = []
    for seed in range(12):
        found = forecast(points((0.85, 1.5, 0.5), 400, seed=seed), 0.8, n_resamples=100)
        inside.append(found.needed_interval is not None and found.needed_interval[0] < 900 < found.needed_interval[1])
    assert sum(inside) >= 9


def test_where_nothing_can_be_told_it_is_said() -> None:
    flat = forecast(points((0.6, 0.0, 0.5), 400), 0.8)
    assert (flat.needed, flat.needed_interval) == (None, None)
    assert "does not surely rise" in flat.why_not
    beyond = forecast(points((0.7, 1.5, 0.7), 400), 0.9)
    assert beyond.needed is None
    assert "never reach 0.9" in beyond.why_not
    few = forecast(points((0.85, 1.5, 0.5), 400, held_out=30), 0.84)
    low, high = few.needed_interval or (1.0, np.inf)
    assert few.needed is None or high > 2 * low


def test_a_target_that_is_reached_already_needs_no_more() -> None:
    found = forecast(points((0.85, 1.5, 0.5), 400), 0.7)
    assert (found.needed, found.why_not) == (400, "")
    for target in (0.5, 1.0, 80.0):
        with pytest.raises(ValueError, match="target must be"):
            forecast(points((0.85, 1.5, 0.5), 400), target)


def test_a_curve_of_real_fits_rises_where_there_is_something_to_learn() -> None:
    generator = np.random.default_rng(0)
    good, bad = ("great", "fine", "lovely", "superb"), ("awful", "dull", "poor", "sad")
    nouns = ("film", "plot", "cast", "score", "scene", "end")
    pairs = [
        {
            "prompt": f"Film {i}: ",
            "chosen": f"a {generator.choice(good)} {generator.choice(nouns)}",
            "rejected": f"a {generator.choice(bad)} {generator.choice(nouns)}",
        }
        for i in range(130)
    ]
    seen: list[tuple[int, int]] = []
    curve = learning_curve(pairs, repeats=1, epochs=2, on_fit=lambda number, of: seen.append((number, of)))
    assert [point.n for point in curve] == sorted(point.n for point in curve)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert curve[-1].right.mean() >= 0.8
    with pytest.raises(ValueError, match="too few for a forecast"):
        learning_curve(pairs[:60])


def test_labels_are_those_of_the_pairs_that_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def curve(pairs: Any, model: str, **options: Any) -> list[CurvePoint]:
        given.update(pairs=len(pairs), model=model, **options)
        return points((0.85, 1.5, 0.5), 400)

    monkeypatch.setattr(forecasting, "learning_curve", curve)
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.add_items([NewItem("pairwise", f"p{i}", ("a", "b"), overlap=2) for i in range(10)])
        store.add_items([NewItem("rating", "r", ("c",))])
        one, three = {"choice": 0, "strength": 1}, {"rating": 3}
        for name in ("ada", "bob"):
            work(store, name, lambda task: Response(one if task.item.kind == "pairwise" else three))
        items, judgements = store.items(), store.judgements()
    found = forecast_labels(items, judgements, 0.8, epochs=7)
    assert given == {"pairs": 10, "model": "tiny", "epochs": 7}
    pairs = found.curve
    assert pairs.needed is not None and pairs.needed_interval is not None and found.labels_interval is not None
    assert found.labels == pytest.approx((pairs.needed - 400) * 20 / 400), "20 labels stand behind 400 pairs"
    assert found.labels_interval == pytest.approx([(end - 400) * 20 / 400 for end in pairs.needed_interval])
    assert forecast_labels(items, judgements, 0.7).labels == 0
    assert forecast_labels(items, judgements, 0.99).labels is None
    given.clear()
    with pytest.raises(ValueError, match="target must be"):
        forecast_labels(items, judgements, 1.0)
    assert given == {}, "nothing is fitted in vain"
