"""Hold the statistics against values worked out by hand and by other means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from agents.core.text_metrics import distinct_bigrams
from agents.evaluation.statistics import (
    bootstrap_mean,
    bootstrap_perplexity,
    improvement,
    iqm,
    jackknife_distinct_bigrams,
    mean_over_runs,
    reach,
)

# Over runs


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
    assert iqm(values).mean == pytest.approx(expected)
    assert iqm(values[::-1]).mean == pytest.approx(expected)


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
        covered += found.low <= 0.0 <= found.high
    assert 0.87 <= covered / 200 <= 0.99


def test_the_probability_of_improvement_counts_pairs() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 2.0, 3.0, 1.0, 9.0]
    by_hand = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y])
    found = improvement(x, y)
    assert found.mean == pytest.approx(by_hand)
    assert found.low < by_hand < found.high
    assert improvement(y, x).mean == pytest.approx(1 - by_hand)


def test_it_takes_algorithms_with_other_numbers_of_runs_and_all_ties() -> None:
    assert improvement([1.0] * 4, [1.0] * 3).over_runs() == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 3}
    assert improvement([3.0, 4.0, 5.0], [0.0, 1.0, 2.0]).over_runs() == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 3}


def test_the_interval_of_an_improvement_is_that_of_all_resamples() -> None:
    x, y = np.array([1.0, 3.0, 5.0]), np.array([0.0, 2.0, 4.0])
    draws = [list(chosen) for chosen in itertools.product(range(3), repeat=3)]
    shares = [(x[a][:, None] > y[b][None]).mean() for a in draws for b in draws]
    found = improvement(x, y)
    assert found.low == pytest.approx(np.quantile(shares, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(shares, 0.975), abs=0.02)


def test_two_runs_are_too_few_for_an_interval_of_an_improvement() -> None:
    """Resampled, they would give [1, 1]."""
    assert improvement([3.0, 4.0, 5.0], [1.0, 2.0]).over_runs() == {"value": 1.0, "low": None, "high": None, "n": 2}


def test_one_run_has_no_interval() -> None:
    assert iqm([2.0]).over_runs() == {"value": 2.0, "low": None, "high": None, "n": 1}
    assert improvement([2.0], [1.0, 3.0]).over_runs() == {"value": 0.5, "low": None, "high": None, "n": 1}
    assert str(bootstrap_mean(np.array([2.0]))) == "2.000"
    assert str(iqm([2.0])) == "2.000"
    assert str(iqm([2.0, 2.0])) == "2.000 [2.000, 2.000]"


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_figures_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite value per run"):
        iqm(values)


def test_reaching_a_threshold_counts_the_first_time_and_those_that_never_do() -> None:
    """Half of an even number is by the later of the middle two: nothing was evaluated between them."""
    runs = [
        [(0.0, 0.0, 0.1), (100.0, 1.0, 0.5), (200.0, 2.0, 0.4)],  # falls below it again
        [(0.0, 0.0, 0.1), (100.0, 3.0, 0.4), (200.0, 6.0, 0.6)],
        [(0.0, 0.0, 0.1), (100.0, 1.0, 0.2), (200.0, 2.0, 0.3)],
    ]
    assert reach(runs, 0.5) == (2, 3, 200.0, 6.0)
    assert reach(runs, 0.9) == (0, 3, None, None)
    assert reach(runs, 0.05) == (3, 3, 0.0, 0.0)


# Over episodes


def test_the_interval_of_a_mean_is_that_of_resampling_by_hand() -> None:
    rng = np.random.default_rng(3)
    values = rng.exponential(size=200)
    means = values[rng.integers(200, size=(20_000, 200))].mean(axis=1)
    found = bootstrap_mean(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.sem == pytest.approx(stats.sem(values))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    assert found.n == 200
    assert found == bootstrap_mean(values)  # the same each time
    assert found != bootstrap_mean(values, seed=1)


def test_bootstrap_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = [(e := bootstrap_mean(rng.normal(1.0, 2.0, size=60))).low <= 1.0 <= e.high for _ in range(150)]
    assert 0.89 <= np.mean(covered) <= 0.99


def test_the_error_of_perplexity_matches_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 30, size=400)
    nats = tokens * 3.0 + rng.normal(0, 4, size=400)
    perplexity = bootstrap_perplexity(nats, tokens)
    ratio = nats.sum() / tokens.sum()
    error = np.std(nats - ratio * tokens, ddof=1) / np.sqrt(400) / tokens.mean() * np.exp(ratio)
    assert perplexity.mean == pytest.approx(np.exp(ratio))
    assert perplexity.sem == pytest.approx(error, rel=0.1)
    assert perplexity.low < perplexity.mean < perplexity.high


def test_jackknife_of_distinct_bigrams_equals_leaving_texts_out() -> None:
    texts = ["a b c", "a b", "b c d e", "", "x", "a b a b"]
    estimate = jackknife_distinct_bigrams(texts)
    shares = np.array([distinct_bigrams(texts[:i] + texts[i + 1 :]) for i in range(len(texts))])
    n = len(texts)
    assert estimate.mean == pytest.approx(distinct_bigrams(texts))
    assert estimate.sem == pytest.approx(np.sqrt((n - 1) / n * ((shares - shares.mean()) ** 2).sum()))


def test_no_bigram_is_no_error() -> None:
    assert jackknife_distinct_bigrams(["", "one"]).mean == 0.0


def test_distinct_bigrams_of_a_script_without_spaces() -> None:
    assert jackknife_distinct_bigrams(["很好看很好看", "很好"]).mean == 3 / 6


def test_a_mean_over_few_runs_has_students_interval() -> None:
    found = mean_over_runs([1.0, 2.0, 4.0])
    expected = stats.ttest_1samp([1.0, 2.0, 4.0], 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(7 / 3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(mean_over_runs([1.0]).low)
    with pytest.raises(ValueError, match="one finite value per run"):
        mean_over_runs([1.0, np.nan])
