"""Aspects of an answer with a weight or a limit each: the file, the reward, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.rewards import evaluate_reward, get_reward
from rlhf_envs.rewards.aspects import AspectReward, aspect_limits, find_aspects, read_aspects
from rlhf_envs.rewards.constraints import find_constraints


def length(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def shouting(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [float(text.isupper()) for text in completions]


def scores(reward: AspectReward) -> tuple[list[float], dict[str, list[float]]]:
    totals, components = evaluate_reward(reward, ["", ""], ["abc", "ABCDE"], {})
    return totals.tolist(), {name: values.tolist() for name, values in components.items()}


def test_the_reward_is_the_weighted_sum_and_every_aspect_is_a_component() -> None:
    reward = AspectReward({"long": {"weight": 2, "reward": length}, "loud": {"weight": -3, "reward": shouting}})
    assert scores(reward) == ([6, 7], {"long": [3, 5], "loud": [0, 1]})
    assert not aspect_limits(reward)


def test_limits_are_constraints_whose_price_is_0_until_training_finds_one() -> None:
    reward = AspectReward(
        {
            "long": {"weight": 1, "reward": length},
            "loud": {"limit": 0.25, "reward": shouting},
            "big": {"at_least": 4, "reward": length},
        }
    )
    assert scores(reward) == ([3, 5], {"long": [3, 5], "loud": [0, 1], "big": [3, 5]})
    assert aspect_limits(reward)
    assert find_aspects(reward) == [reward]
    big, loud = find_constraints(reward)
    assert (loud.cost_name, loud.excess(0.5), big.cost_name, big.excess(3)) == ("loud", 0.25, "big", 1)
    loud.multiplier, big.multiplier = 4.0, 2.0
    assert scores(reward)[0] == [3 - 4 * (0 - 0.25) - 2 * (4 - 3), 5 - 4 * (1 - 0.25) - 2 * (4 - 5)]


def test_a_file_names_folders_beside_it_first_and_then_registered_rewards(tmp_path: Path) -> None:
    (tmp_path / "repetition").mkdir()
    (tmp_path / "aspects.yml").write_text(
        "repetition: {weight: 1}\nfresh: {weight: 1, reward: distinct-ngrams}\ntoxicity: {limit: 0.1}\n"
    )
    for place in (tmp_path, tmp_path / "aspects.yml"):
        found = {name: aspect.to_dict() for name, aspect in read_aspects(place).items()}
        assert found == {
            "repetition": {"weight": 1.0, "reward": f"hf:{tmp_path / 'repetition'}"},
            "fresh": {"weight": 1.0, "reward": "distinct-ngrams"},
            "toxicity": {"limit": 0.1, "reward": "toxicity"},
        }
        assert read_aspects(found) == read_aspects(place)


def test_an_aspect_may_be_called_true(tmp_path: Path) -> None:
    (tmp_path / "aspects.yml").write_text("helpful: {weight: 1, reward: gold}\ntrue: {at_least: 0, reward: novelty}\n")
    assert list(read_aspects(tmp_path)) == ["helpful", "true"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected aspects such as 'helpful: {weight: 1}'"),
        ("a: {weight: 1", "not valid YAML"),
        ("a: {weight: 1}\na: {weight: 2}", "not valid YAML"),
        ("a: 1", "a: expected {weight: 1} or {limit: 0.1}, got 1"),
        ("'a b': {weight: 1}", "the name 'a b': write at most 60 letters"),
        ("a: {wieght: 1}", "a: unknown key 'wieght'; did you mean 'weight'"),
        ("a: {reward: gold}", "a: give a weight, a limit .* it has none of them"),
        ("a: {weight: 1, limit: 1}", "a: give a weight, a limit .* it has weight and limit"),
        ("a: {weight: .nan}", "a: weight is nan, not a finite number"),
        ("a: {limit: true}", "a: limit is True, not a finite number"),
        ("a: {limit: 1, reward: repetition}", "limits alone give nothing to raise: give one of a a weight"),
        ("a: {weight: 0, reward: gold}", "all weights are 0, which gives nothing to raise"),
        ("a: {weight: 1, reward: 7}", "a: reward is 7, not the name or folder of a reward"),
        ("a: {weight: 1, reward: 'evil.py:score'}", "'evil.py:score' is not imported just because a file names it"),
        ("a: {weight: 1, reward: 'ai_judge:x.yml'}", "is not imported just because a file names it"),
        ("a: {weight: 1}", "there is no reward model .*a, and no reward named 'a'"),
        ("a: {weight: 1, harm: any, loss: bt}", "a: harm reads flags: leave criterion and loss out"),
        ("a: {weight: 1, loss: l2}", "a: loss is 'l2': choose bt, mse, ordinal"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "aspects.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_aspects(path)
    assert str(path) in str(error.value)


def test_a_missing_file_and_an_unknown_reward_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file of aspects .*aspects\.yml: rlhf reward fit --aspects"):
        read_aspects(tmp_path)
    with pytest.raises(ValueError, match="aspect 'a': unknown reward 'nothing'"):
        get_reward("aspects", aspects={"a": {"weight": 1, "reward": "nothing"}})
