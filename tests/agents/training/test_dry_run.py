"""What `rlhf train --dry-run` says is what the run then does; it writes nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from agents.training import dry_run
from agents.training.building import build_agent
from agents.training.dry_run import describe_run
from agents.training.early_stopping import EarlyStopping
from agents.training.memory import show_bytes
from agents.training.run import resolve_config
from tests.agents.training.runs import FLAGS, config, rlhf


def test_it_says_what_would_run_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where SB3 makes folders for its logs
    result = rlhf("train", *FLAGS, "--dry-run")
    assert result.exit_code == 0, result.output
    assert not [*tmp_path.iterdir()]
    for fact in (
        "rlhf/TokenBandit-v0, 32 episodes side by side",
        "train 4, validation 4, test 4",
        "n_timesteps=480",
        "n_epochs=2",
        "480 tokens, 5 rollouts of 96",
        "about 20 steps of the optimiser",  # 5 rollouts, 2 epochs, 96 / 48 minibatches
        "8 test prompts before and after, 3 of 6 episodes during training",
        "estimated from 96 tokens and 4 steps of the optimiser",
        "logs/ppo/TokenBandit-v0_1 (not made yet)",
    ):
        assert fact in result.output, fact


def test_memory_and_parameters_are_those_of_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "_measure", lambda *_: dry_run._Measured(96, 0.5, 1.0, 4))
    plan = dict(describe_run(config(tmp_path, env_kwargs={"max_new_tokens": 3})))
    agent = build_agent(resolve_config(config(tmp_path)))
    learn = sum(parameter.numel() for parameter in agent.policy.parameters() if parameter.requires_grad)
    assert f"{learn:,} of " in plan["model"]
    assert f"optimiser {show_bytes(2 * 4 * learn)}" in plan["memory"]
    with torch.no_grad():
        agent.policy.forward({name: torch.as_tensor(value) for name, value in agent.get_env().reset().items()})
    layers = agent.policy._actor.cache._layers
    held = sum(tensor.numel() * tensor.element_size() for layer in layers for tensor in (layer.keys, layer.values))
    assert f"KV cache {show_bytes(held)}" in plan["memory"]
    assert "about 0:05 of training" in plan["time"]  # a second per 96 tokens


@pytest.mark.parametrize(("eval_freq", "n_timesteps"), [(150, 480), (30, 192)])
def test_the_evaluations_of_early_stopping_are_counted(
    eval_freq: int, n_timesteps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "_measure", lambda *_: dry_run._Measured(96, 0.5, 1.0, 4))
    monkeypatch.setattr(EarlyStopping, "_evaluate", lambda self: counted(self))
    settings = config(tmp_path, eval_freq=eval_freq, n_timesteps=n_timesteps, early_stopping="reward")
    plan = dict(describe_run(settings))
    done: list[int] = []

    def counted(stopping: EarlyStopping) -> None:
        stopping._last = stopping.num_timesteps
        done.append(stopping.num_timesteps)

    agent = build_agent(resolve_config(settings))
    agent.learn(n_timesteps, EarlyStopping("reward", eval_freq=eval_freq))
    assert f"at most {len(done)} of 6 prompts for early stopping" in plan["evaluations"]


def test_rollouts_that_lag_need_workers_here_too(tmp_path: Path) -> None:
    done = rlhf("train", *FLAGS, "-f", str(tmp_path), "--async", "1", "--dry-run")
    assert done.exit_code == 2 and "--async 1: rollouts of workers lag; give --workers too" in done.output


def test_a_mistake_is_found_as_in_a_run(tmp_path: Path) -> None:
    result = rlhf("train", *FLAGS, "-n", "2", "--dry-run", "-f", str(tmp_path / "logs"))
    assert result.exit_code == 2
    assert "--n-timesteps 2 is less than one episode of 3 tokens" in result.stderr
    result = rlhf("train", "--resume", "logs/ppo/run", "--dry-run")
    assert result.exit_code == 2
    assert "--dry-run with --resume" in result.stderr
    assert not [*tmp_path.iterdir()]
