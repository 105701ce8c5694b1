"""What is wrong with an experiment's settings is said before it makes a folder, a file or a store."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.experiments.compare import compare as compare_module
from agents.experiments.compare.config import CompareConfig

BANDIT = "--env rlhf/TokenBandit-v0"
LOOP = f"loop {BANDIT} --labels 8 --test-episodes 4 --scorer token-bandit"
TUNE = f"tune {BANDIT} --trials 1 --tokens 96 --episodes 4"
COMPARE = f"compare {BANDIT} --algos ppo --tokens 96 --seeds 1 -f lab"
TRANSFER = "transfer --envs rlhf/Sentiment-v0,rlhf/SpamFilter-v0 -f lab"
OWN = "--data rows.jsonl --reward repetition"
PACKAGES = {"loop": ("sqlalchemy", "crowdkit"), "tune": ("optuna",)}
MISTAKES = {
    f"{LOOP} --aspects ratign": "asks no question 'ratign'; did you mean 'rating'",
    f"{LOOP} --aspects none.yml": "none.yml",
    f"{LOOP} --aspects dangerous": "give one of them a weight",
    f"{LOOP} --criterion good": "no criterion 'good'",
    f"{LOOP} --store my.db --criterion good": "no criterion 'good'",
    f"{LOOP} --study none.toml": "none.toml: No such file",
    f"{LOOP} --study wrong.toml": "unknown setting 'nonsense'",
    f"{LOOP} --by hatred:repetition": "--by hatred: there is no question or harm 'hatred'",
    f"{LOOP} -params n_epoch:3": "nearest: n_epochs",
    f"{LOOP} --train al": "'full'",
    f"{LOOP} --device gpu": "device 'gpu'",
    f"{LOOP} --sft-data none.jsonl --sft-coef 1": "none.jsonl",
    f"{LOOP} --env-kwargs split:tset": "tset",
    f"{LOOP} -n 2": "--n-timesteps 2 is less than one episode of 3 tokens",
    f"{TUNE} --tokens 2": "--tokens 2 is less than one episode of 3",
    f"{TUNE} --device gpu": "device 'gpu'",
    f"{TUNE} -params batch_size:2": "batch_size",
    f"{TUNE} --storage study.db": "--storage study.db: ",
    f"{TUNE} --storage nothing://x": "--storage nothing://x: ",
    f"{TUNE} -o wrong.yml": "section 'nonsense' is no algorithm",
    f"tune {OWN} --env-kwargs test_share:0 --trials 1 --tokens 512": "test_share=0 leaves no test rows",
    f"{COMPARE} --model none": "unknown model 'none'",
    f"{COMPARE} --device gpu": "device 'gpu'",
    f"{COMPARE} --train al": "'full'",
    f"{COMPARE} --env-kwargs max_tokens:3": "max_new_tokens",
    f"{COMPARE} --reward repetitoin": "'repetition'",
    f"{COMPARE} -params sft_data:none.jsonl -params sft_coef:1": "none.jsonl",
    f"{COMPARE} --tokens 2": "--tokens 2 is less than one episode of 3",
    f"{TRANSFER} --device gpu": "device 'gpu'",
    f"{TRANSFER} --env-kwargs max_tokens:3": "max_new_tokens",
    f"{TRANSFER} --env-kwargs reward:repetitoin": "'repetition'",
    f"{TRANSFER} -n 2": "--n-timesteps 2 is less than one episode",
    f"self-train tiny {OWN} --env-kwargs test_share:0": "test_share=0 leaves no test rows",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of rows, and files that are wrong."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"the film {number}"} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "wrong.toml").write_text("nonsense = 1\n")
    (tmp_path / "wrong.yml").write_text("nonsense:\n  n_envs: 3\n")
    return tmp_path


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_said_before_anything_is_written(command: str, here: Path) -> None:
    for package in PACKAGES.get(command.split()[0], ()):
        pytest.importorskip(package)
    before = sorted(here.rglob("*"))
    result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "300"})
    assert result.exit_code == 2, result.output
    assert MISTAKES[command] in result.stderr
    assert sorted(here.rglob("*")) == before


def test_a_store_that_is_there_is_asked_and_stays_as_it_is(here: Path) -> None:
    pytest.importorskip("crowdkit")
    pytest.importorskip("sqlalchemy")
    from rlhf_envs.feedback import FeedbackStore

    (here / "study.toml").write_text('guidelines = "Be kind."\n')
    with FeedbackStore(here / "my.db") as store:
        store.update_settings(questions=[{"name": "good", "text": "How good?", "type": "rating", "each": True}])
        before = store.settings
    flags = f"{LOOP} --store my.db --study study.toml --aspects good,bad"
    result = CliRunner().invoke(app, shlex.split(flags), env={"COLUMNS": "300"})
    assert result.exit_code == 2, result.output
    assert "asks no question 'bad'; there are dangerous, flags, good, " in result.stderr
    with FeedbackStore(here / "my.db") as store:
        assert store.settings == before
    assert not (here / "logs").exists()


def test_a_round_of_self_training_says_that_it_has_fewer_prompts_than_asked(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from agents.experiments.selftrain.config import SelfTrainConfig
    from agents.experiments.selftrain.run import with_defaults

    kwargs = {"data": str(here / "rows.jsonl"), "reward": "repetition"}
    with caplog.at_level(logging.WARNING, logger="agents.experiments.selftrain.run"):
        with_defaults(SelfTrainConfig(model="tiny", env="rlhf/Prompts-v0", env_kwargs=kwargs, prompts=100))
    (said,) = [record.getMessage() for record in caplog.records if record.name == "agents.experiments.selftrain.run"]
    assert said.startswith("prompts=100: there are ")
    assert said.endswith(" to train on, and a round takes these")


def test_a_finished_comparison_needs_no_device_and_no_files_to_be_reported(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(config: Any, data: Any) -> None:
        raise ValueError("runs would start")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    settings = CompareConfig(env="rlhf/TokenBandit-v0", algos=["ppo"], seeds=1, tokens=96, folder=str(here / "lab"))
    monkeypatch.setattr(compare_module, "check_start", check)
    monkeypatch.setattr(compare_module, "_run_missing", lambda *_: pytest.fail("not reached"))
    with pytest.raises(ValueError, match="runs would start"):
        compare_module.compare(settings)
    monkeypatch.setattr(compare_module, "plan", lambda config: [])  # none is missing
    monkeypatch.setattr(compare_module, "_run_missing", stop)
    with pytest.raises(KeyboardInterrupt):
        compare_module.compare(settings)
