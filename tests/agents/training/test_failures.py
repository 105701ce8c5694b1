"""A run of `rlhf train` that fails says why, and goes on from its last checkpoint."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.training.run import train
from rlhf_envs.rewards.rules import TokenBanditReward
from rlhf_envs.rewards.waiting import Background
from tests.agents.training.runs import (
    BANDIT,
    FLAGS,
    TOKENS,
    assert_same_run,
    at_call,
    config,
    finish,
    progress,
    rlhf,
    stopped,
)

# Agents that bundles do not hold


class Idle(BaseAlgorithm):
    """The least there is of SB3's interface, with no rollout buffer: counts tokens and learns nothing."""

    def __init__(self, policy: Any, env: Any, policy_kwargs: Any = None, **kwargs: Any) -> None:
        kwargs = {name: kwargs[name] for name in ("verbose", "device", "seed") if name in kwargs}
        super().__init__(policy, env, learning_rate=1e-3, policy_kwargs=policy_kwargs, support_multi_env=True, **kwargs)
        self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )

    def learn(self, total_timesteps: int, callback: Any = None, **kwargs: Any) -> Any:
        kwargs.pop("log_interval")
        _, callback = self._setup_learn(total_timesteps, callback, **kwargs)
        callback.on_training_start(locals(), globals())
        self.num_timesteps = total_timesteps
        callback.on_training_end()
        return self


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    from agents import register, registry

    monkeypatch.setattr(registry, "_ALGORITHMS", dict(registry._ALGORITHMS))
    register("idle", f"{__name__}:Idle")


@pytest.mark.usefixtures("idle")
def test_an_agent_that_bundles_do_not_hold_trains_and_saves_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = dict(algo="idle", kl_target=None, hyperparams={}, eval_freq=0)
    folder = train(config(tmp_path, **settings)).folder
    assert caplog.text.count("idle (Idle) is no agent that bundles hold: no checkpoints are written") == 1
    assert (folder / "report.json").is_file()
    assert (folder / "agent.zip").is_file()
    assert not (folder / "agent").exists()
    with pytest.raises(ValueError, match=r"--save-freq 96: checkpoints need an agent that bundles hold, and idle"):
        train(config(tmp_path, **settings, save_freq=96).model_copy(update={"run_name": "other"}))
    assert not (tmp_path / "idle" / "other").exists()
    (folder / "report.json").unlink()
    result = rlhf("train", "--resume", str(folder))
    assert result.exit_code == 2
    assert "needs an agent that bundles hold, and idle is none" in result.stderr
    assert f"agents.load('{folder / 'agent.zip'}', trust_pickle=True)" in result.stderr


def test_a_run_of_an_older_release_names_its_zips(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config(tmp_path).resolved().model_dump_json())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "rl_model_96_steps.zip").write_bytes(b"")
    result = rlhf("train", "--resume", str(tmp_path))
    assert result.exit_code == 2
    assert f"SB3 zips ({Path('checkpoints') / 'rl_model_96_steps.zip'})" in result.stderr
    assert "rl_model_96_steps.zip', trust_pickle=True)" in result.stderr


def test_a_folder_in_the_agents_place_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_call(monkeypatch, 9, lambda scores: scores * np.nan)
    stopped(tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "ppo" / "run"
    (folder / "agent").mkdir()
    (folder / "agent" / "notes").write_text("mine")
    with pytest.raises(OSError, match=r"agent is no bundle, or a broken one: move it away"):
        finish(folder)


def test_a_full_disk_leaves_the_last_checkpoint(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the third checkpoint and of every later one do not fit: as RLIMIT_FSIZE, a real one, has it."""
    from agents.saving import tensors as bundle_model

    real, saves = bundle_model.save_file, 0

    def full(tensors: Any, path: Path) -> None:
        nonlocal saves
        saves += 1
        if saves > 4:  # two a bundle
            raise bundle_model.SafetensorError("Error while serializing: I/O error: No space left on device")
        real(tensors, path)

    monkeypatch.setattr(bundle_model, "save_file", full)
    message = stopped(tmp_path, save_freq=96)
    folder = tmp_path / "ppo" / "run"
    assert f"cannot write {folder / 'checkpoints' / '288'}" in message
    assert "No space left on device" in message
    assert "Free space there" in message
    assert f"its last checkpoint is {folder / 'checkpoints' / '192'}; go on with: rlhf train --resume" in message
    assert sorted(os.listdir(folder / "checkpoints")) == ["192", "96"]
    monkeypatch.undo()
    finish(folder)
    assert_same_run(folder, unbroken)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_file_that_may_not_grow_is_named(tmp_path: Path) -> None:
    """A real failure of the operating system, in the middle of a file of weights."""
    import resource

    import agents

    agent = agents.make("ppo", BANDIT, n_envs=4, seed=0, device="cpu")
    agents.save(agent, tmp_path / "agent")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=rf"cannot write {tmp_path / 'agent'}.*what was saved before is intact"):
            agents.save(agent, tmp_path / "agent")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    agents.load(tmp_path / "agent")
    assert os.listdir(tmp_path) == ["agent"]


def test_a_run_folder_deleted_under_it_is_named_and_the_work_is_not_lost(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ppo" / "run"
    from agents.core.text_metrics import TextMetrics

    real = TextMetrics._on_rollout_end

    def delete(self: Any) -> None:
        real(self)
        if self.num_timesteps == 288:
            shutil.rmtree(folder)

    monkeypatch.setattr(TextMetrics, "_on_rollout_end", delete)
    message = stopped(tmp_path, save_freq=96)
    assert "deleted under the run" in message or f"cannot write {folder}" in message or "cannot log to" in message
    assert str(folder) in message
    monkeypatch.undo()
    result = finish(folder)
    assert (folder / "agent/policy.safetensors").read_bytes() == (unbroken / "agent/policy.safetensors").read_bytes()
    assert result.agent.num_timesteps == TOKENS


def test_a_log_that_cannot_be_written_stops_the_run_with_its_name(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stable_baselines3.common.logger import TensorBoardOutputFormat

    real = TensorBoardOutputFormat.write

    def fail(self: Any, values: Any, excluded: Any, step: int = 0) -> None:
        if step == 288:
            raise OSError(errno.EROFS, "Read-only file system")
        real(self, values, excluded, step)

    monkeypatch.setattr(TensorBoardOutputFormat, "write", fail)
    message = stopped(tmp_path)
    folder = tmp_path / "ppo" / "run"
    assert f"cannot log to {folder}: Read-only file system. Free space there or make it writable" in message
    assert f"its last checkpoint is {folder / 'checkpoints' / '192'}" in message
    monkeypatch.undo()
    finish(folder)
    assert_same_run(folder, unbroken)


def test_a_log_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = rlhf("train", *FLAGS, "-f", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert f"cannot write the run's folder {tmp_path / 'file'}" in result.stderr
    assert "choose another --log-folder" in result.stderr


def test_a_reward_that_is_not_finite_stops_the_run_where_it_goes_on_from(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_call(monkeypatch, 6, lambda scores: scores * np.nan)
    message = stopped(tmp_path)
    folder = tmp_path / "ppo" / "run"
    assert "token-bandit" in message
    assert "nan" in message
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert f"its last checkpoint is {checkpoint}" in message
    monkeypatch.undo()
    finish(folder)
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_a_reward_that_fails_stops_the_run_where_it_goes_on_from(
    how: str, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line, which says so in one line. The time of a call is over when it hangs, by no clock."""
    score, calls, woken = TokenBanditReward.score, 0, threading.Event()
    wait, moved = Background.wait, threading.Event()

    def fail(self: Any, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 6:
            return score(self, prompts, completions, **columns)
        if how == "raises":
            raise ConnectionError("the server is gone")
        moved.set()
        woken.wait(600)
        raise AssertionError("nobody waits for this any more")

    def wait_for_what_happens(self: Background, timeout: float | None = None) -> bool:
        self._outcome.add_done_callback(lambda _: moved.set())
        assert moved.wait(600), "the reward neither answered nor hung"
        moved.clear()
        return wait(self, timeout if self._outcome.done() else 0)

    monkeypatch.setattr(TokenBanditReward, "score", fail)
    monkeypatch.setattr(Background, "wait", wait_for_what_happens)
    settings = dict(timeout=1.0, retries=0) if how == "hangs" else dict(retries=0)
    given = [f for name, value in settings.items() for f in ("--env-kwargs", f"reward_{name}:{value}")]
    result = rlhf("train", *FLAGS, *given, "--kl-target", "0.3", "-f", str(tmp_path), "--run-name", "a run")
    woken.set()
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("rlhf:")]
    assert "the server is gone" in line if how == "raises" else "no answer in 1 s" in line
    folder = tmp_path / "ppo" / "a run"
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert f"its last checkpoint is {checkpoint}; go on with: rlhf train --resume '{folder}'" in line
    monkeypatch.undo()
    finish(folder)
    for name in ("policy.safetensors", "optimizer.safetensors"):
        assert (folder / "agent" / name).read_bytes() == (unbroken / "agent" / name).read_bytes()
    assert progress(folder) == progress(unbroken)


def test_an_error_without_a_message_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(scores: Any) -> Any:
        raise AssertionError

    from agents.core.text_metrics import TextMetrics

    monkeypatch.setattr(TextMetrics, "_on_rollout_end", lambda self: fail(None))
    assert "after 96 tokens: AssertionError; its last checkpoint" in stopped(tmp_path)


def test_gradients_that_are_not_finite_leave_the_last_checkpoint(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from agents.core.policy import TokenPolicy

    real, calls = TokenPolicy.evaluate_actions, 0

    def diverge(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        values, log_probs, entropy = real(self, *arguments)
        return values, log_probs * (torch.nan if calls == 7 else 1.0), entropy  # in the middle of the second update

    monkeypatch.setattr(TokenPolicy, "evaluate_actions", diverge)
    message = stopped(tmp_path, save_freq=96)
    folder = tmp_path / "ppo" / "run"
    assert f"its last checkpoint is {folder / 'checkpoints' / '96'}" in message
    monkeypatch.undo()
    finish(folder)
    assert_same_run(folder, unbroken)
