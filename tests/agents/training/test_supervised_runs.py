"""Runs with `--sft-data` and `--sft-coef`: what their folder says, and that they go on exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.training.config import TrainConfig
from agents.training.resume import prepare_resumed
from agents.training.run import train
from tests.agents.training.runs import FLAGS, config, progress, rlhf


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "good.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "completion": " b a"}) + "\n" for prompt in "abc"))
    return str(path)


def test_a_run_goes_on_exactly_and_reads_its_file_again(tmp_path: Path, file: str) -> None:
    settings: dict[str, Any] = dict(sft_coef=0.5, sft_data=file, eval_freq=0)
    whole = train(config(tmp_path / "whole", n_timesteps=192, **settings)).folder
    folder = train(config(tmp_path, n_timesteps=96, **settings)).folder
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["sft_coef"], saved["sft_data"]) == (0.5, file)
    train(prepare_resumed(folder, TrainConfig.of_folder(folder, TrainConfig(n_timesteps=192))))
    assert (folder / "agent/policy.safetensors").read_bytes() == (whole / "agent/policy.safetensors").read_bytes()
    assert progress(folder) == progress(whole) and float(progress(folder)[1]["rlhf/sft_loss"]) > 0


def test_a_dry_run_shows_it_and_other_flags_may_give_it(file: str) -> None:
    given = ["-params", f"sft_data:{file}", "--sft-coef", "0.5", "-params", "sft_batch_size:64"]
    shown = rlhf("train", *FLAGS, *given, "--dry-run").output
    assert "sft_coef=0.5" in shown and f"sft_data={file}" in shown and "sft_batch_size=64" in shown
