from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env

import rlhf_envs
from rlhf_envs.registration import ENVIRONMENTS, describe, register_task, task_of
from rlhf_envs.tasks.sentiment import Sentiment
from rlhf_envs.tasks.token_bandit import TokenBandit
from rlhf_envs.testing import check_text_env
from tests.rlhf_envs.extras import with_extras

IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("rlhf/"))


def test_the_table_is_what_is_registered() -> None:
    assert sorted(ENVIRONMENTS) == IDS


@pytest.mark.usefixtures("few_rows")  # test_a_description_says_what_the_environment_has reads them all
@pytest.mark.parametrize("env_id", with_extras(IDS))
def test_every_id_keeps_the_contracts_and_passes_both_checkers_without_a_warning(env_id: str) -> None:
    """Gymnasium's checker, and that a batch does what single environments do, are among the contracts."""
    env = gym.make(env_id, render_mode="rgb_array")
    check_text_env(env)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # SB3 says so of what its own feature extractors do not read; those read no tokens either.
        warnings.filterwarnings("ignore", "Your observation pixel_values has an unconventional shape")
        sb3_check_env(env, warn=True, skip_render_check=False)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("env_id", with_extras(IDS))
def test_make_vec_works_in_processes(env_id: str) -> None:
    env = gym.make_vec(env_id, num_envs=2, vectorization_mode="async", max_new_tokens=3)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    for _ in range(3):
        obs, _, terminated, truncated, _ = env.step(np.array([2, 3]))
    assert terminated.all()
    assert not truncated.any()
    env.close()


def test_the_native_mode_is_the_default_of_make_vec() -> None:
    env = gym.make_vec("rlhf/TokenBandit-v0", num_envs=2)
    assert isinstance(env, rlhf_envs.TextGenerationVectorEnv)


def test_sb3s_own_make_vec_env_works() -> None:
    env = make_vec_env("rlhf/TokenBandit-v0", n_envs=2, seed=0)
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.array([2, 3]))
    assert dones.all()
    assert infos[0]["episode"]["l"] == 3
    assert infos[0]["TimeLimit.truncated"] is False


def test_the_module_prefix_registers_on_the_way() -> None:
    code = "import gymnasium; print(gymnasium.make('rlhf_envs:rlhf/TokenBandit-v0').spec.id)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "rlhf/TokenBandit-v0", done.stderr


def test_a_spec_with_arguments_survives_json() -> None:
    env = gym.make("rlhf/TokenBandit-v0", max_new_tokens=2, reward="token-bandit", split="test")
    assert env.spec is not None
    copy: Any = gym.make(EnvSpec.from_json(env.spec.to_json())).unwrapped
    assert copy.max_new_tokens == 2


def test_an_unknown_id_names_what_is_near() -> None:
    with pytest.raises(gym.error.NameNotFound, match="Sentiment"):
        gym.make("rlhf/Sentimental-v0")
    with pytest.raises(gym.error.VersionNotFound, match="v0"):
        gym.make("rlhf/Sentiment-v7")


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match="temperature"):
        gym.make("rlhf/TokenBandit-v0", temperature=1)


def test_a_users_task_is_registered_in_one_line_and_never_replaces_another() -> None:
    try:
        register_task("rlhf/Mine-v0", "rlhf_envs.tasks.token_bandit:TokenBandit")
        register_task("rlhf/Mine-v0", "rlhf_envs.tasks.token_bandit:TokenBandit")
        with pytest.raises(ValueError, match="'rlhf/Mine-v0' is registered already"):
            register_task("rlhf/Mine-v0", "rlhf_envs.tasks.sentiment:Sentiment")
        check_text_env("rlhf/Mine-v0")
    finally:
        gym.registry.pop("rlhf/Mine-v0", None)


def test_the_task_of_an_environment_is_found_without_making_it() -> None:
    assert type(task_of("rlhf/Sentiment-v0")) is Sentiment
    assert type(task_of("rlhf/Sentiment-v0", task=TokenBandit)) is TokenBandit
    assert task_of("CartPole-v1") is None


@pytest.mark.parametrize("env_id", with_extras(IDS))
def test_a_description_says_what_the_environment_has(env_id: str) -> None:
    described, env = describe(env_id), gym.make(env_id).unwrapped
    assert isinstance(env, rlhf_envs.TextGenerationEnv)
    assert described.vocab_size == env.action_space.n
    assert (described.model, described.max_prompt_tokens, described.max_new_tokens) == (
        env.model_name,
        env.max_prompt_tokens,
        env.max_new_tokens,
    )


def test_an_environment_without_a_task_is_not_described() -> None:
    with pytest.raises(ValueError, match=r"'CartPole-v1' is no text environment: there are .*rlhf/Sentiment-v0"):
        describe("CartPole-v1")
