"""Evaluations during training: what they write, and that they leave the training alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import KVWriter, Logger

import agents
from agents.evaluation.generate import generate_in, held_out_indices
from agents.evaluation.source import Source
from agents.training.building import _evaluation_environment
from agents.training.callbacks import PeriodicEvaluation
from agents.training.config import TrainConfig

BANDIT = "rlhf/TokenBandit-v0"
ROLLOUT = 48


def make_agent(algo: str) -> Any:
    env = agents.make_vec_env(BANDIT, 8, seed=0)
    return agents.make(algo, env, seed=0, device="cpu", n_steps=6, batch_size=ROLLOUT)


def evaluation(folder: Path) -> PeriodicEvaluation:
    env = agents.make_vec_env(BANDIT, 3, split="validation")
    return PeriodicEvaluation(env, n_eval_episodes=4, eval_freq=2 * ROLLOUT, folder=folder, seed=1)


def test_an_evaluation_keeps_the_best_of_as_many_completions_as_the_algorithm_draws(tmp_path: Path) -> None:
    agent = agents.make(
        "best_of_n", agents.make_vec_env(BANDIT, 8, seed=0), seed=0, device="cpu", n_steps=12, best_of=5
    )
    callback = evaluation(tmp_path)
    agent.learn(2 * ROLLOUT, callback=callback)
    batch = Source.of(agent).open_episodes(callback.eval_env, "its own")
    indices = held_out_indices(batch, 4)
    best, one = (
        [done.reward for done in generate_in(batch, agent.policy, indices, 1, best_of=best_of)] for best_of in (5, 1)
    )
    assert callback.evaluations_results == [best]
    assert sum(best) > sum(one)


def test_without_validation_rows_the_test_rows_are_taken_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "a", "split": "train"}, {"prompt": "b", "split": "eval"}]
    config = TrainConfig(env=BANDIT, env_kwargs={"data": rows}, n_eval_episodes=2)
    assert [row["prompt"] for row in _evaluation_environment(config).get_attr("rows", 0)[0]] == ["b"]
    assert "no row has split 'validation'; there are: test, train. The evaluations during training" in caplog.text


@pytest.mark.parametrize("algo", ["ppo", "maskable_ppo"])
def test_evaluations_come_every_eval_freq_tokens_and_leave_the_training_alone(algo: str, tmp_path: Path) -> None:
    plain = make_agent(algo)
    plain.learn(4 * ROLLOUT)
    callback = evaluation(tmp_path)
    watched = make_agent(algo)
    watched.learn(4 * ROLLOUT, callback=callback)
    for one, other in zip(plain.policy.parameters(), watched.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    saved = np.load(tmp_path / "evaluations.npz")
    assert saved["timesteps"].tolist() == [2 * ROLLOUT, 4 * ROLLOUT]
    assert saved["results"].shape == saved["ep_lengths"].shape == (2, 4)
    assert callback.last_mean_reward == pytest.approx(saved["results"][1].mean())
    assert callback.best_mean_reward == pytest.approx(saved["results"].mean(axis=1).max())


def test_a_resumed_callback_goes_on_with_what_it_had(tmp_path: Path) -> None:
    whole, first, second = (evaluation(tmp_path / name) for name in ("whole", "first", "second"))
    agent = make_agent("ppo")
    agent.learn(4 * ROLLOUT, callback=whole)
    agent = make_agent("ppo")
    agent.learn(3 * ROLLOUT, callback=first)
    second.set_state(first.get_state())
    agent.learn(ROLLOUT, callback=second, reset_num_timesteps=False)
    assert second.get_state() == whole.get_state()
    for name in ("timesteps", "results", "ep_lengths"):
        files = [np.load(tmp_path / part / "evaluations.npz")[name] for part in ("whole", "second")]
        np.testing.assert_array_equal(*files)


def test_each_evaluation_shows_the_same_prompts(tmp_path: Path) -> None:
    agent, callback = make_agent("ppo"), evaluation(tmp_path)
    shown: list[list[str]] = []

    class Recorder(KVWriter):
        def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
            if "eval/samples" in key_values:
                shown.append(re.findall(r"` (\w) \*\*", key_values["eval/samples"]))

    agent.set_logger(Logger(None, [Recorder()]))
    agent.learn(4 * ROLLOUT, callback=callback)
    assert len(shown) == 2
    assert shown[0] == shown[1]
    assert len(shown[0]) == 4
