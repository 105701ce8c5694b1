"""Drift: a false alarm is as rare as is said, planted drifts are seen, and windows come back from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from agents.serving.drift import BUCKETS, DriftTest, Window, _Flags, _Numbers, hash_words
from benchmarks.drift import Traffic, alarms, streams


def window(n: int, rng: np.random.Generator, shift: float = 0.0) -> Window:
    """Numbers with ties, flags that depend on them, and words."""
    score = rng.integers(0, 6, n) + shift
    return Window(rng.random((n, BUCKETS)), {"score": score.astype(float), "refusal": (score > 4).astype(float)})


def test_false_alarms_are_as_rare_as_stated() -> None:
    """Features depend on each other and have ties: Holm over tables' p-values would be conservative here."""
    rng, found = np.random.default_rng(0), 0
    for seed in range(400):
        test = DriftTest(window(40, rng), false_alarms=0.2, seed=seed)
        found += bool(test.test(window(20, rng)).drifted)
    low, high = stats.binom.interval(0.99, 400, 0.2)
    assert low <= found <= high


def test_one_false_alarm_in_many_windows_is_as_rare_as_stated() -> None:
    assert streams((60, 20), 0.2, n=20, windows=5, seed=0) <= stats.binom.ppf(0.99, 20, 0.2)


@pytest.mark.parametrize(
    ("now", "feature"),
    [
        (Traffic(topic=0.9, scored=0.5), "prompts"),
        (Traffic(longer=2.0, scored=0.5), "completion length"),
        (Traffic(refused=0.4, scored=0.5), "refusal"),
        (Traffic(worse=2.0, scored=0.5), "score"),
    ],
)
def test_a_planted_drift_is_seen_where_it_is(now: Traffic, feature: str) -> None:
    found = alarms(replace(Traffic(), scored=0.5), now, (150, 80), 0.02, n=3, seed=1)
    assert found[feature] == 3 and found["any"] == 3
    assert found["prompt length"] == 0, "what stays the same does not drift"


def test_statistics_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 50).astype(float), rng.integers(1, 9, 30).astype(float)
    a[:7] = np.nan  # not measured
    split = np.array([[False] * 50 + [True] * 30])
    assert _Numbers(np.concatenate([a, b])).shown(split) == pytest.approx(stats.ks_2samp(a[7:], b).statistic)
    flags = np.concatenate([a[7:] > 4, b > 4]).astype(float)
    counts = [[flags[:43].sum(), 43 - flags[:43].sum()], [flags[43:].sum(), 30 - flags[43:].sum()]]
    expected = stats.chi2_contingency(counts, correction=False)
    feature, cut = _Flags(flags), split[:, 7:]
    assert feature.shown(cut) == pytest.approx(expected.statistic)
    assert feature.surprise(cut)[0] == pytest.approx(-np.log(expected.pvalue))


def test_p_values_of_many_shuffles_are_those_of_one_feature_alone() -> None:
    """Without words and with one number the corrected p-value is the exact test's."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=12), rng.normal(0.9, 1, size=8)
    blank = np.zeros((1, BUCKETS))
    test = DriftTest(Window(np.repeat(blank, 12, 0), {"score": a}), 0.5 / 200, windows=1, seed=0)
    found = test.test(Window(np.repeat(blank, 8, 0), {"score": b})).features
    exact = stats.ks_2samp(a, b, method="exact").pvalue
    assert found["score"].p == pytest.approx(exact, rel=0.6), "until it is known that there is no drift"
    assert found["prompts"].p == 1.0 and not found["prompts"].drifted


def test_what_is_hardly_measured_is_no_alarm() -> None:
    rng = np.random.default_rng(0)
    a, b = window(30, rng), window(30, rng)
    few = np.full(30, np.nan)
    few[:4] = 1000.0
    found = DriftTest(a, 0.05, seed=0).test(Window(b.words, {"score": few})).features
    assert set(found) == {"prompts", "score"} and found["score"].p == 1.0 and not found["score"].drifted
    assert (found["score"].reference, found["score"].window) == (pytest.approx(a.values["score"].mean()), 1000.0)


def test_words_are_hashed_alike_however_they_are_written() -> None:
    assert np.allclose(hash_words("Ｈello, WORLD world"), hash_words("hello world"))
    assert np.count_nonzero(hash_words("用AI写诗")) == 4, "a word per character, and AI"
    assert np.linalg.norm(hash_words("a b c " * 50)) == pytest.approx(1) and not hash_words("?!").any()


def test_a_window_comes_back_from_its_file(tmp_path: Path) -> None:
    made = window(9, np.random.default_rng(0))
    made.save(tmp_path / "reference.npz")
    again = Window.load(tmp_path / "reference.npz")
    assert np.allclose(made.words, again.words) and list(again.values) == ["score", "refusal"]
    (tmp_path / "reference.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match="is no window of traffic"):
        Window.load(tmp_path / "reference.npz")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"false_alarms": 0.0}, "false_alarms must be"),
        ({"windows": 0}, "windows must be"),
        ({"false_alarms": 0.01, "windows": 1000}, "ask for 0.0001 per window"),
    ],
)
def test_what_cannot_be_tested_is_said(arguments: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        DriftTest(window(9, np.random.default_rng(0)), **arguments)  # type: ignore[arg-type]
