"""Ratings come onto one scale; who has few keeps near the crowd's."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_envs.preferences.crowd import find_spammers
from rlhf_envs.preferences.ratings import Rating, mean_ratings, standardise_ratings


def test_without_shrinkage_it_is_the_z_score_of_each_annotator() -> None:
    generator = np.random.default_rng(0)
    ratings = [Rating(f"rater {k % 3}", k, float(generator.normal(k % 3, 1 + k % 3))) for k in range(60)]
    standard = standardise_ratings(ratings, shrinkage=0.0)
    assert [(r.annotator, r.item) for r in standard] == [(r.annotator, r.item) for r in ratings]
    for name in ("rater 0", "rater 1", "rater 2"):
        raw, own = (np.array([r.value for r in some if r.annotator == name]) for some in (ratings, standard))
        np.testing.assert_allclose(own, (raw - raw.mean()) / raw.std(), atol=1e-12)


def test_shrinkage_mixes_own_figures_with_those_of_all() -> None:
    ratings = [("ann", k, value) for k, value in enumerate([1.0, 2.0, 3.0, 4.0])] + [("bo", 9, 10.0)]
    everything = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    standard = standardise_ratings(ratings, shrinkage=4.0)
    mean = (4 * 2.5 + 4 * everything.mean()) / 8
    deviation = np.sqrt((4 * 1.25 + 4 * everything.var()) / 8)
    np.testing.assert_allclose([r.value for r in standard[:4]], (everything[:4] - mean) / deviation)
    # One rating is not called average because it is one's own mean.
    assert standard[4].value > 1.0


def test_raters_who_use_the_scale_differently_agree_after_it() -> None:
    generator = np.random.default_rng(1)
    quality = generator.normal(size=40)
    ratings = [Rating("low", k, 2 + 0.5 * q) for k, q in enumerate(quality)]
    ratings += [Rating("high", k, 7 + 2.0 * q) for k, q in enumerate(quality)]
    standard = standardise_ratings(ratings, shrinkage=0.0)
    np.testing.assert_allclose([r.value for r in standard[:40]], [r.value for r in standard[40:]], atol=1e-9)


@pytest.mark.parametrize("shrinkage", [0.0, 5.0])
def test_equal_ratings_tell_nothing_apart(shrinkage: float) -> None:
    alike = standardise_ratings([("ann", 1, 3), ("ann", 2, 3), ("bo", 1, 3)], shrinkage=shrinkage)
    assert [r.value for r in alike] == [0.0, 0.0, 0.0]
    assert standardise_ratings([("ann", 1, 3)], shrinkage=shrinkage)[0].value == 0.0
    constant = standardise_ratings([("ann", 1, 5), ("ann", 2, 5), ("bo", 1, 1), ("bo", 2, 2)], shrinkage=shrinkage)
    assert constant[0].value == constant[1].value
    assert np.isfinite([r.value for r in constant]).all()


def test_mean_ratings() -> None:
    assert mean_ratings([("ann", "x", 1), ("bo", "x", 4), ("bo", "y", 2)]) == {"x": 2.5, "y": 2.0}


def test_bad_ratings_are_named() -> None:
    with pytest.raises(ValueError, match="no ratings"):
        standardise_ratings([])
    with pytest.raises(ValueError, match="rating of 'x' by 'ann' is nan"):
        mean_ratings([("ann", "x", float("nan"))])
    with pytest.raises(ValueError, match="shrinkage is -1"):
        standardise_ratings([("ann", "x", 1.0)], shrinkage=-1)


def test_who_rates_at_random_or_always_the_same_or_upside_down_is_found() -> None:
    generator = np.random.default_rng(0)
    quality = generator.normal(size=40)
    ratings = [Rating(f"good {g}", k, float(q + generator.normal())) for g in range(10) for k, q in enumerate(quality)]
    ratings += [Rating(f"click {c}", k, float(generator.normal())) for c in range(4) for k in range(40)]
    ratings += [Rating("constant", k, 2.0) for k in range(40)]
    ratings += [Rating("upside down", k, float(-q)) for k, q in enumerate(quality)]
    report = find_spammers(ratings)
    assert report.spammers == {*(f"click {c}" for c in range(4)), "constant", "upside down"}
    assert report.metrics["constant"].agreement == 0.0
    assert report.metrics["upside down"].agreement < -0.7


def test_a_lone_rater_and_one_with_few_ratings_are_left_alone() -> None:
    assert find_spammers([Rating("ann", k, k % 3) for k in range(30)]).spammers == set()
    assert find_spammers([Rating(name, k, k) for k in range(3) for name in ("ann", "bo")]).spammers == set()
