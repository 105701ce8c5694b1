"""A run's `config.json` leads to its files from any working directory, and keeps them as they were typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agents.saving.provenance import write_settings
from agents.saving.run_paths import as_typed, from_here
from agents.training.config import TrainConfig
from agents.training.resume import prepare_resumed
from agents.training.run import train
from rlhf_envs.models import resolve
from tests.agents.training.runs import config as small_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that was begun in one directory; the working directory is another one."""
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("start", "more/mine", "judge"):
        (here / name).mkdir(parents=True)
    (here / "more/rows.jsonl").write_text("")
    (here / "train").mkdir()  # the name of a split
    there.mkdir()
    monkeypatch.chdir(here)
    config = TrainConfig(
        model="start",
        judge=["gold", "judge"],
        env_kwargs={"data": "more/rows.jsonl", "split": "train", "reward": "distinct-ngrams"},
        hyperparams={"data": "elsewhere.jsonl"},
    )
    folder = here / "logs/ppo/mine"
    folder.mkdir(parents=True)
    write_settings(folder / "config.json", config.model_dump(mode="json"))
    monkeypatch.chdir(there)
    return folder


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    found.pop("made")
    return found


def test_paths_lead_from_where_they_were_typed(run: Path) -> None:
    found = TrainConfig.of_folder(run)
    assert found.model == "../here/start"
    assert found.judge == ["gold", "../here/judge"]
    assert found.env_kwargs == {"data": "../here/more/rows.jsonl", "split": "train", "reward": "distinct-ngrams"}
    assert found.hyperparams == {"data": "elsewhere.jsonl"}, "what is not there stays as it was typed"


def test_the_file_keeps_what_was_typed_when_the_run_goes_on_elsewhere(run: Path) -> None:
    before = content(run)
    assert before["model"] == "start"
    config = TrainConfig.of_folder(run, TrainConfig(verbose=1))
    write_settings(run / "config.json", config.model_dump(mode="json"))
    assert content(run) == {**before, "verbose": 1}


def test_aspects_lead_to_their_models(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = content(run)
    aspects = {"good": {"weight": 1, "reward": "hf:more/mine"}, "long": {"weight": 1, "reward": "distinct-ngrams"}}
    values["env_kwargs"] = {"reward": "aspects", "reward_kwargs": {"aspects": aspects}}
    write_settings(run / "config.json", values)
    found = TrainConfig.of_folder(run).env_kwargs["reward_kwargs"]["aspects"]
    assert [one["reward"] for one in found.values()] == ["hf:../here/more/mine", "distinct-ngrams"]


def test_labels_stores_and_scorers_of_questions_lead_too_and_bundled_rows_stay(run: Path) -> None:
    (run.parents[2] / "sentiment").mkdir()  # the name of bundled rows
    (run.parents[2] / "people.db").write_text("")
    values: dict[str, Any] = {
        "log_folder": "logs",
        "reward_model": "start@LABEL",
        "by": {"fresh": "hf:more/mine@LABEL", "kind": "gold"},
        "env_kwargs": {"data": "sentiment", "reward": "human", "reward_kwargs": {"store": "people.db"}},
    }
    found = from_here(values, run)
    assert found["reward_model"] == "../here/start@LABEL"
    assert found["by"] == {"fresh": "hf:../here/more/mine@LABEL", "kind": "gold"}
    assert found["env_kwargs"] == {**values["env_kwargs"], "reward_kwargs": {"store": "../here/people.db"}}
    assert as_typed(found, values, run) == values


@pytest.mark.parametrize("log_folder", ["/else", "../logs", "other"])
def test_a_run_whose_place_does_not_tell_goes_by_what_was_typed(run: Path, log_folder: str) -> None:
    values = content(run)
    write_settings(run / "config.json", {**values, "log_folder": log_folder})
    assert TrainConfig.of_folder(run).model == "start"


def test_a_flag_that_an_old_file_lacks_is_said_to_be_missing(run: Path) -> None:
    values = content(run)
    del values["test_episodes"]
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"--test-episodes 8 .* of a release without that flag, so the run has 256"):
        TrainConfig.of_folder(run, TrainConfig(test_episodes=8))
    with pytest.raises(ValueError, match=r"--seed 8 with --resume: the run in .* has 0; leave the flag out"):
        TrainConfig.of_folder(run, TrainConfig(seed=8))


def test_a_judge_in_a_folder_keeps_its_name_where_a_run_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir(parents=True)
    shutil.copytree(Path(resolve("tiny-reward")), here / "my-judge")
    monkeypatch.chdir(here)
    judged: dict[str, Any] = {"judge": ["my-judge"], "early_stopping": "my-judge", "eval_freq": 96, "test_episodes": 4}
    settings = small_run(Path("logs"), n_timesteps=96, n_eval_episodes=4, **judged)
    before = train(settings)
    run = before.folder.resolve()
    monkeypatch.chdir(there)
    after = train(prepare_resumed(run, TrainConfig.of_folder(run, TrainConfig(n_timesteps=192))))
    assert set(before.after.judges) == set(after.before.judges) == set(after.after.judges) == {"my-judge"}
    assert after.early_stopping is not None and after.early_stopping["metric"] == "my-judge"
    assert content(run)["judge"] == ["my-judge"]
    for file in ("progress.csv", "report.json", "model/README.md"):
        assert "my-judge" in (text := (run / file).read_text())
        assert "../here" not in text, file


def test_a_run_that_starts_over_elsewhere_keeps_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir(parents=True)
    shutil.copytree(Path(resolve("tiny-reward")), here / "my-judge")
    monkeypatch.chdir(here)
    settings = small_run(Path("logs"), n_timesteps=96, judge=["my-judge"], eval_freq=0, test_episodes=4)
    run = here / settings.folder()
    run.mkdir(parents=True)
    write_settings(run / "config.json", settings.model_dump(mode="json"))  # and nothing else: it ended at once
    monkeypatch.chdir(there)
    done = train(prepare_resumed(run, TrainConfig.of_folder(run)))
    assert set(done.before.judges) == set(done.after.judges) == {"my-judge"}
    assert content(run)["judge"] == ["my-judge"]
