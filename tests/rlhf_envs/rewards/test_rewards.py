from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from rlhf_envs.rewards import (
    Clipped,
    FunctionReward,
    Reward,
    Whitened,
    evaluate_reward,
    get_reward,
    list_rewards,
    register_reward,
    registry,
)
from rlhf_envs.rewards.rules import IncreasingNumbersReward, TokenBanditReward

PROMPTS = ["one", "two", "three"]
COMPLETIONS = [" a", " bb", " ccc"]


class Length(Reward):
    name = "length"

    def __init__(self) -> None:
        self.calls = 0

    def score(self, prompts: list[str], completions: list[str], **columns: list[object]) -> np.ndarray:
        self.calls += 1
        return np.array([len(completion) for completion in completions])


class First(Reward):
    name = "first"

    def score(self, prompts: list[str], completions: list[str], **columns: list[object]) -> list[float]:
        return [1.0] + [0.0] * (len(prompts) - 1)


def trl_reward(completions: list[str], label: list[int], **kwargs: object) -> list[float]:
    """As TRL users write them: by keyword, completions first, the columns it wants by name."""
    return [float(value) for value in label]


def evaluate(reward_fn: object, **columns: list[object]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return evaluate_reward(reward_fn, PROMPTS, COMPLETIONS, columns)  # type: ignore[arg-type]


def returns(value: object) -> object:
    def judge(prompts: list[str], completions: list[str], **columns: object) -> object:
        return value

    return judge


def test_a_plain_trl_reward_function_is_called_with_the_columns_and_reported_by_its_name() -> None:
    scores, components = evaluate(trl_reward, label=[3, 1, 2], reference=["x", "y", "z"])
    assert scores.tolist() == [3, 1, 2]
    assert scores.dtype == np.float64
    assert list(components) == ["trl_reward"]


def test_composition_is_arithmetic_and_reports_unweighted_components() -> None:
    reward = 0.5 * Length() + trl_reward - 2 * First() * 3 - 1
    scores, components = evaluate(reward, label=[10, 20, 30])
    np.testing.assert_allclose(scores, 0.5 * np.array([2, 3, 4]) + [10, 20, 30] - 6 * np.array([1, 0, 0]) - 1)
    assert {name: values.tolist() for name, values in components.items()} == {
        "length": [2, 3, 4],
        "trl_reward": [10, 20, 30],
        "first": [1, 0, 0],
    }


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (1 - Length(), [-1, -2, -3]),
        (-Length(), [-2, -3, -4]),
        (First() * Length(), [2, 0, 0]),
        (sum([Length(), First()]), [3, 3, 4]),
        (trl_reward + Length(), [3, 4, 5]),
    ],
)
def test_operators_work_from_both_sides(reward: Reward, expected: list[float]) -> None:
    assert evaluate(reward, label=[1, 1, 1])[0].tolist() == expected


def test_a_reward_used_twice_is_scored_once() -> None:
    length = Length()
    scores, components = evaluate(length * length - length)
    assert scores.tolist() == [2, 6, 12]
    assert length.calls == 1
    assert list(components) == ["length"]


def test_different_rewards_of_one_name_keep_separate_components() -> None:
    assert list(evaluate(Length() + Length())[1]) == ["length", "length#2"]


def test_a_composition_can_be_called_like_any_reward_and_pickled() -> None:
    reward = pickle.loads(pickle.dumps(0.5 * Length() + First()))
    assert reward(prompts=PROMPTS, completions=COMPLETIONS).tolist() == [2, 1.5, 2]
    assert reward.__name__ == reward.name == "((0.5 * length) + first)"


@pytest.mark.parametrize("operand", [None, "2", True])
def test_nonsense_operands_are_a_type_error(operand: object) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        Length() + operand


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5, np.float32(3)],
        (1, 2.5, 3),
        np.array([1, 2.5, 3], dtype=np.float32),
        torch.tensor([1, 2.5, 3], dtype=torch.bfloat16),
        torch.tensor([1, 2.5, 3], requires_grad=True),
        [torch.tensor(1.0), torch.tensor(2.5), np.array(3)],
    ],
)
def test_lists_arrays_and_tensors_of_floats_are_accepted(value: object) -> None:
    assert evaluate(returns(value))[0].tolist() == [1, 2.5, 3]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'judge' returned None for 3 completions"),
        (1.0, "'judge' returned 1.0"),
        ("abc", "'judge' returned 'abc'"),
        ([1.0, 2.0], "'judge' returned 2 scores for 3 completions"),
        (np.zeros((3, 1)), r"shape \(3, 1\) .*squeeze"),
        (torch.zeros(3, 1), r"shape \(3, 1\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        (np.zeros(4), r"shape \(4,\)"),
        ([1.0, "x", 1.0], r"'judge' returned 'x' for completion 2 of 3.*Prompt: 'two'. Completion: ' bb'"),
        ([1.0, 1.0, float("nan")], r"nan for completion 3 of 3.*'three'.*' ccc'"),
        (torch.tensor([float("inf"), 1, 1]), "inf for completion 1"),
        (["1", 1.0, 1.0], "'1' for completion 1"),
        ([np.ones((1, 1)), 1.0, 1.0], r"array\(\[\[1.\]\]\) for completion 1"),
        ([1j, 1.0, 1.0], "1j for completion 1"),
    ],
)
@pytest.mark.parametrize("composed", [False, True])
def test_bad_scores_are_an_error_that_names_reward_and_text(value: object, message: str, composed: bool) -> None:
    reward = returns(value)
    with pytest.raises(ValueError, match=message):
        evaluate(2 * FunctionReward(reward) + Length() if composed else reward)  # type: ignore[arg-type]


def test_a_wrapper_transforms_only_the_scores_that_apply() -> None:
    clipped = Clipped(FunctionReward(returns([5.0, None, 3.0])), low=4.0)
    assert evaluate(clipped + 0 * Length())[0].tolist() == [5, 0, 4]
    whitened = Whitened(FunctionReward(returns([5.0, None, 3.0])))
    evaluate(whitened + 0 * Length())
    assert (whitened.count, whitened.mean) == (2, 4.0)


def test_a_composition_that_overflows_is_named() -> None:
    with pytest.raises(ValueError, match=r"'\(\(1e\+308 \* length\) \* length\)' returned inf for completion 1"):
        evaluate(1e308 * Length() * Length())


def test_an_unknown_reward_lists_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown reward 'beauty'; there are .*gold.*tiny-reward"):
        get_reward("beauty")


def test_a_registered_factory_is_called_once_and_a_registered_function_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_targets", dict(registry._targets))
    monkeypatch.setattr(registry, "_made", {})
    register_reward("length", Length)
    register_reward("labels", trl_reward)
    register_reward("numbers", "rlhf_envs.rewards.rules:IncreasingNumbersReward")
    assert isinstance(get_reward("length"), Length)
    assert get_reward("length") is get_reward("length")
    assert get_reward("labels") is trl_reward
    assert isinstance(get_reward("numbers"), IncreasingNumbersReward)
    assert {"length", "labels", "numbers"} < set(list_rewards())


def test_a_reward_can_be_given_by_its_address() -> None:
    assert isinstance(get_reward("rlhf_envs.rewards.rules:TokenBanditReward"), TokenBanditReward)
    with pytest.raises(ValueError, match=r"there is no 'Nothing' in 'rlhf_envs.rewards.rules'"):
        get_reward("rlhf_envs.rewards.rules:Nothing")
    with pytest.raises(
        ValueError, match=r"no module 'no_such_module' in /.*, or where Python looks: run from its folder"
    ):
        get_reward("no_such_module:x")


@pytest.mark.parametrize(
    ("prompt", "completion", "run"),
    [
        ("3", " 4 5 9", 3),
        ("3", " 3 4 5", 0),
        ("3", " 4 4 5", 1),
        ("3", " 9 8 10", 1),
        ("0", "", 0),
        ("3", " 4 x 5", 1),
    ],
)
def test_increasing_numbers_counts_the_run_that_goes_on_from_the_prompt(prompt: str, completion: str, run: int) -> None:
    assert IncreasingNumbersReward(10)([prompt], [completion]).tolist() == [run / 10]


def test_increasing_numbers_is_1_for_a_full_run() -> None:
    assert IncreasingNumbersReward(4)(["1"], [" 2 3 4 5"]).tolist() == [1]


def test_rules_name_texts_that_are_not_theirs() -> None:
    with pytest.raises(
        ValueError, match="'increasing-numbers' needs a prompt that ends with a number, got 'this film'"
    ):
        IncreasingNumbersReward()(["this film"], [" was"])
    with pytest.raises(ValueError, match="'token-bandit' needs letters from a to z, got 'was'"):
        TokenBanditReward()(["a"], [" was"])


def test_token_bandit_depends_on_context_place_and_neighbour() -> None:
    score = TokenBanditReward().score
    a, b, c, d = score(["a", "b", "a", "a"], [" b c d", " b c d", " c b d", " b c e"])
    assert len({a, b, c, d}) == 4
    # An additive reward would give the same gain for a last letter after any other.
    first, second, third, fourth = score(["a"] * 4, [" a a a", " a a f", " a f a", " a f f"])
    assert abs((second - first) - (fourth - third)) > 0.05
