"""Weights & Biases, offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli import app

BANDIT = "rlhf/TokenBandit-v0"


@pytest.mark.slow
def test_an_offline_run_has_our_tags_and_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    import os

    flags = [
        "--env",
        BANDIT,
        "-n",
        "96",
        "--n-envs",
        "16",
        "--test-episodes",
        "4",
        "--eval-freq",
        "0",
        "--threads",
        "1",
    ]
    command = [sys.executable, "-m", "agents.cli", "train", *flags, "--no-progress", "-params", "batch_size:48"]
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    done = subprocess.run(
        [*command, "--wandb", "our-project", "-f", str(tmp_path / "logs")],
        env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (record,) = folder.glob("run-*.wandb")
    content = record.read_bytes()
    for text in (
        b"our-project",
        b"rlhf/reward",
        b"rlhf/kl",
        b"held_out/reward",
        b"ppo/TokenBandit-v0_1",
        b"n_timesteps",
    ):
        assert text in content, text
    run = tmp_path / "logs" / "ppo" / "TokenBandit-v0_1"
    assert json.loads((run / "config.json").read_text())["wandb"] == "our-project"
    assert record.name == f"run-{(run / 'wandb_id').read_text()}.wandb"
    found = {file.parent for file in (tmp_path / "logs").rglob("events.out*")}
    assert found == {run}, "TensorBoard finds the run once"


def test_without_wandb_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = CliRunner().invoke(app, ["train", "--env", BANDIT, "--wandb", "p", "-f", str(tmp_path / "logs")])
    assert result.exit_code == 2
    assert "pip install 'rlhf-envs[wandb]'" in result.stderr
    assert not (tmp_path / "logs").exists()
