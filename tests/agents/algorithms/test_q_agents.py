"""What DQN, QR-DQN and ILQL share: they go on from a bundle, are determined by their seed, and act as policies do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import agents
from agents.testing import bandit_figures
from agents.training.config import TrainConfig
from agents.training.resume import prepare_resumed
from agents.training.run import RunInterrupted, train

ID = "rlhf/IncreasingNumbers-v0"
NAMES = ("dqn", "qrdqn", "ilql")
TOKENS = 4 * 28  # rollouts of 28: episodes have 10 tokens, so that some go on at every boundary
pytestmark = pytest.mark.parametrize("name", NAMES)


def build(name: str, env: Any = None, **kwargs: Any) -> Any:
    settings: dict[str, Any] = dict(train_freq=7, gradient_steps=1, batch_size=56, top_k=8, learning_rate=1e-2)
    if name != "ilql":
        settings |= dict(learning_starts=28, target_update_interval=28, exploration_initial_eps=0.5)
    env = agents.make_vec_env(ID, 4, seed=0) if env is None else env
    return agents.make(name, env, seed=0, device="cpu", **(settings | kwargs))


def weights(agent: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]) or key == "kl_coef", key  # kl_coef is NaN: nothing uses it


def test_an_agent_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    unbroken = build(name).learn(TOKENS)
    agents.save(build(name).learn(TOKENS), tmp_path / "half")
    unbroken.learn(TOKENS, reset_num_timesteps=False)
    torch.manual_seed(7)
    np.random.seed(7)
    resumed = agents.load(tmp_path / "half")
    assert resumed.replay_buffer.size() > 0
    resumed.learn(TOKENS, reset_num_timesteps=False)
    assert_equal(weights(resumed), weights(unbroken))
    for key, value in unbroken.replay_buffer.get_state()["observations"].items():
        np.testing.assert_array_equal(resumed.replay_buffer.get_state()["observations"][key], value)
    assert resumed.exploration_rate == unbroken.exploration_rate
    assert resumed.num_timesteps == unbroken.num_timesteps


def test_a_seed_determines_all_and_another_gives_another(name: str) -> None:
    one, same = weights(build(name).learn(TOKENS)), weights(build(name).learn(TOKENS))
    assert_equal(one, same)
    moved = [key for key, value in weights(build(name)).items() if not torch.equal(one[key], value)]
    assert any(key.startswith("q_head") for key in moved)
    assert any(key.startswith("target_head") for key in moved)
    assert not any(key.startswith("reference") for key in moved)


def test_learning_twice_counts_from_the_start(name: str) -> None:
    agent = build(name).learn(TOKENS)
    assert agent.num_timesteps == TOKENS
    assert agent.learn(TOKENS).num_timesteps == TOKENS


@pytest.mark.parametrize("kind", ["plain", "vector"])
def test_plain_and_vectorised_environments(name: str, kind: str) -> None:
    env = gym.make(ID) if kind == "plain" else agents.make_vec_env(ID, 3)
    agent = build(name, env).learn(60)
    assert agent.num_timesteps >= 60
    observation = agent.get_env().reset()
    actions, _ = agent.predict(observation, deterministic=True)
    assert actions.shape == (agent.n_envs,)


def test_a_new_agent_stays_with_the_reference(name: str) -> None:
    """Q is 0 everywhere: without beta the reference's best token, with it the reference itself."""
    env = agents.make_vec_env("rlhf/Sentiment-v0", 3, seed=0, reward="gold", max_new_tokens=4)
    agent = build(name, env, beta=2.0, top_k=None)
    observation = {key: torch.as_tensor(value) for key, value in env.reset().items()}
    acting, base = agent.policy.acting_and_base(observation)
    torch.testing.assert_close(acting, base, atol=1e-5, rtol=1e-5)
    plain = agents.TokenPolicy(env.observation_space, env.action_space, lambda _: 0.0)
    torch.testing.assert_close(plain.get_distribution(observation).distribution.logits, base, atol=1e-4, rtol=1e-4)
    greedy = build(name, env, beta=None).policy.get_distribution(observation).distribution.probs
    assert torch.equal(greedy.argmax(dim=1), base.argmax(dim=1))
    assert torch.equal(greedy.sum(dim=1), torch.ones(3))


def test_the_cache_of_the_reference_equals_a_full_pass(name: str) -> None:
    """After updates: rollouts decode, step by step, what one pass over the whole sequences says."""
    agent = build(name, beta=1.0, top_k=5).learn(TOKENS)
    env = agent.get_env()
    observation = env.reset()
    for _ in range(6):
        tensors = {key: torch.as_tensor(value) for key, value in observation.items()}
        stepped = agent.policy.acting_and_base(tensors)
        last = tensors["attention_mask"].long().sum(1) - 1
        whole = agent.policy.acting_and_base({**tensors, "rows": torch.arange(4), "columns": last})
        for one, other in zip(stepped, whole, strict=True):
            assert torch.equal(one.isneginf(), other.isneginf())
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        observation = env.step(agent.predict(observation)[0])[0]


def test_evaluation_measures_the_kl_to_the_reference(name: str) -> None:
    """Of a policy that draws from few completions, the mean log-ratio is the exact KL by enumeration."""
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 8, seed=0)
    agent = build(name, env, beta=10.0, train_freq=3, batch_size=96, gradient_steps=4).learn(800)
    exact = bandit_figures(agent, kl_coef=1.0)
    figures = agents.evaluate(agent, "rlhf/TokenBandit-v0", 2048)
    assert exact["kl"] > 0.01
    assert figures.kl is not None
    assert figures.kl.mean() == pytest.approx(exact["kl"], abs=4 * figures.kl.std() / 2048**0.5)
    assert figures.reward.mean() == pytest.approx(exact["reward"], abs=4 * figures.reward.std() / 2048**0.5)


@pytest.mark.parametrize("part", [1, "head"])
def test_parts_train_and_the_target_shares_what_is_frozen(name: str, part: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_layer=3, n_embd=16, n_head=2))
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 8, seed=0)
    agent = build(name, env, model=model, train=part, train_freq=3, batch_size=96)
    before = weights(agent)
    agent.learn(200)
    moved = {key for key, value in weights(agent).items() if not torch.equal(before[key], value) and key != "kl_coef"}
    assert not any(".h.0." in key or "lm_head" in key or ".wte." in key for key in moved), moved
    assert any(".h.2." in key for key in moved) == (part == 1)
    assert "q_head.value.weight" in moved
    agents.save(agent, tmp_path / "agent")
    assert_equal(weights(agents.load(tmp_path / "agent")), weights(agent))


def config(name: str, folder: Path, **kwargs: Any) -> TrainConfig:
    hyperparams: dict[str, Any] = dict(train_freq=3, gradient_steps=1, batch_size=96)
    if name != "ilql":
        hyperparams |= dict(learning_starts=90, target_update_interval=96)
    settings: dict[str, Any] = dict(algo=name, env="rlhf/TokenBandit-v0", n_timesteps=480, n_envs=32, eval_freq=150)
    settings |= dict(n_eval_episodes=6, test_episodes=8, hyperparams=hyperparams, progress=False, run_name="run")
    return TrainConfig(log_folder=str(folder), **(settings | kwargs))


def test_a_run_that_is_stopped_goes_on_exactly(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal in the middle of a rollout: the run begins it again, with the buffer and the target of its start."""
    import os
    import signal

    from rlhf_envs.rewards.rules import TokenBanditReward

    whole = train(config(name, tmp_path / "whole")).folder
    score, calls = TokenBanditReward.score, 0

    def stop(self: Any, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        nonlocal calls
        calls += signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # while it trains
        if calls == 4:
            calls += 1
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, prompts, completions, **columns)

    monkeypatch.setattr(TokenBanditReward, "score", stop)
    with pytest.raises(RunInterrupted):
        train(config(name, tmp_path / "stopped", save_freq=96))
    monkeypatch.setattr(TokenBanditReward, "score", score)
    folder = tmp_path / "stopped" / name / "run"
    result = train(prepare_resumed(folder))
    for file in ("policy.safetensors", "optimizer.safetensors"):
        assert (folder / "agent" / file).read_bytes() == (whole / "agent" / file).read_bytes(), file
    assert not (folder / "model").exists(), "a language model alone does not act as the agent does"
    again = agents.evaluate(str(folder), "rlhf/TokenBandit-v0", 8)
    np.testing.assert_array_equal(again.reward, result.after.reward)


def test_a_run_killed_while_it_saves_its_agent_is_completed(name: str, tmp_path: Path) -> None:
    """The last checkpoint is the finished agent: so does an unbroken run save it."""
    folder = train(config(name, tmp_path, save_freq=96)).folder
    agent = Path(shutil.move(folder / "agent", tmp_path / "agent"))
    (folder / "report.json").unlink()
    train(prepare_resumed(folder))
    for file in ("policy.safetensors", "optimizer.safetensors", "state.safetensors"):
        assert (folder / "agent" / file).read_bytes() == (agent / file).read_bytes(), file


def test_policies_save_and_load_as_sb3s_do(name, tmp_path):
    policy = agents.make(name, "rlhf/TokenBandit-v0", n_envs=2, device="cpu").policy
    policy.save(tmp_path / "policy.pt")
    loaded = type(policy).load(tmp_path / "policy.pt", device="cpu")
    for key, value in policy.state_dict().items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(loaded.state_dict()[key])), key
