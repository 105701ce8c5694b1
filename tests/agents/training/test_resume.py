"""A run of `rlhf train` that is stopped, killed or fails goes on as if nothing had happened."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm
from typer.testing import CliRunner

from agents.cli import app
from agents.training import run as run_module
from agents.training.config import TrainConfig
from agents.training.resume import find_run, prepare_resumed
from agents.training.run import RunInterrupted, RunStopped, TrainResult, train
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
    """Do something in the n-th call of the reward function; about two calls make a step of a rollout of three."""
    score, calls = TokenBanditReward.score, 0

    def counting(self: Any, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        nonlocal calls
        calls += 1
        scores = score(self, prompts, completions, **columns)
        return action(scores) if calls == number else scores

    monkeypatch.setattr(TokenBanditReward, "score", counting)


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


@pytest.fixture(autouse=True, scope="module")
def _no_pictures() -> Iterator[None]:
    """They take most of the time of so short a run, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.training.report.plot_curves", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(tmp_path_factory.mktemp("unbroken"))).folder


def test_evaluations_leave_the_training_alone(unbroken: Path, tmp_path: Path) -> None:
    quiet = train(config(tmp_path, eval_freq=0)).folder
    assert (quiet / "model/model.safetensors").read_bytes() == (unbroken / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("call", [1, 8, 14])
def test_a_run_that_sigterm_stops_goes_on_exactly(
    call: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first rollout, in a later one, and in one with an evaluation before it."""
    # the reward is called 3 times by the evaluation before training at the most; count from when training starts
    started = []
    monkeypatch.setattr(run_module, "_open_folder", _spy_open(lambda: started.append(1)))
    score, calls = TokenBanditReward.score, 0

    def terminate(self: Any, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        nonlocal calls
        calls += len(started)
        if calls == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, prompts, completions, **columns)

    monkeypatch.setattr(TokenBanditReward, "score", terminate)
    with pytest.raises(RunInterrupted, match=rf"SIGTERM: the run is saved in .*; .* rlhf train --resume {tmp_path}"):
        train(config(tmp_path))
    monkeypatch.undo()
    folder = tmp_path / "ppo" / "run"
    assert not (folder / "report.json").exists()
    np.random.seed(1)  # a new process would have other generators too
    result = rlhf("train", "--resume", str(folder), "--no-progress")
    assert result.exit_code == 0, result.output
    assert "of them done" in result.output
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize("moment", ["_on_step", "_on_rollout_end"])
def test_a_signal_in_the_last_rollout_or_update_is_no_end(
    moment: str, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last step the rollout is given up, its update still to come; in the last update nothing is."""
    from agents.core.text_metrics import TextMetrics

    real = getattr(TextMetrics, moment)

    def terminate(self: Any) -> Any:
        if self.num_timesteps == TOKENS:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(TextMetrics, moment, terminate)
    with pytest.raises(RunInterrupted):
        train(config(tmp_path))
    monkeypatch.undo()
    folder = tmp_path / "ppo" / "run"
    assert (folder / "agent").exists() == (moment == "_on_rollout_end")
    finish(folder)
    assert_same_run(folder, unbroken)


def _spy_open(called: Any) -> Any:
    real = run_module._open_folder

    def spy(run: Any) -> None:
        real(run)
        called()

    return spy


def test_a_run_that_was_killed_long_after_its_checkpoint_goes_on_exactly(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the logs have of the time after the checkpoint is taken back; a torn last line does not matter."""

    class Killed(BaseException):
        pass

    from agents.core.text_metrics import TextMetrics

    real = TextMetrics._on_rollout_end

    def die(self: Any) -> None:
        real(self)
        if self.num_timesteps == 384:
            raise Killed

    monkeypatch.setattr(TextMetrics, "_on_rollout_end", die)
    with pytest.raises(Killed):
        train(config(tmp_path, save_freq=96))
    monkeypatch.undo()
    folder = tmp_path / "ppo" / "run"
    assert sorted(map(int, os.listdir(folder / "checkpoints"))) == [96, 192, 288]
    shutil.rmtree(folder / "checkpoints" / "288")
    (folder / "checkpoints" / "192" / "policy.safetensors").write_bytes(b"damaged")
    with (folder / "progress.csv").open("a") as file:
        file.write("0.5,1.2,384")
    train(prepare_resumed(folder))
    assert_same_run(folder, unbroken)


def test_tensorboard_forgets_what_came_after_the_checkpoint(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(config(tmp_path, save_freq=192, n_timesteps=384)).folder
    for name in ("report.json", "agent", "checkpoints/384"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    time.sleep(1.1)  # events files are named, and read in the order of, their second
    train(prepare_resumed(run))
    events = EventAccumulator(str(run)).Reload()
    assert [event.step for event in events.Scalars("rlhf/reward")] == [96, 192, 288, 384]


def test_a_finished_run_has_nothing_to_do(unbroken: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    result = rlhf("train", "--resume", str(unbroken))
    assert result.exit_code == 0
    assert "nothing to do" in result.output
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


def test_a_run_that_died_before_its_report_writes_it(unbroken: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(unbroken, tmp_path / "run"))
    (folder / "report.json").unlink()
    shutil.rmtree(folder / "model")
    result = rlhf("train", "--resume", str(folder))
    assert result.exit_code == 0, result.output
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "7"], "--seed 7 beside --resume: the run in"),
        (["-params", "batch_size:24"], "--hyperparams {'batch_size': 24} beside --resume"),
        (["-n", "1000"], "--n-timesteps 1000 beside --resume"),
    ],
)
def test_flags_that_conflict_are_an_error(flags: list[str], message: str, unbroken: Path) -> None:
    result = rlhf("train", "--resume", str(unbroken), *flags)
    assert result.exit_code == 2
    assert message in result.stderr


def test_flags_that_agree_or_only_show_are_welcome(unbroken: Path) -> None:
    given = TrainConfig(env=BANDIT, hyperparams={"batch_size": 48}, verbose=1)
    resumed = find_run(unbroken, given)
    assert resumed.verbose == 1
    assert resumed.n_timesteps == TOKENS


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no run's folder, it has no config.json"),
        ({"config.json": '{"algo": 3}'}, "not the configuration of a run"),
    ],
)
def test_a_folder_that_is_no_run_is_named(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    result = rlhf("train", "--resume", str(tmp_path))
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_run_without_a_checkpoint_cannot_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config(tmp_path).resolved().model_dump_json())
    result = rlhf("train", "--resume", str(tmp_path))
    assert result.exit_code == 2
    assert "holds no checkpoint that is whole" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGTERM")
@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_a_process_that_is_terminated_goes_on_in_another(algo: str, tmp_path: Path) -> None:
    long = [*FLAGS, "--algo", algo, "-n", "4800", "--kl-target", "0.3", "--run-name", "run"]
    if algo == "a2c":
        long = [flag for flag in long if flag not in ("batch_size:48", "n_epochs:2", "-params")]
    command = [sys.executable, "-m", "agents.cli", "train"]
    subprocess.run([*command, *long, "-f", str(tmp_path / "one")], check=True, capture_output=True)
    started = subprocess.Popen([*command, *long, "-f", str(tmp_path / "other")], stdout=subprocess.PIPE, text=True)
    folder = tmp_path / "other" / algo / "run"
    while not (folder / "progress.csv").is_file() or (folder / "progress.csv").read_text().count("\n") < 5:
        assert started.poll() is None
        time.sleep(0.01)
    started.terminate()
    output, _ = started.communicate(timeout=120)
    assert started.returncode == 0
    assert f"rlhf train --resume {folder}" in " ".join(output.split())
    subprocess.run([*command, "--resume", str(folder)], check=True, capture_output=True)
    assert_same_run(folder, tmp_path / "one" / algo / "run")


def test_a_signal_while_the_agent_is_saved_waits_for_it(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_module.save

    def terminate(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)

    monkeypatch.setattr(run_module, "save", terminate)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # not that of pytest: it would end it
    try:
        with pytest.raises(RunInterrupted, match=r"SIGTERM: the run is saved in .*agent"):
            train(config(tmp_path))
    finally:
        signal.signal(signal.SIGTERM, before)
    monkeypatch.undo()
    finish(tmp_path / "ppo" / "run")
    assert_same_run(tmp_path / "ppo" / "run", unbroken)


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


# What goes wrong


def stopped(folder: Path, **kwargs: Any) -> str:
    with pytest.raises(RunStopped) as caught:
        train(config(folder, **kwargs))
    return str(caught.value)


def finish(folder: Path) -> TrainResult:
    return train(prepare_resumed(folder))


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
    at_call(monkeypatch, 9, lambda scores: scores * np.nan)
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
    """Through the command line, which says so in one line."""
    score, calls, woken = TokenBanditReward.score, 0, threading.Event()

    def fail(self: Any, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 9:
            return score(self, prompts, completions, **columns)
        if how == "raises":
            raise ConnectionError("the server is gone")
        woken.wait(60)
        raise AssertionError("nobody waits for this any more")

    monkeypatch.setattr(TokenBanditReward, "score", fail)
    settings = dict(timeout=1.0, retries=0) if how == "hangs" else dict(retries=0)
    given = [f for name, value in settings.items() for f in ("--env-kwargs", f"reward_{name}:{value}")]
    result = rlhf("train", *FLAGS, *given, "--kl-target", "0.3", "-f", str(tmp_path), "--run-name", "run")
    woken.set()
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("rlhf:")]
    assert "the server is gone" in line if how == "raises" else "no answer in 1 s" in line
    folder = tmp_path / "ppo" / "run"
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert f"its last checkpoint is {checkpoint}; go on with: rlhf train --resume {folder}" in line
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
