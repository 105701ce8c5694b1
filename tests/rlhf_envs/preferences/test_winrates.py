"""Win rates of models, with ties, both orders, lengths and intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

pytest.importorskip("choix", reason='win rates need pip install "rlhf-envs[agreement]"')

from rlhf_envs.preferences.winrates import Outcome, WinRates, estimate_win_rates, outcomes_of_rows


def crowd(
    random: np.random.Generator,
    skills: dict[str, float],
    prompts: int,
    people: int,
    spread: float = 0.0,
    length: float = 0.0,
) -> list[Outcome]:
    """Choices by the Bradley-Terry model; prompts and people each favour a side, and longer texts win by `length`."""
    names = [*skills]
    by_prompt, by_person = random.normal(0, spread, prompts), random.normal(0, spread, people)
    found = []
    for prompt in range(prompts):
        for person in range(people):
            left, right = random.choice(names, 2, replace=False)
            sizes = tuple(int(100 + 80 * (name == names[0]) + random.integers(60)) for name in (left, right))
            side = 1 if left < right else -1
            lead = skills[left] - skills[right] + side * (by_prompt[prompt] + by_person[person])
            lead += length * float(np.tanh((sizes[0] - sizes[1]) / 60))
            score = float(random.random() < expit(lead))
            found.append(Outcome(prompt, f"p{person}", str(left), str(right), score, (sizes[0], sizes[1])))
    return found


def estimate(outcomes: list[Outcome], *models: str, n: int = 100) -> WinRates:
    return estimate_win_rates(outcomes, models, n_resamples=n)


def test_a_tie_is_half_a_win_and_the_order_of_the_names_only_turns_the_rate() -> None:
    scores = (1.0, 1.0, 0.0, 0.5)
    outcomes = [Outcome(i, "a", "x", "y", score) for i, score in enumerate(scores)]
    (one,), (other,) = estimate(outcomes, "x", "y").pairs, estimate(outcomes, "y", "x").pairs
    assert (one.rate, one.ties, one.n) == (0.625, 1, 4) and other.rate == 0.375
    assert other.low == pytest.approx(1 - one.high) and other.high == pytest.approx(1 - one.low)
    assert not one.is_decided and math.isnan(one.at_equal_length)


def test_two_orders_that_disagree_are_one_tie() -> None:
    always_first = [
        Outcome(i, "j", *names, 1.0, left_first=True) for i in range(5) for names in (("x", "y"), ("y", "x"))
    ]
    found = estimate(always_first)
    assert (found.pairs[0].rate, found.pairs[0].n, found.pairs[0].ties) == (0.5, 5, 5) and found.first == 1.0


def test_strengths_are_those_of_bradley_and_terry() -> None:
    skills = {"a": 1.0, "b": 0.0, "c": -1.0}
    found = estimate(crowd(np.random.default_rng(0), skills, 1500, 2), n=2)
    assert [one.model for one in found.strengths] == ["a", "b", "c"]
    scores = {one.model: one.log_strength for one in found.strengths}
    assert scores["a"] - scores["b"] == pytest.approx(1, abs=0.2) and scores["b"] - scores["c"] == pytest.approx(
        1, abs=0.2
    )
    assert found.strengths[0].mean_rate == pytest.approx((expit(1) + expit(2)) / 2, abs=0.03)


def test_a_model_that_wins_by_its_length_alone_does_not_win_at_equal_length() -> None:
    outcomes = crowd(np.random.default_rng(1), {"long": 0.0, "short": 0.0}, 600, 2, length=1.5)
    (pair,) = estimate(outcomes, "long", "short").pairs
    assert pair.rate > 0.7 and pair.is_decided
    assert pair.equal_low < 0.5 < pair.equal_high and abs(pair.at_equal_length - 0.5) < 0.15


def test_at_equal_lengths_the_length_changes_nothing() -> None:
    outcomes = [Outcome(i, "a", "x", "y", float(i % 4 > 0), (10, 10)) for i in range(400)]
    (pair,) = estimate(outcomes, "x", "y").pairs
    assert pair.rate == 0.75 and pair.at_equal_length == pytest.approx(0.75, abs=0.01)


def test_one_prompt_has_no_interval_and_the_same_seed_the_same_one() -> None:
    (pair,) = estimate([Outcome(0, f"p{i}", "x", "y", 1.0) for i in range(9)]).pairs
    assert math.isnan(pair.low) and not pair.is_decided
    outcomes = crowd(np.random.default_rng(2), {"x": 0.3, "y": 0.0}, 30, 3)
    assert estimate(outcomes, "x", "y").pairs == estimate(outcomes, "x", "y").pairs


@pytest.mark.slow
@pytest.mark.parametrize("people", [1, 5])
def test_intervals_hold_the_true_rate_where_prompts_and_people_differ(people: int) -> None:
    """About 95% of them; more with few people, since prompts and people are drawn anew at once."""
    random, held = np.random.default_rng(3), []
    for _ in range(150):
        outcomes = [one._replace(lengths=None) for one in crowd(random, {"x": 0.0, "y": 0.0}, 60, people, spread=0.7)]
        if people == 1:  # nothing is known of other people
            outcomes = [one._replace(lengths=None) for one in crowd(random, {"x": 0.0, "y": 0.0}, 60, 1)]
        (pair,) = estimate(outcomes, "x", "y", n=150).pairs
        held.append(pair.low <= 0.5 <= pair.high)
    assert 0.9 <= np.mean(held) <= 1.0


def test_rows_of_the_arena_are_read() -> None:
    rows: list[tuple[str, dict[str, Any]]] = [
        ("f:1", {"model_a": "x", "model_b": "y", "winner": "tie (bothbad)", "question_id": 3, "judge": "j"}),
        ("f:2", {"model_a": "x", "model_b": "y", "winner": "model_b", "response_a": "one", "response_b": "three"}),
    ]
    one, other = outcomes_of_rows(rows)
    assert (one.prompt, one.annotator, one.score, one.lengths) == ("3", "j", 0.5, None)
    assert (other.prompt, other.score, other.lengths) == ("f:2", 0.0, (3, 5))
    with pytest.raises(ValueError, match="f:9: 'model_a' and 'model_b' must be two different names"):
        outcomes_of_rows([("f:9", {"model_a": "x", "model_b": "x", "winner": "tie"})])


def test_models_without_a_choice_are_named() -> None:
    with pytest.raises(ValueError, match="nobody judged a text of z: there are x, y"):
        estimate([Outcome(0, "p", "x", "y", 1.0)], "x", "z")
    with pytest.raises(ValueError, match="no choice between two of the models"):
        estimate([])
