"""Agents learn: held against thresholds, on one seed each; `benchmarks.learning` runs five."""

from __future__ import annotations

import pytest

import agents
from agents.hyperparams import default_hyperparams
from agents.train import TrainConfig, train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_sentiment_rises_for_a_judge_that_was_not_trained_against(algo, tmp_path):
    result = train(TrainConfig(algo=algo, log_folder=str(tmp_path), eval_freq=0, progress=False))
    before, after = result.before.estimates(), result.after.estimates()
    gold = result.after.change_from(result.before)["gold"]
    assert gold.mean > 0.15
    assert gold.mean > 3 * gold.sem
    assert after["kl"].mean < result.config.kl_target
    assert after["perplexity"].mean < 1.5 * before["perplexity"].mean
    assert after["distinct_bigrams"].mean > 0.8 * before["distinct_bigrams"].mean


def test_numbers_come_in_increasing_order():
    """PPO alone: A2C, one step a rollout, gets nowhere near in a minute."""
    settings = default_hyperparams("rlhf/IncreasingNumbers-v0", "ppo")
    tokens, n_envs = settings.pop("n_timesteps"), settings.pop("n_envs")
    agent = agents.make("ppo", "rlhf/IncreasingNumbers-v0", n_envs=n_envs, seed=0, device="cpu", **settings)
    before = agents.evaluate(agent, "rlhf/IncreasingNumbers-v0", 128).reward.mean()
    agent.learn(tokens)
    after = agents.evaluate(agent, "rlhf/IncreasingNumbers-v0", 128).reward.mean()
    assert before < 0.15
    assert after > 0.4
