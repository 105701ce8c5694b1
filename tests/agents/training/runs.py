"""Small runs that the tests of resuming and of failures share, and what has to be equal of two runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.core.text_metrics import TextMetrics
from agents.training.config import TrainConfig
from agents.training.resume import prepare_resumed
from agents.training.run import RunStopped, TrainResult, train
from rlhf_envs.rewards.rules import TokenBanditReward

BANDIT = "rlhf/TokenBandit-v0"
TOKENS = 480  # five rollouts of 96
FLAGS = ["--env", BANDIT, "-n", str(TOKENS), "--n-envs", "32", "--eval-freq", "150", "--n-eval-episodes", "6"]
FLAGS += ["--test-episodes", "8", "-params", "batch_size:48", "-params", "n_epochs:2", "--no-progress"]
CLOCK = ("time/fps", "time/time_elapsed", "time/iterations", "rlhf/tokens_per_second")


def config(folder: Path, **kwargs: Any) -> TrainConfig:
    settings: dict[str, Any] = dict(env=BANDIT, n_timesteps=TOKENS, n_envs=32, eval_freq=150, n_eval_episodes=6)
    settings |= dict(test_episodes=8, hyperparams=dict(batch_size=48, n_epochs=2), progress=False, kl_target=0.3)
    return TrainConfig(log_folder=str(folder), run_name="run", **(settings | kwargs))


def rlhf(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "400"})


def at_call(monkeypatch: pytest.MonkeyPatch, number: int, action: Any) -> None:
    """Do something in the n-th call of the reward function; an evaluation has up to three, a rollout one."""
    score, calls = TokenBanditReward.score, 0

    def counting(self: Any, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        nonlocal calls
        calls += 1
        scores = score(self, prompts, completions, **columns)
        return action(scores) if calls == number else scores

    monkeypatch.setattr(TokenBanditReward, "score", counting)


class Killed(BaseException):
    """Stands for kill -9: no handler of the run catches it."""


def train_until_killed(monkeypatch: pytest.MonkeyPatch, settings: TrainConfig, tokens: int) -> None:
    """Train until the rollout that reaches `tokens` has ended, and be killed there."""
    real = TextMetrics._on_rollout_end

    def die(self: TextMetrics) -> None:
        real(self)
        if self.num_timesteps == tokens:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(TextMetrics, "_on_rollout_end", die)
        with pytest.raises(Killed):
            train(settings)


def progress(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in CLOCK} for row in csv.DictReader(file)]


def assert_same_run(one: Path, other: Path) -> None:
    """Everything that two runs left, save for the wall clock."""
    for name in ("agent/policy.safetensors", "agent/optimizer.safetensors", "model/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    generators = [
        json.loads((run / "agent" / "agent.json").read_text())["values"]["generators"] for run in (one, other)
    ]
    assert generators[0] == generators[1]
    assert progress(one) == progress(other)
    for name in ("timesteps", "results", "ep_lengths"):
        np.testing.assert_array_equal(np.load(one / "evaluations.npz")[name], np.load(other / "evaluations.npz")[name])
    reports = [json.loads((run / "report.json").read_text()) for run in (one, other)]
    for report in reports:
        for part in (report, report["before"], report["after"]):
            part.pop("seconds")
    assert reports[0] == reports[1]


def stopped(folder: Path, **kwargs: Any) -> str:
    with pytest.raises(RunStopped) as caught:
        train(config(folder, **kwargs))
    return str(caught.value)


def finish(folder: Path) -> TrainResult:
    return train(prepare_resumed(folder))
