"""Rewards are checked against the data's columns before anything is sampled for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest

from rlhf_envs.rewards import (
    FunctionReward,
    Guarded,
    MissingColumnError,
    Reward,
    RewardError,
    ScoreError,
    check_signature,
    evaluate_reward,
    get_reward,
)


def score(prompts: list[str], completions: list[str], word: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(prompts)


def plain(prompts: list[str], completions: list[str]) -> list[float]:
    return [0.0] * len(prompts)


def per_text(completion: str) -> float:
    return 0.0


def optional(completions: list[str], word: list[str] | None = None, **_: Any) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "columns"),
    [
        (score, ["word", "other"]),
        (plain, []),
        (optional, []),
        (lambda **given: [0.0], ["word"]),
        (lambda completions, completion_ids, **_: [0.0], []),
        (get_reward("gold"), ["word"]),
        (0.5 * FunctionReward(score) + FunctionReward(optional), ["word"]),
    ],
)
def test_a_reward_that_can_be_called_passes(reward: Callable[..., Any], columns: list[str]) -> None:
    check_signature(reward, columns)


@pytest.mark.parametrize("reward", [score, FunctionReward(score), 0.5 * FunctionReward(score), Guarded(score)])
def test_a_column_that_is_needed_is_named(reward: Callable[..., Any]) -> None:
    with pytest.raises(MissingColumnError, match="reward 'score' needs the column 'word'; the data has: label, topic"):
        check_signature(reward, ["label", "topic"])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            per_text,
            r"'per_text' is per_text\(completion: 'str'\).* write def per_text\(prompts, completions, \*\*columns",
        ),
        (lambda completion, **_: 0.0, "write def score"),
        (lambda prompts, completions, /: [0.0], "write def score"),
        (plain, r"'plain' does not take the column 'word' of the data: end its parameters with \*\*columns"),
    ],
)
def test_another_signature_is_answered_with_the_right_one(reward: Callable[..., Any], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        check_signature(reward, ["word"])


def test_an_environment_refuses_a_reward_that_it_could_not_call() -> None:
    with pytest.raises(MissingColumnError, match="needs the column 'word'"):
        gym.make("rlhf/TokenBandit-v0", reward_fn=score)


def test_a_call_that_cannot_be_made_is_not_tried_again() -> None:
    """Where the signature does not tell; a TypeError inside of the reward may pass, and is tried again."""
    calls = []

    class Rejects(Reward):
        def score(self, prompts: list[str], completions: list[str], **columns: Any) -> Any:
            calls.append(1)
            raise TypeError("flaky")

    with pytest.raises(ScoreError, match="'per_text' cannot be called with prompts, completions, word by keyword"):
        evaluate_reward(Guarded(per_text, backoff=0.0), ["a"], ["b"], {"word": ["c"]})
    with pytest.raises(RewardError, match="failed 3 times"):
        evaluate_reward(Guarded(Rejects(), backoff=0.0), ["a"], ["b"], {})
    assert len(calls) == 3


def test_one_number_for_one_completion_is_answered_with_a_list() -> None:
    with pytest.raises(ScoreError, match=r"returned 0.5 for 1 completion: return a list of one float per completion"):
        evaluate_reward(lambda prompts, completions: 0.5, ["a"], ["b"], {})
