"""Pessimism over an ensemble, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_envs.rewards import evaluate_reward
from rlhf_envs.rewards.pessimism import Pessimistic

SCORES = np.array([[1.0, 4.0], [3.0, 4.0]])  # (members, n)


class Fixed:
    name = "fixed"

    def __init__(self, scores=SCORES):
        self.scores = scores

    def member_scores(self, prompts, completions):
        return self.scores


def evaluate(reward, n=2):
    return evaluate_reward(reward, ["p"] * n, [f"c{i}" for i in range(n)], {})


def test_k_deviations_come_off_the_mean():
    scores, components = evaluate(Pessimistic(Fixed(), k=2.0))
    assert scores.tolist() == [2 - 2 * 1, 4]
    assert {name: values.tolist() for name, values in components.items()} == {
        "fixed": [2, 4],
        "disagreement": [1, 0],
        "pessimistic_fixed": [0, 4],
    }


def test_the_worst_case_is_the_lowest_member():
    assert evaluate(Pessimistic(Fixed(), worst_case=True))[0].tolist() == [1, 4]


def test_without_k_it_is_the_mean_and_one_completion_is_enough():
    assert evaluate(Pessimistic(Fixed(), k=0))[0].tolist() == [2, 4]
    assert evaluate(Pessimistic(Fixed(SCORES[:, :1])), n=1)[0].tolist() == [1]


def test_it_composes():
    scores, components = evaluate(1 + 2 * Pessimistic(Fixed()))
    assert scores.tolist() == [3, 9]
    assert set(components) == {"fixed", "disagreement", "pessimistic_fixed"}


def test_member_scores_are_checked():
    with pytest.raises(ValueError, match=r"shape \(2,\) for 2 completions: expected \(members, 2\)"):
        evaluate(Pessimistic(Fixed(SCORES[0])))
    with pytest.raises(
        ValueError, match=r"member 2 of the ensemble 'fixed' gave nan for completion 1 .*Completion: 'c0'"
    ):
        evaluate(Pessimistic(Fixed(np.array([[0.0, 0.0], [np.nan, 0.0]]))))
    with pytest.raises(ValueError, match="k must be a number of at least 0"):
        Pessimistic(Fixed(), k=-1)
    with pytest.raises(TypeError, match="needs an ensemble with member_scores"):
        Pessimistic(object())
