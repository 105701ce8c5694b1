"""`agents.make` and the registry of algorithms."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest
import stable_baselines3
from stable_baselines3.common.vec_env import DummyVecEnv

import agents
from agents import registry

ID = "rlhf/IncreasingNumbers-v0"


def test_make_gives_sb3s_own_algorithms():
    assert isinstance(agents.make("ppo", ID, n_envs=2), stable_baselines3.PPO)
    assert isinstance(agents.make("a2c", ID, n_envs=2), stable_baselines3.A2C)


def test_flat_arguments_reach_the_policy_and_the_buffer():
    given = dict(temperature=0.5, kl_coef=0.2, kl_target=3.0, n_epochs=2)
    agent = agents.make("ppo", ID, n_envs=8, **given)
    assert agent.policy.temperature == 0.5
    assert (agent.rollout_buffer.controller.value, agent.rollout_buffer.controller.target) == (0.2, 3.0)
    assert agent.n_epochs == 2
    assert agent.rollout_buffer.gamma == 1.0
    assert agent.rollout_buffer.gae_lambda == 0.95
    assert (agent.n_steps, agent.batch_size) == (10, 20), "a rollout is one episode long, an epoch four minibatches"


def test_environments_of_all_kinds_are_taken():
    for env in (gym.make(ID), agents.make_vec_env(ID, 3)):
        assert agents.make("a2c", env).learn(30).num_timesteps == 30


def test_a_class_is_described_once(monkeypatch):
    cls = agents.get_algorithm("rloo")
    first = registry.describe(cls)
    monkeypatch.setattr(registry, "_arguments", None)
    assert registry.describe(cls) is first


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match=r"unknown algorithm 'pp0': did you mean 'ppo'\? there are a2c, .*ppo"):
        agents.make("pp0", ID)
    with pytest.raises(TypeError, match="ppo takes no argument 'kl_coeff'; nearest: kl_coef"):
        agents.make("ppo", ID, kl_coeff=0.1)
    with pytest.raises(gym.error.NameNotFound, match="IncreasingNumber"):
        agents.make("ppo", "rlhf/IncreasingNumber-v0")


def test_a_batch_smaller_than_an_episode_is_an_error_at_once():
    with pytest.raises(ValueError, match="batch_size=5 is smaller than one episode of 10 tokens"):
        agents.make("ppo", ID, batch_size=5)


def test_a_model_brings_its_tokenizer_to_an_id_and_must_fit_an_environment(tmp_path):
    from agents.training.pretrain import pretrain

    (tmp_path / "texts.txt").write_text("\n\n".join(f"A text of number {i} and more." for i in range(30)))
    other = str(tmp_path / "other")
    pretrain(str(tmp_path / "texts.txt"), other, vocab_size=300, n_layer=1, n_embd=16, n_head=2, block_size=64, steps=1)
    agent = agents.make("a2c", "rlhf/Sentiment-v0", n_envs=2, model=other)
    assert agent.policy.n_actions == agent.policy.language_model.vocab_size < 3072
    env = agents.make_vec_env("rlhf/Sentiment-v0", 2, reward="gold")
    with pytest.raises(ValueError, match=r"tokenizer \(3072 tokens\) is not the model's"):
        agents.make("a2c", env, model=other)


def test_stock_ppo_refuses_a_model_with_another_tokenizer_of_the_same_size(tmp_path):
    from agents import TokenPolicy
    from rlhf_envs.models import load_causal_lm, load_tokenizer

    shuffled = tmp_path / "shuffled"
    load_causal_lm("tiny").save_pretrained(shuffled)
    load_tokenizer("tiny").save_pretrained(shuffled)
    file = shuffled / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content), encoding="utf-8")
    env = agents.make_vec_env("rlhf/Sentiment-v0", 2, reward="gold")
    with pytest.raises(ValueError, match="is not the model's"):
        stable_baselines3.PPO(TokenPolicy, env, n_steps=32, batch_size=64, policy_kwargs={"model": str(shuffled)})
    with pytest.raises(ValueError, match="has another tokenizer than the environment"):
        agents.evaluate("tiny", "rlhf/Sentiment-v0", 2, reference=str(shuffled), judges=())


def test_n_envs_goes_with_an_id():
    with pytest.raises(TypeError, match="n_envs=4 goes with an environment's id"):
        agents.make("a2c", agents.make_vec_env(ID, 2), n_envs=4)


def test_the_environments_model_is_the_default():
    agent = agents.make("a2c", agents.make_vec_env("rlhf/Sentiment-v0", 2, reward="gold"))
    assert agent.policy.model_name == "tiny"


def test_registering(monkeypatch):
    monkeypatch.setattr(registry, "_ALGORITHMS", dict(registry._ALGORITHMS))
    agents.register("mine", "stable_baselines3:PPO")
    agent = agents.make("mine", ID, n_envs=8, kl_coef=0.2, n_epochs=1)
    assert type(agent) is stable_baselines3.PPO
    assert agent.rollout_buffer.controller.value == 0.2
    agent.learn(80)
    with pytest.raises(ValueError, match="already registered"):
        agents.register("mine", "stable_baselines3:A2C")
    with pytest.raises(ValueError, match="expected 'module:Class'"):
        agents.register("other", "stable_baselines3")


def test_entry_points_are_found(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("theirs", "stable_baselines3:A2C", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "_installed", lambda: (point,))
    assert agents.get_algorithm("theirs") is stable_baselines3.A2C
    assert {"theirs", "ppo", "a2c"} <= set(agents.available())


def test_what_is_installed_meanwhile_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert "theirs" not in agents.available()
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\ntheirs = stable_baselines3:A2C\n")
    assert agents.available()["theirs"] == "stable_baselines3:A2C"
    assert agents.get_algorithm("theirs") is stable_baselines3.A2C


def test_an_environments_own_attributes_are_its_own():
    class Counts(gym.Wrapper):
        episodes = 0

    env = DummyVecEnv([lambda: Counts(gym.make(ID))])
    agent = agents.make("a2c", env, device="cpu")
    assert agent.get_env().get_attr("episodes") == [0]
