"""Folders that an experiment finds: its own, or something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.compare.config import CompareConfig
from agents.experiments.compare.config import join_existing as join_comparison
from agents.experiments.joining import check_unchanged, read_saved
from agents.experiments.transfer.config import TransferConfig
from agents.experiments.transfer.config import join_existing as join_transfer
from agents.saving.folders import CONFIG, LOCK

KINDS = [
    (CompareConfig, join_comparison, "comparison", "algos"),
    (TransferConfig, join_transfer, "transfer experiment", "sequence"),
]


@pytest.mark.parametrize(("config", "join", "kind", "needs"), KINDS)
def test_the_folder_of_a_run_is_no_experiment(config: Any, join: Any, kind: str, needs: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{}")  # each of its settings has a default in both configurations
    with pytest.raises(ValueError, match=f"{CONFIG} is not the configuration of a {kind}: it has no '{needs}'"):
        join(config(folder=str(tmp_path)))


@pytest.mark.parametrize(("config", "join", "kind", "needs"), KINDS)
def test_a_damaged_configuration_names_its_setting(
    config: Any, join: Any, kind: str, needs: str, tmp_path: Path
) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({needs: config().model_dump()[needs], "seeds": "many"}))
    with pytest.raises(ValueError, match=f"{CONFIG} is not the configuration of a {kind}: .*seeds"):
        join(config(folder=str(tmp_path)))


@pytest.mark.parametrize(("config", "join", "kind", "needs"), KINDS)
def test_a_folder_with_nothing_but_a_lock_is_new(config: Any, join: Any, kind: str, needs: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("")
    given = config(folder=str(tmp_path))
    assert join(given) is given
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=f"exists and is no {kind}"):
        join(given)


def test_a_setting_that_nobody_gave_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(CompareConfig(tokens=960, test_episodes=4).model_dump_json())
    given = CompareConfig(folder=str(tmp_path), tokens=100)
    saved = read_saved(given, tmp_path, "comparison", needs="algos")
    assert saved is not None and saved.tokens == 960
    check_unchanged(given, saved, {"folder", "tokens"}, "comparison", "why")
    with pytest.raises(ValueError, match=r"^tokens=100, and the comparison has 960: why. Choose another folder"):
        check_unchanged(given, saved, {"folder"}, "comparison", "why")
