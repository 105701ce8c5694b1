"""PPO trains on another program's OpenEnv server, from the command line, and goes on after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

import agents
from agents.training.run import train
from tests.agents.training.runs import config, rlhf, train_until_killed
from tests.rlhf_envs.interop.openenv.serving import served
from tests.rlhf_envs.small_models import byte_level, save_model

pytest.importorskip("openenv", reason="needs the extra openenv")

from tests.rlhf_envs.interop.openenv.servers import echo_app, piles_app

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_ppo_goes_on_exactly_on_a_server_of_one_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_model(tmp_path / "base", byte_level())
    with served(echo_app(tmp_path, monkeypatch)) as server:
        given = {"base_url": server.url, "n_prompts": 2, "max_prompt_tokens": 32, "max_new_tokens": 24}
        small = dict(n_timesteps=32, n_envs=2, eval_freq=0, test_episodes=2, save_freq=16, kl_target=None, model=base)
        small |= dict(hyperparams=dict(n_steps=8, batch_size=16, n_epochs=1))
        small |= dict(env="rlhf/OpenEnv-v0", env_kwargs=given)
        whole = train(config(tmp_path / "whole", **small)).folder
        train_until_killed(monkeypatch, config(tmp_path, **small), 32)
        folder = tmp_path / "ppo" / "run"
        refused = rlhf("train", "--resume", str(folder))
        assert refused.exit_code == 2 and "is not followed where" in refused.output, refused.output
        assert f"--env-kwargs base_url:{server.url}" in refused.output
        again = rlhf("train", "--resume", str(folder), "--env-kwargs", f"base_url:{server.url}")
        assert again.exit_code == 0, again.output
    for name in ("agent/policy.safetensors", "agent/optimizer.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_command_of_the_guide_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(echo_app(tmp_path, monkeypatch)) as server:
        flags = ["--env", "rlhf/OpenEnv-v0", "--env-kwargs", f"base_url:{server.url}", "-f", str(tmp_path / "logs")]
        flags += ["--env-kwargs", "n_prompts:2", "--env-kwargs", "max_new_tokens:12", "-n", "16", "--n-envs", "2"]
        flags += ["--eval-freq", "0", "--test-episodes", "2", "-params", "n_steps:8", "-params", "batch_size:16"]
        done = rlhf("train", *flags, "--train", "head", "--no-progress")
        assert done.exit_code == 0, done.output


def test_an_agent_that_reads_masks_writes_nothing_but_actions(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("outlines_core", reason="needs outlines-core, of the extra openenv")
    base = save_model(tmp_path / "base", byte_level())
    with served(piles_app()) as server:
        given = {"base_url": server.url, "n_prompts": 2, "max_new_tokens": 96, "max_prompt_tokens": 128}
        given |= {"json_mask": True, "max_turns": 2}
        small = dict(n_timesteps=512, n_envs=4, eval_freq=0, test_episodes=8, kl_target=None, model=base)
        small |= dict(hyperparams=dict(n_steps=64, batch_size=64, n_epochs=1))
        done = train(config(tmp_path, algo="maskable_ppo", env="rlhf/OpenEnv-v0", env_kwargs=given, **small))
        assert not [one for one in recwarn if "reads no action masks" in str(one.message)]
        for evaluation in (done.before, done.after):
            assert len(evaluation.metrics["invalid_actions"]) == 8 and not evaluation.metrics["invalid_actions"].any()
        with pytest.warns(UserWarning, match="ppo reads no action masks, action_masks of the task 'openenv'"):
            agents.make("ppo", agents.make_vec_env("rlhf/OpenEnv-v0", 2, model=base, **given), device="cpu")


def test_an_address_without_a_server_ends_the_command_in_one_line(tmp_path: Path) -> None:
    flags = ["--env-kwargs", "base_url:http://127.0.0.1:9", "-f", str(tmp_path / "logs")]
    done = rlhf("train", "--env", "rlhf/OpenEnv-v0", *flags)
    assert done.exit_code == 2 and not isinstance(done.exception, RuntimeError)
    assert done.output.startswith("rlhf: no OpenEnv server answers at base_url='http://127.0.0.1:9'"), done.output
