"""Folders of runs that are damaged or forged, and folders that are none: one line that names file and field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import agents
from agents.saving.folders import is_restartable, read_config
from agents.training.config import TrainConfig
from agents.training.resume import is_finished
from agents.training.run import train
from tests.agents.training.runs import config, rlhf


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(tmp_path_factory.mktemp("logs"), n_timesteps=96, eval_freq=0)).folder


def forge(run: Path, to: Path, file: str, **changes: Any) -> Path:
    folder = Path(shutil.copytree(run, to / "forged"))
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"algo": {}}, "algo: "),
        ({"env": 1.5}, "env: "),
        ({"env_kwargs": "x"}, "env_kwargs: "),
        ({"hyperparams": [1]}, "hyperparams: "),
        ({"hyperparams": {"temperature": "hot"}}, "hyperparams: --temperature 'hot'"),
        ({"hyperparams": {"best_of": "x"}}, "hyperparams: best_of must be a whole number"),
    ],
)
@pytest.mark.parametrize("verb", [["generate", "a"], ["evaluate", "-n", "2"]])
def test_a_verb_names_file_and_field(
    verb: list[str], changes: dict[str, Any], field: str, finished: Path, tmp_path: Path
) -> None:
    folder = forge(finished, tmp_path, "config.json", **changes)
    result = rlhf(verb[0], str(folder), *verb[1:])
    assert result.exit_code == 2, result.exception
    assert f"{folder / 'config.json'}: {field}" in result.stderr


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "{", '{"algo": "ppo", "n_envs": "many"}'])
def test_resuming_names_file_and_field_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not the configuration of a run: ") as error:
        TrainConfig.of_folder(tmp_path)
    assert "\n" not in str(error.value)
    if "many" in text:
        assert "n_envs: " in str(error.value) and "(got 'many')" in str(error.value)
    comparison = agents.CompareConfig(folder=str(tmp_path), algos=["ppo"])
    with pytest.raises(ValueError, match=r"config\.json is not the configuration of a comparison: ") as error:
        agents.compare(comparison)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{}", '{"n_timesteps": "many", "before": {}, "after": {}}'])
def test_a_damaged_report_is_named_and_is_no_report(text: str, finished: Path, tmp_path: Path) -> None:
    assert is_finished(finished, TrainConfig.of_folder(finished))
    folder = Path(shutil.copytree(finished, tmp_path / "damaged"))
    (folder / "report.json").write_text(text)
    assert not is_finished(folder, TrainConfig.of_folder(folder))
    with pytest.raises(ValueError, match=r"report\.json is "):
        agents.plot(folder)


@pytest.mark.parametrize("text", ['{"auths": {}}', "{", "[]", '{"model_type": "gpt2"}'])
def test_nothing_of_another_program_is_removed_for_its_files_names(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "ppo" / "run"
    (folder / "start").mkdir(parents=True)
    (folder / "config.json").write_text(text)
    assert not is_restartable(folder)
    with pytest.raises(FileExistsError, match="choose another --run-name"):
        config(tmp_path).claim()
    assert (folder / "config.json").read_text() == text


def test_fields_that_are_left_out_are_no_damage(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"algo": "ppo", "env_kwargs": null, "of": "another release"}')
    assert read_config(tmp_path)["of"] == "another release"
