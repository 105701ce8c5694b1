"""Stock Stable-Baselines3 on token environments: everything a user of SB3 reaches for."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecCheckNan, VecMonitor, VecNormalize

import rlhf_envs  # noqa: F401  registers the environments
from agents import SequenceRolloutBuffer, TokenPolicy, make_vec_env
from agents.core.models import build_model
from rlhf_envs.vector_env import row_seeds

ID = "rlhf/IncreasingNumbers-v0"


def make_agent(cls, env=None, **kwargs):
    settings = {"n_steps": 10, "seed": 0, "device": "cpu", "gamma": 1.0}
    if cls is PPO:
        settings |= {"batch_size": 20, "n_epochs": 2}
    env = make_vec_env(ID, 4, seed=0) if env is None else env
    return cls(TokenPolicy, env, rollout_buffer_class=SequenceRolloutBuffer, **(settings | kwargs))


def weights(agent):
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


@pytest.mark.parametrize("cls", [PPO, A2C])
class TestStock:
    def test_learns_again_without_resetting_the_count(self, cls):
        agent = make_agent(cls).learn(40)
        before = weights(agent)
        agent.learn(40, reset_num_timesteps=False)
        assert agent.num_timesteps == 80
        assert not torch.equal(before, weights(agent))

    def test_saves_and_loads(self, cls, tmp_path):
        agent = make_agent(cls).learn(40)
        agent.save(tmp_path / "agent")
        loaded = cls.load(tmp_path / "agent", env=agent.env, device="cpu")
        assert torch.equal(weights(agent), weights(loaded))
        obs = agent.env.reset()
        assert (agent.predict(obs, deterministic=True)[0] == loaded.predict(obs, deterministic=True)[0]).all()
        for one, other in zip(agent.policy.reference.buffers(), loaded.policy.reference.buffers(), strict=True):
            assert torch.equal(one, other), "the reference is the starting model of the first run"
        loaded.learn(40)

    def test_set_parameters(self, cls):
        trained, fresh = make_agent(cls).learn(40), make_agent(cls, seed=1)
        fresh.set_parameters(trained.get_parameters())
        assert torch.equal(weights(trained), weights(fresh))
        obs = trained.env.reset()
        assert (trained.predict(obs, deterministic=True)[0] == fresh.predict(obs, deterministic=True)[0]).all()

    def test_a_seed_makes_a_run_repeatable(self, cls):
        first, second = (weights(make_agent(cls).learn(80)) for _ in range(2))
        assert torch.equal(first, second)

    def test_one_plain_environment(self, cls):
        kwargs = {"batch_size": 10} if cls is PPO else {}
        agent = make_agent(cls, gym.make(ID), **kwargs).learn(20)
        assert agent.num_timesteps == 20

    @pytest.mark.filterwarnings("ignore:.*already wrapped with a `Monitor`")  # SB3 says so of its own make_vec_env too
    @pytest.mark.parametrize("wrap", [VecMonitor, VecCheckNan])
    def test_wrapped_environments(self, cls, wrap):
        agent = make_agent(cls, wrap(make_vec_env(ID, 4, seed=0))).learn(40)
        assert len(agent.ep_info_buffer) > 0

    def test_sb3s_make_vec_env_gives_the_same_run(self, cls):
        """SB3's vector of single environments and the batched one do the same with the same seeds."""
        singles = sb3_make_vec_env(ID, n_envs=4, seed=0)
        singles.seed = lambda seed: setattr(singles, "_seeds", row_seeds(seed, 4))  # SB3's own would be seed + i
        slow = make_agent(cls, singles).learn(80)
        fast = make_agent(cls).learn(80)
        torch.testing.assert_close(weights(slow), weights(fast), atol=1e-6, rtol=1e-5)

    def test_callbacks(self, cls, tmp_path):
        evaluate = EvalCallback(
            make_vec_env(ID, 2, seed=9), n_eval_episodes=3, eval_freq=5, log_path=str(tmp_path), verbose=0
        )
        agent = make_agent(cls).learn(80, callback=[evaluate, CheckpointCallback(5, str(tmp_path))])
        results = np.load(tmp_path / "evaluations.npz")
        assert results["results"].shape == (4, 3)
        assert len(list(tmp_path.glob("*_steps.zip"))) == 4
        assert agent.num_timesteps == 80

    def test_evaluation_in_between_leaves_training_alone(self, cls):
        evaluate = EvalCallback(make_vec_env(ID, 3, seed=5), n_eval_episodes=3, eval_freq=7, verbose=0)
        # Refilling the KV cache rounds differently; Adam, and normalising advantages that are nearly 0, magnify that.
        plain = {"policy_kwargs": {"optimizer_class": torch.optim.SGD}, "normalize_advantage": False}
        quiet, watched = make_agent(cls, **plain).learn(80), make_agent(cls, **plain).learn(80, callback=evaluate)
        assert quiet.rollout_buffer.actions.tolist() == watched.rollout_buffer.actions.tolist()
        assert (weights(quiet) - weights(watched)).abs().mean() < 1e-6


def test_evaluate_policy_on_plain_and_batched_environments_agrees():
    agent = make_agent(PPO).learn(40)
    results, actions = [], ([], [])
    for env, taken in zip((sb3_make_vec_env(ID, n_envs=3), make_vec_env(ID, 3)), actions, strict=True):
        env._seeds = list(row_seeds(7, 3))  # SB3's own would be 7, 8, 9
        watch = {"callback": lambda step, _, taken=taken: taken.append(step["actions"])}
        results.append(evaluate_policy(agent, env, n_eval_episodes=6, return_episode_rewards=True, **watch))
    assert np.array_equal(*actions)
    assert np.allclose(*results)
    plain, _ = evaluate_policy(agent, Monitor(gym.make(ID)), n_eval_episodes=6)
    assert 0 <= plain <= 1


def test_stock_ppo_in_subprocesses():
    env = sb3_make_vec_env(f"rlhf_envs:{ID}", n_envs=2, seed=0, vec_env_cls=SubprocVecEnv)
    try:
        assert make_agent(PPO, env).learn(20).num_timesteps == 20
    finally:
        env.close()


def test_without_the_sequence_buffer_stock_ppo_still_learns():
    env = make_vec_env(ID, 4, seed=0)
    agent = PPO(TokenPolicy, env, n_steps=10, batch_size=20, n_epochs=1, seed=0, device="cpu")
    before = weights(agent)
    agent.learn(40)
    assert not torch.equal(before, weights(agent))


@pytest.mark.parametrize("buffer", [None, SequenceRolloutBuffer])
def test_trpo_of_sb3_contrib(buffer):
    """TRPO differentiates the KL twice, through attention too, and steps inside its trust region."""
    env = make_vec_env("rlhf/TokenBandit-v0", 8, seed=0)
    small = {"model": build_model(int(env.action_space.n), 4, n_layer=1, n_embd=16, n_head=2)}
    agent = TRPO(
        TokenPolicy,
        env,
        n_steps=12,
        batch_size=48,
        target_kl=0.02,
        rollout_buffer_class=buffer,
        policy_kwargs=small,
        seed=0,
        device="cpu",
    )
    before = weights(agent)
    agent.learn(96)
    logged = agent.logger.name_to_value
    assert not torch.equal(before, weights(agent))
    assert logged["train/is_line_search_success"] == 1
    assert 0 < logged["train/kl_divergence_loss"] < 0.02


@pytest.mark.parametrize("buffer", [None, SequenceRolloutBuffer])
def test_rescaled_token_ids_are_refused(buffer):
    def learn(env):
        PPO(TokenPolicy, env, n_steps=10, batch_size=20, n_epochs=1, rollout_buffer_class=buffer, device="cpu").learn(
            40
        )

    learn(VecNormalize(make_vec_env(ID, 4, seed=0), norm_obs=False, norm_reward=False))
    with pytest.raises(ValueError, match=r"VecNormalize\(norm_obs=False\)"):
        learn(VecNormalize(make_vec_env(ID, 4, seed=0)))
