"""What a reward may return for an episode: a number, None, a number for each token, and components beside it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from rlhf_envs.rewards import Clipped, Constrained, FunctionReward, Guarded, Reward, ScoreError, Scores, evaluate_reward

PROMPTS, COMPLETIONS = ["one", "two", "three"], [" a", " bb", " ccc"]
IDS = [[5], [6, 7], [8, 9, 1]]


def returns(value: Any, name: str = "judge") -> FunctionReward:
    """Return a reward that gives this value for any texts."""
    return FunctionReward(lambda prompts, completions: value, name)


def evaluate(reward: Any) -> Scores:
    return evaluate_reward(reward, PROMPTS, COMPLETIONS, {"completion_ids": IDS})


def tokens_of(reward: Any) -> list[list[float] | None] | None:
    """Return the token rewards as lists, after checking that they sum to the totals."""
    scores = evaluate(reward)
    if scores.tokens is None:
        return None
    for total, tokens in zip(scores.totals, scores.tokens, strict=True):
        assert tokens is None or tokens.sum() == pytest.approx(total, abs=1e-12)
    return [None if tokens is None else tokens.tolist() for tokens in scores.tokens]


STEPS = [[1.0], [2.0, 3.0], [4.0, 5.0, 6.0]]
by_token, by_episode = returns(STEPS, "steps"), returns([10.0, 20.0, 30.0], "whole")
some = returns([None, [2.0, 3.0], 7.0], "some")


@pytest.mark.parametrize(
    "kind",
    [list, tuple, np.array, torch.tensor, lambda row: np.array(row, np.float16), lambda row: [*map(np.array, row)]],
)
def test_a_reward_may_score_every_token(kind: Any) -> None:
    scores = evaluate(returns([kind(row) for row in STEPS]))
    assert scores.totals.tolist() == scores.components["judge"].tolist() == [1, 5, 15]
    assert scores.tokens is not None
    assert [tokens.tolist() for tokens in scores.tokens if tokens is not None] == STEPS


def test_episodes_may_differ_in_what_they_are_given() -> None:
    scores = evaluate(some + 0 * by_episode)
    assert scores.totals.tolist() == [0, 5, 7]
    assert tokens_of(some + 0 * by_episode) == [None, [2, 3], None]
    assert evaluate(by_episode).tokens is None


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (2 * by_token, [[2], [4, 6], [8, 10, 12]]),
        (-by_token, [[-1], [-2, -3], [-4, -5, -6]]),
        (by_token + 1, [[2], [2, 4], [4, 5, 7]]),
        (1 - by_token, [[0], [-2, -2], [-4, -5, -5]]),
        (by_token + by_token, [[2], [4, 6], [8, 10, 12]]),
        (by_token + 0.5 * by_episode, [[6], [2, 13], [4, 5, 21]]),
        (by_episode - by_token, [[9], [-2, 17], [-4, -5, 24]]),
        (by_episode * by_token, [[10], [40, 60], [120, 150, 180]]),
        (by_token * by_token, None),
        (by_token + some, [[1], [4, 6], [4, 5, 13]]),
        (by_episode + 0.5, None),
        (Guarded(2 * by_token), [[2], [4, 6], [8, 10, 12]]),
        (Constrained(by_token, by_episode, limit=2.0, multiplier=0.5), [[-3], [2, -6], [4, 5, -8]]),
        (Clipped(by_token, high=3.0) + 0 * by_episode, None),
    ],
)
def test_token_rewards_compose_linearly_and_the_rest_lands_on_the_last_token(reward: Any, expected: Any) -> None:
    assert tokens_of(reward) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0], [1.0], [1.0] * 3], r"completion 2 of 3: 1 token rewards for a completion of 2 tokens"),
        ([1.0, 1.0, torch.ones(4)], r"completion 3 of 3: 4 token rewards for a completion of 3 tokens"),
        ([1.0, [], 1.0], r"completion 2 of 3: 0 token rewards for a completion of 2 tokens"),
        ([1.0, [1.0, None], 1.0], r"completion 2 of 3: the reward of token 2 must be a finite number, got None"),
        ([1.0, [1.0, float("inf")], 1.0], r"token 2 must be a finite number, got inf"),
        ([1.0, [1e308, 1e308], 1.0], r"completion 2 of 3: a score must be a finite number"),
        ([(1.0, {"style": "good"}), 1.0, 1.0], r"the component 'style' must be a finite number or None, got 'good'"),
        ([(1.0, {3: 1.0}), 1.0, 1.0], r"a component needs a name other than 'judge', got 3"),
        ([(1.0, {"judge": 1.0}), 1.0, 1.0], r"a component needs a name other than 'judge', got 'judge'"),
        ([("1", {"style": 1.0}), 1.0, 1.0], r"completion 1 of 3: a score must be a finite number"),
    ],
)
@pytest.mark.parametrize("around", [lambda reward: reward, lambda reward: Guarded(0.5 * reward + by_episode)])
def test_wrong_scores_of_tokens_and_parts_name_reward_episode_and_texts(value: Any, message: str, around: Any) -> None:
    with pytest.raises(ScoreError, match=f"reward 'judge' returned .*{message}.*Prompt: '.*'. Completion: ' ") as error:
        evaluate(around(returns(value)))
    assert error.value.index + 1 == int(str(error.value).split("for completion ")[1][0])


def test_a_dict_beside_a_score_becomes_components() -> None:
    reward = returns([(1.0, {"style": 0.5}), 2.0, (None, {"facts": True, "style": None})])
    scores = evaluate(2 * reward + by_episode)
    assert scores.totals.tolist() == [12, 24, 30]
    assert list(scores.components) == ["judge", "style", "facts", "whole"]
    np.testing.assert_array_equal(scores.components["judge"], [1, 2, np.nan])
    np.testing.assert_array_equal(scores.components["style"], [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(scores.components["facts"], [np.nan, np.nan, 1])
    assert tokens_of(returns([([1.0], {"style": 0.5}), 2.0, 3.0])) == [[1.0], None, None]


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (some + by_episode, [10, 25, 37]),
        (by_episode - 2 * some, [10, 10, 16]),
        (some - by_episode, [-10, -15, -23]),
        (some * by_episode, [10, 100, 210]),
        ((some + 1) + by_episode, [10, 26, 38]),
        (Constrained(by_episode, some, limit=1.0, multiplier=2.0), [10, 12, 18]),
        (Constrained(some, by_episode, limit=1.0, multiplier=1.0), [-9, -14, -22]),
    ],
)
def test_none_leaves_a_reward_out_of_the_composition(reward: Reward, expected: list[float]) -> None:
    scores = evaluate(reward)
    assert scores.totals.tolist() == expected
    np.testing.assert_array_equal(scores.components["some"], [np.nan, 5, 7])


def test_trls_sum_of_rewards_leaves_out_none_alike() -> None:
    columns = [[1.0, None, 3.0], [None, 5.0, 6.0], [7.0, 8.0, None]]
    weights = [0.5, 2.0, -1.0]
    per_function = torch.tensor([[float("nan") if score is None else score for score in column] for column in columns])
    theirs = (per_function.T * torch.tensor(weights)).nansum(dim=1)  # GRPOTrainer, "sum_then_normalize"
    parts = [weight * returns(column, f"{weight}") for weight, column in zip(weights, columns, strict=True)]
    assert evaluate(sum(parts)).totals.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("reward", "who"),
    [(some, "'some'"), (2 * some + 1, "'some'"), (some + returns([None, 1.0, None], "x"), "all of 'some' and 'x'")],
)
def test_an_episode_to_which_nothing_applies_is_an_error_that_names_it(reward: Reward, who: str) -> None:
    message = f"applies not at all to completion 1 of 3: {who} returned None.*Prompt: 'one'. Completion: ' a'"
    with pytest.raises(ScoreError, match=message) as error:
        evaluate(reward)
    assert error.value.index == 0


def test_an_overflow_inside_a_composition_is_no_none() -> None:
    huge = returns([1e308, 1.0, 1.0], "huge")
    with pytest.raises(ScoreError, match=r"'\(\(\(10 .*' returned inf for completion 1"):
        evaluate(10 * huge - 10 * huge + by_episode)


def test_a_reward_that_evaluates_itself_may_return_a_pair_or_scores() -> None:
    class Own(Reward):
        name = "own"

        def __init__(self, pair: bool) -> None:
            self.pair = pair

        def score(self, prompts: Any, completions: Any, **columns: Any) -> Any:
            raise NotImplementedError

        def evaluate(self, prompts: Any, completions: Any, columns: Any) -> Any:
            totals, components = np.array([1.0, 5, 15]), {"own": np.zeros(3)}
            return (totals, components) if self.pair else Scores(totals, components, [*map(np.array, STEPS)])

    assert tokens_of(2 * Own(pair=False)) == [[2], [4, 6], [8, 10, 12]]
    assert tokens_of(2 * Own(pair=True)) is None
    assert evaluate(Own(pair=True)).totals.tolist() == [1, 5, 15]


def test_scores_unpack_to_totals_and_components_and_can_be_copied() -> None:
    scores = evaluate(by_token)
    totals, components = scores
    assert totals is scores.totals
    assert components is scores.components
    for again in (pickle.loads(pickle.dumps(scores)), copy.deepcopy(scores)):
        assert again.totals.tolist() == totals.tolist()
        assert [*map(list, again.tokens)] == STEPS
