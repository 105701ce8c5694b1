"""Constrained rewards, and toxicity as a cost."""

from __future__ import annotations

import builtins

import pytest

from rlhf_envs.rewards import (
    Clipped,
    Constrained,
    FunctionReward,
    Guarded,
    Novelty,
    Reward,
    evaluate_reward,
    get_reward,
)
from rlhf_envs.rewards.constraints import find_constraints


class Length(Reward):
    name = "length"

    def score(self, prompts, completions, **columns):
        return [len(completion) for completion in completions]


class Shouting(Reward):
    name = "shouting"

    def score(self, prompts, completions, **columns):
        return [float(completion.isupper()) for completion in completions]


def evaluate(reward):
    return evaluate_reward(reward, ["", ""], ["abc", "ABCDE"], {})


def test_the_lagrangian_by_hand_and_its_unweighted_components():
    scores, components = evaluate(Constrained(Length(), Shouting(), limit=0.25, multiplier=4))
    assert scores.tolist() == [3 - 4 * (0 - 0.25), 5 - 4 * (1 - 0.25)]
    assert {name: values.tolist() for name, values in components.items()} == {"length": [3, 5], "shouting": [0, 1]}


def test_the_cost_of_a_composition_stands_under_a_name_of_its_own():
    reward = Constrained(Length(), 2 * Shouting(), limit=0, multiplier=1, cost_name="loud")
    scores, components = evaluate(reward)
    assert scores.tolist() == [3, 3]
    assert components["loud"].tolist() == [0, 2]
    assert components["shouting"].tolist() == [0, 1]


def test_a_fixed_penalty_is_plain_arithmetic():
    fixed = evaluate(Length() - 4 * Shouting())[0]
    constrained = evaluate(Constrained(Length(), Shouting(), limit=0, multiplier=4))[0]
    assert fixed.tolist() == constrained.tolist()


def test_constraints_nest_and_are_found_anywhere_in_a_composition():
    inner = Constrained(Length(), Shouting(), limit=0.1)
    other = FunctionReward(lambda prompts, completions, **_: [1.0] * len(prompts), "other")
    outer = Constrained(inner, other, limit=0.5)
    assert find_constraints(2 * Clipped(outer, -5, 5) + outer) == [outer, inner]
    assert find_constraints(lambda **_: [0.0]) == []


def test_the_multiplier_is_state():
    first, second = (Constrained(Length(), Shouting(), limit=0.1) for _ in range(2))
    first.multiplier = 1.5
    second.set_state(first.get_state())
    assert second.multiplier == 1.5


def test_a_state_of_before_the_sum_was_kept_apart_is_taken():
    reward = Constrained(Length(), Shouting(), limit=0.25)
    reward.set_state({"multiplier": 1.5, "last_excess": -0.05})
    assert (reward.multiplier, reward.integral) == (1.5, None), "the sum begins with the multiplier"


def test_a_retry_finds_the_memory_of_a_part_that_had_answered_as_it_was():
    calls = []

    def flaky(prompts, completions, **columns):
        calls.append(completions)
        if len(calls) == 1:
            raise ConnectionError("try again")
        return [0.0] * len(prompts)

    reward = Guarded(Constrained(Novelty(1), flaky, limit=0), backoff=0)
    assert evaluate(reward)[0].tolist() == [1, 1], "new at the second attempt too"
    assert len(calls) == 2
    assert evaluate(reward)[0].tolist() == [0, 0]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="limit of cost 'shouting' must be a finite number, got nan"):
        Constrained(Length(), Shouting(), limit=float("nan"))
    with pytest.raises(ValueError, match="multiplier of cost 'shouting' must be at least 0, got -1"):
        Constrained(Length(), Shouting(), limit=0, multiplier=-1)
    with pytest.raises(ValueError, match="both report 'length'"):
        evaluate(Constrained(Length(), Length(), limit=0))


def test_toxicity_tells_insults_from_praise():
    pytest.importorskip("profanity_check")
    toxicity = get_reward("toxicity")
    assert toxicity.name == "toxicity"
    texts = ["a lovely film", "you are a fucking idiot", "", "an honest, moving story", "damn you, shithead"]
    scores, _ = evaluate_reward(toxicity, ["you fucking idiot"] * 5, texts, {})
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[[0, 2, 3]].max() < 0.2 < 0.8 < scores[[1, 4]].min()
    assert len(toxicity([], [])) == 0


def test_toxicity_without_its_package_says_what_to_install(monkeypatch):
    from rlhf_envs.rewards.toxicity import Toxicity

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "profanity_check":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "rlhf-envs\[safety\]"'):
        Toxicity()
