from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import rlhf_envs  # noqa: F401
from rlhf_envs.tasks.increasing_numbers import IncreasingNumbers
from rlhf_envs.tasks.sentiment import Sentiment
from rlhf_envs.tasks.token_bandit import TokenBandit, completion_rewards, enumerate_completions, optimum
from rlhf_envs.text_env import TextGenerationEnv


def test_enumerated_completions_have_probability_1_under_any_policy() -> None:
    completions = enumerate_completions()
    assert len(completions) == len(set(completions)) == 1 + 7 + 7 * 7 * 8
    step = np.random.default_rng(0).dirichlet(np.ones(8))
    assert sum(np.prod(step[list(ids)]) for ids in completions) == pytest.approx(1)


def test_enumerated_rewards_are_those_of_the_environment() -> None:
    env = TextGenerationEnv(TokenBandit)
    completions = enumerate_completions()
    expected = completion_rewards("c", completions)
    for i in range(0, len(completions), 7):
        env.reset(options={"index": 2})
        for token in completions[i]:
            _, reward, terminated, _, info = env.step(token)
        assert terminated
        assert info["prompt"] == "c"
        assert reward == pytest.approx(expected[i])


@pytest.mark.parametrize("prompt", list("abcd"))
def test_bandit_rewards_spread_over_the_range_and_differ_between_contexts(prompt: str) -> None:
    rewards = completion_rewards(prompt, enumerate_completions())
    assert -1 <= rewards.min() < -0.5
    assert 0.5 < rewards.max() <= 1
    other = "a" if prompt != "a" else "b"
    assert abs(np.corrcoef(rewards, completion_rewards(other, enumerate_completions()))[0, 1]) < 0.7


@pytest.mark.parametrize("kl_coef", [0.05, 0.3, 5.0])
def test_no_policy_beats_the_closed_form(kl_coef: float) -> None:
    rng = np.random.default_rng(1)
    log_ref = np.log(rng.dirichlet(np.ones(50)))
    rewards = rng.uniform(-1, 1, 50)
    best = optimum(log_ref, rewards, kl_coef)
    assert best["policy"].sum() == pytest.approx(1)
    assert best["objective"] == pytest.approx(kl_coef * np.log(np.sum(np.exp(log_ref + rewards / kl_coef))))
    for scale in (1e-3, 0.03, 1.0):
        other = best["policy"] * np.exp(scale * rng.normal(size=50))
        other /= other.sum()
        objective = other @ rewards - kl_coef * np.sum(other * (np.log(np.maximum(other, 1e-300)) - log_ref))
        assert objective < best["objective"]


def test_the_optimum_tends_to_the_reference_and_to_the_best_completion() -> None:
    log_ref, rewards = np.log(np.array([0.7, 0.2, 0.1])), np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(optimum(log_ref, rewards, 1e6)["policy"], np.exp(log_ref), atol=1e-5)
    greedy = optimum(log_ref, rewards, 1e-3)
    np.testing.assert_allclose(greedy["policy"], [0, 0, 1], atol=1e-5)
    assert greedy["kl"] == pytest.approx(-log_ref[2])


@pytest.mark.parametrize(
    ("log_ref", "rewards", "kl_coef", "message"),
    [
        (np.log([0.5, 0.5]), np.zeros(3), 1, "one shape"),
        (np.log([0.5, 0.4]), np.zeros(2), 1, "sum to 0.9, not to 1"),
        (np.log([0.5, 0.5]), np.zeros(2), 0, "above 0, got 0"),
    ],
)
def test_the_optimum_of_nonsense_is_an_error(
    log_ref: np.ndarray, rewards: np.ndarray, kl_coef: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        optimum(log_ref, rewards, kl_coef)


@pytest.mark.parametrize("start", [0, 9])
def test_increasing_numbers_can_be_solved_from_every_prompt(start: int) -> None:
    env = TextGenerationEnv(IncreasingNumbers)
    env.reset(options={"index": start})
    for number in range(start + 1, start + 11):
        _, reward, terminated, _, info = env.step(env.tokenizer.convert_tokens_to_ids(str(number)))
    assert terminated
    assert reward == 1
    assert info["reward_components"] == {"increasing-numbers": 1.0}


def test_the_rewards_horizon_follows_max_new_tokens() -> None:
    env = TextGenerationEnv(IncreasingNumbers, max_new_tokens=2)
    env.reset(options={"index": 0})
    env.step(env.tokenizer.convert_tokens_to_ids("1"))
    assert env.step(env.tokenizer.convert_tokens_to_ids("2"))[1] == 1


def test_diagnostic_tasks_refuse_a_model_unknown_words_and_unknown_splits() -> None:
    with pytest.raises(ValueError, match="has a vocabulary of its own: leave out model='tiny'"):
        TextGenerationEnv(TokenBandit, model="tiny")
    with pytest.raises(ValueError, match=r"row 1 has words outside the vocabulary: z; there are a, b"):
        TextGenerationEnv(TokenBandit, data=[{"prompt": "a"}, {"prompt": "z"}])
    with pytest.raises(ValueError, match="no split 'nowhere'; there are train, validation, test"):
        TextGenerationEnv(IncreasingNumbers, split="nowhere")


def test_sentiment_has_openings_of_reviews_in_disjoint_splits() -> None:
    rows = {split: Sentiment().rows(split, None) for split in ("train", "validation", "test")}
    prompts = {split: {row["prompt"] for row in of} for split, of in rows.items()}
    assert all(len(of) >= 400 for of in rows.values())
    assert all(3 <= len(row["prompt"].split()) <= 8 for row in rows["test"])
    assert {"reference", "label"} <= rows["train"][0].keys()
    references = {split: {row["prompt"] + row["reference"] for row in of} for split, of in rows.items()}
    assert not references["train"] & references["test"]
    assert len(prompts["train"]) > 0.8 * len(rows["train"])


def test_sentiment_encodes_its_prompts_with_tinys_tokenizer() -> None:
    env = TextGenerationEnv(Sentiment, split="validation", reward="gold")
    obs, info = env.reset(seed=0)
    assert env.model_name == "tiny"
    assert obs["input_ids"].shape == (48,)
    kept = obs["input_ids"][obs["attention_mask"] == 1]
    assert env.tokenizer.decode(kept) == env.rows[info["index"]]["prompt"].lower()


def test_prompts_makes_an_environment_of_any_file_and_any_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_reward_of_answers.py").write_text(
        "def overlap(prompts, completions, answer, **columns):\n"
        "    return [float(right in text) for right, text in zip(answer, completions)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "my.jsonl"
    rows = [{"question": f"{i} and {i} is", "answer": str(2 * i)} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = dict(data=str(path), reward="my_reward_of_answers:overlap", columns={"prompt": "question"})
    made = gym.make("rlhf/Prompts-v0", **arguments, max_new_tokens=4)
    env: Any = gym.make(EnvSpec.from_json(made.spec.to_json())).unwrapped  # type: ignore[union-attr]
    assert 20 <= len(env.rows) < 30
    env.reset(options={"index": 0})
    answer = env.tokenizer(" " + env.rows[0]["answer"])["input_ids"]
    for token in [*answer, *[env.tokenizer.eos_token_id] * (len(answer) < 4)]:
        _, reward, terminated, _, info = env.step(token)
    assert terminated
    assert reward == 1.0
    assert info["reward_components"] == {"overlap": 1.0}


def test_prompts_without_data_or_reward_says_what_it_takes_instead(caplog: pytest.LogCaptureFixture) -> None:
    env: Any = gym.make("rlhf/Prompts-v0", split="test").unwrapped
    assert env.rows == Sentiment().rows("test", None)
    assert "no data: the prompts are openings of movie reviews; give data='my.jsonl'" in caplog.text
    assert "no reward: 'tiny-reward'" in caplog.text


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("json:reward", "there is no 'reward' in 'json'; there are .*dumps"),
        ("imports_nothing_there:reward", "importing 'imports_nothing_there' failed: No module named 'nothing_there'"),
    ],
)
def test_a_reward_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: str, message: str
) -> None:
    (tmp_path / "imports_nothing_there.py").write_text("import nothing_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message):
        gym.make("rlhf/Prompts-v0", data=[{"prompt": "a"}], reward=reward)
