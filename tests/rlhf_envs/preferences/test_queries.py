"""Each strategy chooses what a plain reading of its definition chooses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from rlhf_envs.preferences.queries import STRATEGIES, disagreement, k_centre_greedy, select_pairs, uncertainty


def arrays(members: int = 5, pairs: int = 30, d: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"scores": generator.normal(size=(members, pairs, 2)), "embeddings": generator.normal(size=(pairs, d))}


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_different_pairs_the_same_for_the_same_seed(strategy: Any) -> None:
    for n in (0, 1, 7, 30):
        chosen = select_pairs(strategy, n, **arrays(), seed=3)
        assert chosen.dtype == np.int64
        assert len(set(chosen.tolist())) == n
        assert set(chosen.tolist()) <= set(range(30))
        np.testing.assert_array_equal(chosen, select_pairs(strategy, n, **arrays(), seed=3))
        np.testing.assert_array_equal(chosen, select_pairs(strategy, 30, **arrays(), seed=3)[:n])


def test_disagreement_is_the_variance_of_the_predicted_preference() -> None:
    scores = arrays()["scores"]
    by_hand = [np.var([sigmoid(member[i, 0] - member[i, 1]) for member in scores]) for i in range(30)]
    np.testing.assert_allclose(disagreement(scores), by_hand)
    chosen = select_pairs("disagreement", 5, scores=scores)
    assert chosen.tolist() == sorted(range(30), key=lambda i: -by_hand[i])[:5]


def test_uncertainty_chooses_the_mean_predictions_nearest_to_a_half() -> None:
    scores = arrays()["scores"]
    mean = [np.mean([sigmoid(member[i, 0] - member[i, 1]) for member in scores]) for i in range(30)]
    chosen = select_pairs("uncertainty", 5, scores=scores)
    assert chosen.tolist() == sorted(range(30), key=lambda i: abs(mean[i] - 0.5))[:5]
    assert uncertainty(np.zeros((1, 1, 2)))[0] == pytest.approx(np.log(2))
    assert uncertainty(np.array([[[1e4, -1e4]]]))[0] == pytest.approx(0, abs=1e-9)  # and no overflow


def test_a_sure_quarrel_is_disagreement_and_a_shared_doubt_is_not() -> None:
    quarrel, doubt, agreed = [[5.0, 0.0], [0.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]], [[5.0, 0.0], [5.0, 0.0]]
    scores = np.array([quarrel, doubt, agreed]).transpose(1, 0, 2)  # (members, pairs, 2)
    np.testing.assert_allclose(disagreement(scores), [(sigmoid(5) - 0.5) ** 2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(uncertainty(scores)[:2], np.log(2))
    assert select_pairs("disagreement", 1, scores=scores).tolist() == [0]
    assert select_pairs("uncertainty", 3, scores=scores)[-1] == 2


@pytest.mark.parametrize("strategy", ["disagreement", "uncertainty"])
def test_equals_come_in_random_order(strategy: Any) -> None:
    scores = np.zeros((2, 100, 2))
    first, second = (select_pairs(strategy, 10, scores=scores, seed=seed) for seed in (0, 1))
    assert sorted(first) != list(range(10))
    assert set(first) != set(second)


def greedy_by_hand(points: np.ndarray, centres: list[np.ndarray], n: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(n):
        distances = [
            -1.0 if i in chosen else min(float(np.linalg.norm(point - centre)) for centre in centres)
            for i, point in enumerate(points)
        ]
        chosen.append(int(np.argmax(distances)))
        centres = [*centres, points[chosen[-1]]]
    return chosen


def test_diverse_is_the_farthest_point_each_time() -> None:
    points, labelled = arrays()["embeddings"], np.ones((2, 4)) * [[0.0], [3.0]]
    chosen = select_pairs("diverse", 8, embeddings=points, labelled=labelled)
    assert chosen.tolist() == greedy_by_hand(points, list(labelled), 8)
    free = select_pairs("diverse", 8, embeddings=points, seed=5).tolist()
    assert free[1:] == greedy_by_hand(points, [points[free[0]]], 7)


@pytest.mark.parametrize("seed", range(5))
def test_k_centre_greedy_is_within_twice_the_best_radius(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(12, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)

    def radius(centres: Any) -> float:
        return float(distances[:, list(centres)].min(axis=1).max())

    best = min(radius(centres) for centres in itertools.combinations(range(12), 3))
    assert best <= radius(k_centre_greedy(points, 3, seed=seed)) <= 2 * best


def test_diverse_takes_one_of_each_cluster_before_a_second_of_any() -> None:
    centres = np.array([[0, 0], [100, 0], [0, 100], [100, 100]])
    points = np.repeat(centres, 10, axis=0) + np.random.default_rng(0).normal(size=(40, 2))
    assert sorted(i // 10 for i in select_pairs("diverse", 4, embeddings=points)) == [0, 1, 2, 3]


def test_points_that_coincide_are_still_chosen_once_each() -> None:
    assert sorted(select_pairs("diverse", 6, embeddings=np.ones((6, 3)))) == list(range(6))
    assert sorted(select_pairs("diverse", 6, embeddings=np.ones((6, 3)), labelled=np.ones((1, 3)))) == list(range(6))


def test_random_draws_evenly() -> None:
    counts = np.bincount(np.concatenate([select_pairs("random", 3, n_pairs=10, seed=s) for s in range(2000)]))
    assert counts.min() > 500  # 600 expected, standard deviation about 20
    assert counts.max() < 700


@pytest.mark.parametrize(
    ("strategy", "n", "arguments", "message"),
    [
        ("clever", 1, {}, "unknown strategy 'clever': choose random, disagreement, uncertainty, diverse"),
        ("random", 1, {}, "pass n_pairs"),
        ("random", 4, {"n_pairs": 3}, "4 of 3 pairs cannot be chosen"),
        ("uncertainty", -1, {"scores": np.zeros((1, 3, 2))}, "-1 of 3 pairs"),
        ("disagreement", 1, {}, "'disagreement' chooses by scores: pass them"),
        ("disagreement", 1, {"scores": np.zeros((1, 3, 2))}, "1 member cannot disagree"),
        ("uncertainty", 1, {"scores": np.zeros((3, 2))}, r"of shape \(3, 2\)"),
        ("uncertainty", 1, {"scores": np.zeros((2, 3, 4))}, r"not \(members, pairs, 2\)"),
        ("uncertainty", 1, {"scores": np.full((2, 3, 2), np.nan)}, "not all finite"),
        ("diverse", 1, {}, "'diverse' chooses by embeddings"),
        ("diverse", 1, {"embeddings": np.full((3, 2), np.inf)}, "not all finite"),
        ("diverse", 1, {"embeddings": np.ones((3, 2)), "labelled": np.ones((1, 5))}, "5 dimensions, embeddings 2"),
    ],
)
def test_bad_questions_are_named(strategy: Any, n: int, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_pairs(strategy, n, **arguments)
