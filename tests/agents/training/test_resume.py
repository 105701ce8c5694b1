"""A run of `rlhf train` that is stopped or killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.cli.train import TrainFlags
from agents.core.text_metrics import TextMetrics
from agents.saving.folders import is_restartable
from agents.saving.locks import locked
from agents.saving.provenance import read_records
from agents.training import run as run_module
from agents.training.config import TrainConfig
from agents.training.resume import is_finished, prepare_resumed
from agents.training.run import RunInterrupted, prepare, train
from rlhf_envs.rewards.rules import TokenBanditReward
from tests.agents.training.runs import (
    BANDIT,
    FLAGS,
    TOKENS,
    assert_same_run,
    config,
    finish,
    progress,
    rlhf,
    train_until_killed,
)
from tests.rlhf_envs.chat_families import CHATML, family_tokenizer
from tests.rlhf_envs.small_models import byte_level, save_model


def test_evaluations_leave_the_training_alone(unbroken: Path, tmp_path: Path) -> None:
    quiet = train(config(tmp_path, eval_freq=0)).folder
    assert (quiet / "model/model.safetensors").read_bytes() == (unbroken / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("call", [1, 3, 8])
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


@pytest.mark.slow
def test_a_run_of_adapters_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_model(tmp_path / "base", byte_level())
    settings: dict[str, Any] = dict(env="rlhf/Sentiment-v0", env_kwargs=dict(max_prompt_tokens=32, max_new_tokens=4))
    settings |= dict(model=base, train="lora", n_envs=4, n_timesteps=96, eval_freq=0, save_freq=32, kl_target=None)
    settings |= dict(test_episodes=2, hyperparams=dict(n_steps=8, batch_size=32, n_epochs=1, lora=dict(r=2)))
    unbroken = train(config(tmp_path / "unbroken", **settings)).folder
    real = TextMetrics._on_rollout_end

    def terminate(self: Any) -> None:
        real(self)
        if self.num_timesteps == 64:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TextMetrics, "_on_rollout_end", terminate)
    with pytest.raises(RunInterrupted):
        train(config(tmp_path, **settings))
    monkeypatch.undo()
    folder = tmp_path / "ppo" / "run"
    finish(folder)
    for name in ("agent/policy.safetensors", "agent/optimizer.safetensors", "model/adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert progress(folder) == progress(unbroken)


def test_a_run_of_conversations_goes_on_without_the_file_of_its_template(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text(CHATML.replace("assistant\n", "assistant:\n"), encoding="utf-8")
    rows = [{"prompt": text, "split": split} for split, text in (("train", "hi"), ("test", "hello"))]
    base = save_model(tmp_path / "base", family_tokenizer("chatml"), vocab_size=264)
    flags = TrainFlags(chat=True, system_prompt="Be brief.", chat_template=str(template))
    env: dict[str, Any] = dict(data=rows, reward="length-penalty", reward_kwargs={"longest": 1}, max_new_tokens=4)
    settings: dict[str, Any] = dict(
        env="rlhf/Prompts-v0", env_kwargs=env | flags.env_kwargs, model=base, kl_target=None
    )
    settings |= dict(n_envs=2, n_timesteps=8, eval_freq=0, test_episodes=2)
    settings |= dict(hyperparams=dict(n_steps=4, batch_size=8, n_epochs=1))
    folder = train(config(tmp_path, **settings)).folder
    template.unlink()
    resumed = prepare_resumed(folder, TrainConfig.of_folder(folder, TrainConfig(n_timesteps=16)))
    episodes = resumed.agent.get_env().get_attr("episodes", 0)[0]
    episodes.start(0, 0)
    asked = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant:\n"
    assert episodes.tokenizer.decode(episodes.ids[0, : episodes.lengths[0]]) == asked
    resumed.lock.release()
    assert "System&#58; Be brief" in (folder / "samples.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("moment", ["_on_step", "_on_rollout_end"])
def test_a_signal_in_the_last_rollout_or_update_is_no_end(
    moment: str, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last step the rollout is given up, its update still to come; in the last update nothing is."""
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
    train_until_killed(monkeypatch, config(tmp_path, save_freq=96), 384)
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


def test_a_finished_run_is_extended_as_if_it_had_been_longer(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is killed on the way: the checkpoint is then newer than the agent of the shorter run."""
    folder = train(config(tmp_path, n_timesteps=192, save_freq=96)).folder
    longer = TrainConfig.of_folder(folder, TrainConfig(n_timesteps=TOKENS))
    assert not is_finished(folder, longer)
    real = TextMetrics._on_rollout_end
    with monkeypatch.context() as patch:
        patch.setattr(TextMetrics, "_on_rollout_end", lambda self: real(self) or self.num_timesteps < 384 or killed())
        with pytest.raises(Killed):
            train(prepare_resumed(folder, longer))
    assert not is_finished(folder, TrainConfig.of_folder(folder))
    assert prepare_resumed(folder).agent.num_timesteps == 288
    finish(folder)
    assert_same_run(folder, unbroken)


def test_an_extended_run_goes_on_with_the_schedules_of_its_new_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As SB3's `learn(more, reset_num_timesteps=False)` has it: half-way through, not at their end."""
    settings = dict(learning_starts=0, train_freq=1, gradient_steps=1, batch_size=8, exploration_fraction=1.0)
    short = config(tmp_path, algo="dqn", n_timesteps=96, kl_target=None, eval_freq=0, hyperparams=settings)
    folder = train(short).folder
    with caplog.at_level("WARNING"):
        run = prepare_resumed(folder, TrainConfig.of_folder(folder, TrainConfig(n_timesteps=192)))
    first, final = run.agent.exploration_initial_eps, run.agent.exploration_final_eps
    half = (first + final) / 2
    assert f"extended to 192 tokens: exploration_schedule goes on at {half:g} and not {final:g}" in caplog.text
    assert "lr_schedule" not in caplog.text, "a constant schedule stays as it is"
    train(run)
    rows = [(int(row["time/total_timesteps"]), row["rollout/exploration_rate"]) for row in progress(folder)]
    expected = {tokens: first - (first - final) * tokens / (96 if tokens <= 96 else 192) for tokens, _ in rows}
    assert max(expected) == 192
    assert {tokens: float(rate) for tokens, rate in rows} == pytest.approx(expected, abs=0.01)


def test_other_versions_and_threads_are_said_when_a_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(config(tmp_path, n_timesteps=96, eval_freq=0)).folder
    longer = TrainConfig.of_folder(folder, TrainConfig(n_timesteps=192))
    with caplog.at_level("WARNING"):
        prepare_resumed(folder, longer).lock.release()
    assert "goes on with" not in caplog.text
    written = json.loads((folder / "config.json").read_text())
    written["made"][-1]["threads"], written["made"][-1]["versions"]["torch"] = 64, "1.0"
    (folder / "config.json").write_text(json.dumps(written))
    with caplog.at_level("WARNING"):
        train(prepare_resumed(folder, longer))
    here, threads = version("torch"), torch.get_num_threads()
    assert f"goes on with torch {here} instead of '1.0', threads {threads} instead of '64': numbers may" in caplog.text
    assert [record["threads"] for record in read_records(folder / "config.json")] == [64, threads]


class Killed(BaseException):
    """Stands for kill -9: no handler of the run catches it."""


def killed(*arguments: Any, **kwargs: Any) -> None:
    raise Killed


def test_a_run_killed_while_it_saves_its_agent_is_completed(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save", killed)
        with pytest.raises(Killed):
            train(config(tmp_path, save_freq=96))
    folder = tmp_path / "ppo" / "run"
    assert not (folder / "agent").exists()
    np.random.seed(1)
    finish(folder)
    assert_same_run(folder, unbroken)


def test_the_report_comes_last(tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.training import report

    folder = Path(shutil.copytree(unbroken, tmp_path / "run"))
    for name in ("report.json", "samples.md"):
        (folder / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(report, "plot_curves", killed)
        with pytest.raises(Killed):
            finish(folder)
    assert not is_finished(folder, config(tmp_path))
    finish(folder)
    assert is_finished(folder, config(tmp_path))
    assert (folder / "samples.md").is_file()


def test_a_report_without_its_agent_is_no_finished_run(unbroken: Path, tmp_path: Path) -> None:
    """Older releases left such runs. The checkpoint has all that is needed."""
    folder = Path(shutil.copytree(unbroken, tmp_path / "run"))
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "agent").rename(folder / "checkpoints" / str(TOKENS))
    assert not is_finished(folder, config(tmp_path))
    finish(folder)
    assert is_finished(folder, config(tmp_path))
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "7"], "--seed 7 with --resume: the run in"),
        (["-params", "batch_size:24"], "--hyperparams {'batch_size': 24} with --resume"),
        (["-n", "240"], "give more than 480 to extend it"),
    ],
)
def test_flags_that_conflict_are_an_error(flags: list[str], message: str, unbroken: Path) -> None:
    result = rlhf("train", "--resume", str(unbroken), *flags)
    assert result.exit_code == 2
    assert message in result.stderr


def test_flags_that_agree_or_are_of_the_machine_are_welcome(unbroken: Path) -> None:
    given = TrainConfig(env=BANDIT, hyperparams={"batch_size": 48}, verbose=1, device="cuda")
    resumed = TrainConfig.of_folder(unbroken, given)
    assert (resumed.verbose, resumed.device) == (1, "cuda")
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


@pytest.mark.parametrize("how", ["--resume", "--run-name"])
def test_a_run_killed_before_its_first_checkpoint_starts_over(
    how: str, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TextMetrics, "_on_rollout_end", killed)
        with pytest.raises(Killed):
            train(config(tmp_path, save_freq=192))
    folder = tmp_path / "ppo" / "run"
    assert is_restartable(folder)
    (folder / "checkpoints" / ".192.tmp-x").mkdir(parents=True)  # a save that was cut short
    for kept in ("best", "reward_models"):  # by early stopping, and by a refit to ratings, which stay in the store
        (folder / kept).mkdir()
    np.random.seed(1)
    train(prepare_resumed(folder) if how == "--resume" else config(tmp_path))
    assert f"the run in {folder} ended before its first checkpoint: it starts over" in caplog.text
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize("kept", ["checkpoints/96", "agent", "model", "notes.txt", "checkpoints/.96.old"])
def test_a_folder_with_anything_of_worth_is_not_started_over(kept: str, tmp_path: Path) -> None:
    folder = tmp_path / "ppo" / "run"
    (folder / kept).mkdir(parents=True)
    (folder / "config.json").write_text(config(tmp_path).resolved().model_dump_json())
    with pytest.raises(FileExistsError, match="exists: choose another --run-name, or --resume it"):
        prepare(config(tmp_path))
    with pytest.raises(ValueError, match="holds no checkpoint that is whole"):
        prepare_resumed(folder)
    assert (folder / kept).is_dir()


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    """Here from threads. A run is claimed before its model is loaded."""
    together = config(tmp_path).model_copy(update={"run_name": None})
    with ThreadPoolExecutor(10) as pool:
        claims = list(pool.map(lambda _: together.claim(), range(10)))
    assert {folder.name for folder, _ in claims} == {f"TokenBandit-v0_{k}" for k in range(1, 11)}


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        prepare(config(tmp_path, hyperparams={"no_such": 1}))
    assert not (tmp_path / "ppo" / "run").exists()


def test_a_run_belongs_to_one_process(unbroken: Path, tmp_path: Path) -> None:
    """The message names the process that has the run, whether it is resumed or started again by its name."""
    folder = Path(shutil.copytree(unbroken, tmp_path / "ppo" / "run"))
    (folder / "report.json").unlink()
    with locked(folder, "run"):
        result = rlhf("train", "--resume", str(folder))
    assert result.exit_code == 2
    assert f"process {os.getpid()} on " in result.stderr
    assert f"is at work on the run in {folder}: wait for it, or end it" in result.stderr
    finish(folder)
    train(config(tmp_path / "other"))  # a finished run has let go of its folder
    with locked(tmp_path / "other" / "ppo" / "run", "run"):
        pass


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
    assert started.returncode == 143
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
