"""People weigh by how their ratings go with the others': clickers nothing, strict people as much as others."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_envs.feedback.reliability import MIN_SHARED, rater_weights


def rated(n_items: int = 40, noises: tuple[float, ...] = (0.5,) * 5, clickers: int = 0, seed: int = 0) -> np.ndarray:
    """Ratings (people, items) of a worth with standard deviation 1; clickers draw theirs without a look."""
    draw = np.random.default_rng(seed)
    worth = draw.normal(size=n_items)
    honest = [worth + noise * draw.normal(size=n_items) for noise in noises]
    return np.array([worth, *honest, *draw.normal(size=(clickers, n_items))])


def weights(ratings: np.ndarray) -> np.ndarray:
    names = [f"p{a}" for a in range(len(ratings))]
    found = rater_weights((names[a], i, float(v)) for a, row in enumerate(ratings) for i, v in enumerate(row))
    return np.array([found[name] for name in names])


@pytest.mark.parametrize("seed", range(3))
def test_two_clickers_of_seven_cost_next_to_nothing(seed: int) -> None:
    worth, *ratings = rated(clickers=2, seed=seed)
    found, people = weights(np.array(ratings)), np.array(ratings)
    assert found[5:].max() < 0.3 * found[:5].min()
    weighed, mean, honest = (np.corrcoef(w @ people, worth)[0, 1] for w in (found, np.ones(7), [1.0] * 5 + [0, 0]))
    assert weighed > honest - 0.01
    assert mean < weighed


def test_less_noise_weighs_more_as_the_best_linear_estimate_has_it() -> None:
    """With much data the weights go by 1 / variance."""
    _, *ratings = rated(4000, noises=(0.4, 0.4, 0.4, 0.8, 0.8))
    found = weights(np.array(ratings))
    assert found[:3].mean() / found[3:].mean() == pytest.approx(4, rel=0.35)


def test_strict_people_weigh_as_much_as_others() -> None:
    _, *ratings = rated(200)
    shifted = np.array(ratings)
    shifted[0] -= 3
    np.testing.assert_allclose(weights(shifted), weights(np.array(ratings)), rtol=1e-9)


def test_who_goes_against_all_others_weighs_nothing() -> None:
    _, *ratings = rated(200)
    ratings[2] = -ratings[2]
    assert weights(np.array(ratings))[2] == 0


def test_few_shared_items_change_nothing() -> None:
    _, *ratings = rated(MIN_SHARED - 1, clickers=2)
    assert weights(np.array(ratings)).tolist() == [1.0] * 7
    alone = rater_weights([("ann", i, float(i)) for i in range(50)] + [("bob", 100 + i, 1.0) for i in range(50)])
    assert alone == {"ann": 1.0, "bob": 1.0}


def test_equal_ratings_are_no_news() -> None:
    assert weights(np.ones((4, 30))).tolist() == [1.0] * 4
    assert rater_weights([]) == {}
