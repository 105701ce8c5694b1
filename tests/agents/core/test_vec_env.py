from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecMonitor, is_vecenv_wrapped

from agents.core.vec_env import TextVecEnv, make_vec_env
from rlhf_envs.rewards.rules import TokenBanditReward
from rlhf_envs.tasks.token_bandit import TokenBandit
from rlhf_envs.text_env import TextGenerationEnv
from rlhf_envs.vector_env import TextGenerationVectorEnv, row_seeds

ID = "rlhf/TokenBandit-v0"


class RandomPolicy:
    """What `evaluate_policy` asks of a model."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def predict(self, observation: dict[str, np.ndarray], **kwargs: Any) -> tuple[np.ndarray, None]:
        return self.rng.integers(8, size=len(observation["input_ids"])), None


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "t"}  # but for the time
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_it_does_what_dummy_vec_env_does_with_monitored_single_environments() -> None:
    ours = make_vec_env(ID, 4, seed=3)
    theirs = DummyVecEnv([lambda: Monitor(TextGenerationEnv(TokenBandit))] * 4)
    theirs._seeds = list(row_seeds(3, 4))  # SB3's own would be 3, 4, 5, 6
    rng = np.random.default_rng(0)
    assert plain(ours.reset()) == plain(theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    for _ in range(60):
        actions = rng.integers(8, size=4)
        obs, rewards, dones, infos = ours.step(actions)
        expected = theirs.step(actions)
        assert plain([obs, rewards, dones]) == plain(expected[:3])
        assert [plain(info) if done else info for info, done in zip(infos, dones, strict=True)] == [
            plain(info) if done else {} for info, done in zip(expected[3], dones, strict=True)
        ]
        assert ours.reset_infos == theirs.reset_infos
        assert (rewards.dtype, dones.dtype) == (expected[1].dtype, expected[2].dtype)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space


def test_the_info_of_an_end_carries_what_sb3_and_people_look_for() -> None:
    env = make_vec_env(ID, 2)
    env.set_options({"index": 0})
    env.reset()
    env.step(np.array([2, 2]))
    obs, rewards, dones, infos = env.step(np.array([1, 3]))  # EOS in the first row
    assert dones.tolist() == [True, False]
    assert infos[1] == {}
    info = infos[0]
    assert info["terminal_observation"]["input_ids"].tolist() == [2, 2, 1, 0]
    assert info["TimeLimit.truncated"] is False
    assert info["episode"]["r"] == pytest.approx(float(rewards[0]), abs=1e-6)
    assert info["episode"]["l"] == 2
    assert info["episode"]["t"] >= 0
    assert (info["prompt"], info["completion"], info["finish_reason"]) == ("a", " a", "eos")
    assert info["reward_components"] == {"token-bandit": pytest.approx(float(rewards[0]))}
    assert obs["attention_mask"][0].tolist() == [1, 0, 0, 0]


def test_every_observation_is_a_new_array() -> None:
    env = make_vec_env(ID, 2, seed=0)
    kept = [env.reset()]
    kept += [env.step(np.array([2, 3]))[0] for _ in range(5)]  # type: ignore[list-item]
    arrays = [obs[key] for obs in kept for key in obs]  # type: ignore[union-attr,call-overload]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[i + 1 :])


def test_seed_is_used_by_the_next_reset_only_and_options_too() -> None:
    env, other = make_vec_env(ID, 8, seed=5), make_vec_env(ID, 8)
    assert list(other.seed(5)) == row_seeds(5, 8)
    first = env.reset()
    assert plain(first) == plain(other.reset())
    assert plain(env.reset()) == plain(other.reset()) != plain(first)
    env.set_options([{"index": i % 4} for i in range(8)])
    env.reset()
    assert [info["index"] for info in env.reset_infos] == [0, 1, 2, 3, 0, 1, 2, 3]
    env.set_options([{"index": 1}, *[{}] * 7])
    env.reset()
    assert env.reset_infos[0] == {"index": 1}
    env.set_options({"prompt": "a"})
    with pytest.raises(ValueError, match=r"unknown reset options prompt"):
        env.reset()


def test_sb3_sees_a_monitored_environment() -> None:
    env = make_vec_env(ID, 3)
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(Monitor, indices=[1]) == [True]
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    assert not is_vecenv_wrapped(env, VecMonitor)


def test_attributes_and_methods_are_reached_through_the_vec_env() -> None:
    env = make_vec_env(ID, 3, render_mode="ansi")
    env.seed(0)
    env.reset()
    assert env.get_attr("render_mode") == ["ansi"] * 3
    assert env.get_attr("max_new_tokens", 1) == [3]
    assert env.has_attr("tokenizer")
    assert not env.has_attr("temperature")
    assert env.get_attr("np_random_seed", [0, 2]) == row_seeds(0, 3)[::2]
    assert env.env_method("render", indices=[1]) == [f"{'abcd'[env.reset_infos[1]['index']]} |"]
    reward = 2 * TokenBanditReward()
    env.set_attr("reward_fn", reward)
    assert env.get_attr("reward_fn") == [reward] * 3
    assert env.env.episodes.reward_fn is reward
    with pytest.raises(ValueError, match="the rows share 'reward_fn'"):
        env.set_attr("reward_fn", reward, indices=[0])
    assert env.spec.id == ID
    env.close()


def test_pictures_are_tiled() -> None:
    env = make_vec_env(ID, 4, render_mode="rgb_array")
    env.reset()
    frame = env.render()
    assert frame is not None
    assert frame.shape == (720, 1280, 3)
    assert make_vec_env(ID, 2).get_images() == [None, None]


def test_human_mode_prints(capsys: pytest.CaptureFixture[str]) -> None:
    env = make_vec_env(ID, 2, render_mode="human")
    env.set_options({"index": 0})
    env.reset()
    env.render()
    assert capsys.readouterr().out == "a |\na |\n"


def test_evaluate_policy_takes_the_episodes_from_the_infos() -> None:
    returns, lengths = evaluate_policy(
        RandomPolicy(),  # type: ignore[arg-type]
        make_vec_env(ID, 4, seed=0),
        n_eval_episodes=10,
        return_episode_rewards=True,
    )
    assert len(returns) == len(lengths) == 10
    assert set(lengths) <= {1, 2, 3}
    assert -1 <= min(returns) <= max(returns) <= 1


def test_vec_monitor_replaces_the_statistics_with_the_same(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    env = VecMonitor(make_vec_env(ID, 2, seed=0), str(tmp_path / "log"), info_keywords=("finish_reason",))
    assert not recwarn
    env.reset()
    for _ in range(3):
        _, rewards, dones, infos = env.step(np.array([2, 3]))
    assert dones.all()
    assert infos[0]["episode"]["l"] == 3
    assert infos[0]["episode"]["r"] == pytest.approx(float(rewards[0]))
    env.close()
    assert "length" in (tmp_path / "log.monitor.csv").read_text()


def test_vec_check_nan_has_nothing_to_say() -> None:
    env = VecCheckNan(make_vec_env(ID, 2, seed=0), raise_exception=True)
    env.reset()
    for _ in range(4):
        env.step(np.array([2, 3]))


def test_eval_callback_accepts_it_beside_another() -> None:
    callback = EvalCallback(make_vec_env(ID, 2, seed=0), n_eval_episodes=4, eval_freq=1, verbose=0, warn=True)
    model: Any = type("Model", (), {"get_env": lambda self: make_vec_env(ID, 4), "predict": RandomPolicy().predict})()
    model.logger = type("Logger", (), {"record": lambda *a, **k: None, "dump": lambda *a: None})()
    model.num_timesteps, model.get_vec_normalize_env = 0, lambda: None
    callback.init_callback(model)
    assert callback.on_step()
    assert -1 <= callback.best_mean_reward <= 1


@pytest.mark.parametrize("source", [ID, gym.spec("rlhf/TokenBandit-v0"), None])
def test_make_vec_env_takes_an_id_a_spec_or_a_callable(source: Any) -> None:
    def make(num_envs: int, **kwargs: Any) -> TextGenerationVectorEnv:
        return TextGenerationVectorEnv(num_envs, TokenBandit, **kwargs)

    env = make_vec_env(source or make, 3, seed=1, max_new_tokens=5)
    assert isinstance(env, TextVecEnv)
    assert env.num_envs == 3
    assert env.get_attr("max_new_tokens", 0) == [5]


def test_make_vec_env_refuses_other_environments() -> None:
    with pytest.raises(TypeError, match="use SB3's make_vec_env"):
        make_vec_env(lambda num_envs: gym.make_vec("CartPole-v1", num_envs), 2)  # type: ignore[arg-type,return-value]
    with pytest.raises(gym.error.Error, match="vector entry point"):
        make_vec_env("MountainCar-v0", 2)


def test_a_bad_action_reaches_the_caller() -> None:
    env = make_vec_env(ID, 2)
    env.reset()
    with pytest.raises(ValueError, match=r"action 9 \(row 1\) is outside"):
        env.step(np.array([1, 9]))
    with pytest.raises(ValueError, match="actions must be 2 token ids"):
        env.step(torch.zeros(2).numpy())
