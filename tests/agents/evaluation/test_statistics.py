"""The statistics of a comparison against figures worked out by hand and by other means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from agents.experiments.compare.statistics import Interval, improvement, iqm, reach


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0, 100.0], 3.0),  # a quarter of five, rounded down, is one run at each end
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0], 3.5),
        ([1.0, 2.0, 6.0], 3.0),  # below four runs: the mean
        ([7.0], 7.0),
    ],
)
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(values: list[float], expected: float) -> None:
    assert iqm(values).value == pytest.approx(expected)
    assert iqm(values[::-1]).value == pytest.approx(expected)


def test_the_interval_is_that_of_all_resamples() -> None:
    """Of five runs there are 3,125 resamples: enumerated, their percentiles are what the bootstrap draws towards."""
    values = np.array([0.1, 0.5, 0.55, 0.6, 2.0])
    middle = [np.sort(values[list(chosen)])[1:-1].mean() for chosen in itertools.product(range(5), repeat=5)]
    low, high = np.quantile(middle, [0.025, 0.975])
    found = iqm(values)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)
    assert found == iqm(values)  # the same each time


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 comparisons of 20 runs; the percentile bootstrap is known to be a little narrow."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = iqm(rng.normal(size=20))
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.0 <= found.high
    assert 0.87 <= covered / 200 <= 0.99


def test_the_probability_of_improvement_counts_pairs() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 2.0, 3.0, 1.0, 9.0]
    by_hand = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y])
    found = improvement(x, y)
    assert found.value == pytest.approx(by_hand)
    assert found.low is not None and found.high is not None
    assert found.low < by_hand < found.high
    assert improvement(y, x).value == pytest.approx(1 - by_hand)


def test_it_takes_algorithms_with_other_numbers_of_runs_and_all_ties() -> None:
    assert improvement([1.0, 1.0, 1.0], [1.0, 1.0]) == Interval(0.5, 0.5, 0.5, 2)
    assert improvement([3.0, 4.0, 5.0], [1.0, 2.0]) == Interval(1.0, 1.0, 1.0, 2)


def test_the_interval_of_an_improvement_is_that_of_all_resamples() -> None:
    x, y = np.array([1.0, 3.0, 5.0]), np.array([0.0, 2.0, 4.0])
    draws = [list(chosen) for chosen in itertools.product(range(3), repeat=3)]
    shares = [(x[a][:, None] > y[b][None]).mean() for a in draws for b in draws]
    found = improvement(x, y)
    assert found.low == pytest.approx(np.quantile(shares, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(shares, 0.975), abs=0.02)


def test_one_run_has_no_interval() -> None:
    assert iqm([2.0]) == Interval(2.0, None, None, 1)
    assert improvement([2.0], [1.0, 3.0]) == Interval(0.5, None, None, 1)
    assert str(iqm([2.0])) == "2.000"
    assert str(iqm([2.0, 2.0])) == "2.000 [2.000, 2.000]"


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_figures_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite figure of each run"):
        iqm(values)


def test_reaching_a_threshold_counts_the_first_time_and_those_that_never_do() -> None:
    runs = [
        [(0.0, 0.0, 0.1), (100.0, 1.0, 0.5), (200.0, 2.0, 0.4)],  # falls below it again
        [(0.0, 0.0, 0.1), (100.0, 3.0, 0.4), (200.0, 6.0, 0.6)],
        [(0.0, 0.0, 0.1), (100.0, 1.0, 0.2), (200.0, 2.0, 0.3)],
    ]
    assert reach(runs, 0.5) == (2, 3, 150.0, 3.5)
    assert reach(runs, 0.9) == (0, 3, None, None)
    assert reach(runs, 0.05) == (3, 3, 0.0, 0.0)
