"""Learning rates that go down over a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import agents
from agents.algorithms.ppo import PPO
from agents.core.schedules import CosineSchedule, falling_rate
from agents.training.building import build_agent
from agents.training.config import TrainConfig
from agents.training.resume import prepare_resumed
from agents.training.run import prepare, resolve_config, train
from tests.agents.training.runs import FLAGS, TOKENS, config, finish, progress, rlhf, train_until_killed


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", [2.0, 1.5, 1.0, 0.0, 0.0]), ("cosine", [2.0, 1 + math.sqrt(0.5), 1.0, 0.0, 0.0])]
)
def test_a_rate_goes_down_to_0_and_not_below(kind: str, expected: list[float]) -> None:
    schedule = falling_rate(kind, 2.0)
    assert [schedule(left) for left in (1.0, 0.75, 0.5, 0.0, -0.2)] == pytest.approx(expected)


def test_a_run_that_is_killed_goes_on_where_its_rate_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = dict(lr_schedule="cosine", learning_rate=0.01, eval_freq=0, save_freq=96)
    settings |= dict(n_timesteps=288)
    unbroken = train(config(tmp_path / "unbroken", **settings)).folder
    train_until_killed(monkeypatch, config(tmp_path, **settings), 192)
    folder = tmp_path / "ppo" / "run"
    assert json.loads((folder / "config.json").read_text())["lr_schedule"] == "cosine"
    finish(folder)
    assert (folder / "agent/policy.safetensors").read_bytes() == (unbroken / "agent/policy.safetensors").read_bytes()
    assert progress(folder) == progress(unbroken)
    rates = [row["train/learning_rate"] for row in progress(folder)]  # of the update before the row's rollout
    assert rates[0] == ""
    assert [*map(float, rates[1:])] == pytest.approx([0.0075, 0.0025])
    assert isinstance(agents.load(folder / "agent").learning_rate, CosineSchedule)


def test_a_longer_run_takes_up_the_rate_of_its_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    short = config(tmp_path, n_timesteps=192, lr_schedule="linear", learning_rate=0.01, eval_freq=0)
    folder = train(short).folder
    with caplog.at_level("WARNING"):
        prepare_resumed(folder, TrainConfig.of_folder(folder, TrainConfig(n_timesteps=TOKENS))).lock.release()
    assert f"extended to {TOKENS} tokens: lr_schedule goes on at 0.006 and not 0" in caplog.text


def test_without_a_rate_the_algorithms_own_goes_down(tmp_path: Path) -> None:
    settings = config(tmp_path, lr_schedule="linear", hyperparams={"batch_size": 48}).resolved()
    agent = build_agent(settings.model_copy(update={"learning_rate": None}))
    assert agent.learning_rate(1.0) == PPO.defaults["learning_rate"]


def test_a_rate_that_cannot_go_down_is_refused(tmp_path: Path) -> None:
    still = config(tmp_path, algo="random", lr_schedule="linear", kl_target=None, hyperparams={})
    with pytest.raises(ValueError, match=r"random has the learning rate 0\.0, which cannot go down"):
        build_agent(resolve_config(still))
    with pytest.raises(ValueError, match="96 tokens are one rollout, with one update: take a larger -n"):
        prepare(config(tmp_path, lr_schedule="linear", n_timesteps=90))


def test_a_dry_run_shows_the_schedule() -> None:
    assert "lr_schedule=cosine" in rlhf("train", *FLAGS, "--lr-schedule", "cosine", "--dry-run").output
