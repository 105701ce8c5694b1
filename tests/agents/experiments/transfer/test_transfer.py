"""Real transfer experiments on tasks of one small vocabulary: the matrix, sequences, given runs, what is refused."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner

import agents
from agents.algorithms.ppo import PPO
from agents.cli import app
from agents.experiments.processes import Job
from agents.experiments.transfer import transfer as transfer_module
from agents.experiments.transfer.cells import resample
from agents.experiments.transfer.config import TransferConfig
from agents.experiments.transfer.plan import plan
from agents.experiments.transfer.plots import column_scale, draw_matrix
from agents.experiments.transfer.transfer import Transfer
from agents.experiments.transfer.worker import execute
from agents.saving.locks import locked
from agents.training.config import TrainConfig
from agents.training.errors import RunInterrupted
from agents.training.run import train
from rlhf_envs.datasets.splits import log_once

WORDS = "transfer_words"
A, B = f"{WORDS}:words/SayA-v0", f"{WORDS}:words/SayB-v0"
SMALL: dict[str, Any] = dict(n_timesteps=768, n_envs=32, hyperparams={"batch_size": 64}, learning_rate=0.02)
SMALL |= dict(test_episodes=12, seeds=1, jobs=1)


@pytest.fixture(autouse=True, scope="module")
def _words() -> Iterator[None]:
    before = {*gym.registry}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield
    for env_id in {*gym.registry} - before:
        gym.registry.pop(env_id)


def run_here(jobs: Sequence[Job], n: int, ended: Callable[[str, str], None], look: Callable[[], None]) -> None:
    """Run what a process per job would, without the seconds in which each starts."""
    for job in jobs:
        execute(json.loads(json.dumps(job.task)))
        assert job.result.is_file()
        ended(job.name, "finished")


def config(folder: Path, **given: Any) -> TransferConfig:
    return TransferConfig(**{**SMALL, "envs": [A, B], "folder": str(folder), **given})


def transfer_here(chosen: TransferConfig, say: Callable[[str], None] = lambda _: None) -> Transfer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer_module, "run_jobs", run_here)
        return agents.transfer(chosen, say)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, _words: None) -> Transfer:
    said: list[str] = []
    found = transfer_here(config(tmp_path_factory.mktemp("transfer") / "t", seeds=2), said.append)
    assert said[0].startswith("5 runs in ") and len(said) == 6
    return found


def evaluation(found: Transfer, run: str, column: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((found.folder / "evaluations" / run / f"{column}.json").read_text())
    return record


def test_each_agent_learns_its_own_task_and_not_the_other(done: Transfer) -> None:
    cells = done.report.cells
    for row, other in (("SayA-v0", "SayB-v0"), ("SayB-v0", "SayA-v0")):
        assert cells[row][row].change.mean > 0.2
        assert cells[row][other].change.mean < cells[row][row].change.mean - 0.15
    assert done.report.notes[0].startswith("Two seeds")
    assert any("On SayA-v0, SayB-v0 the metric is the reward" in note for note in done.report.notes)
    everywhere = "SayA-v0 on SayA-v0, SayA-v0 on SayB-v0, SayB-v0 on SayA-v0, SayB-v0 on SayB-v0"
    assert f"Not on held-out prompts, but on training prompts: {everywhere}." in done.report.notes


def test_a_cell_is_the_paired_change_from_the_start_with_students_interval(done: Transfer) -> None:
    for row in ("SayA-v0", "SayB-v0"):
        for column in ("SayA-v0", "SayB-v0"):
            start = evaluation(done, "start/seed_00", column)
            ends = [evaluation(done, f"{row}/seed_0{seed}", column) for seed in (0, 1)]
            assert all(end["prompts"] == start["prompts"] for end in ends)
            x, y = (np.mean(end["values"]["reward"]) - np.mean(start["values"]["reward"]) for end in ends)
            cell = done.report.cells[row][column]
            assert cell.change.mean == pytest.approx((x + y) / 2)
            assert cell.change.high - cell.change.mean == pytest.approx(12.7062 * abs(x - y) / 2, rel=1e-4)
            assert cell.per_seed == pytest.approx({0: x, 1: y})


def test_evaluations_are_those_of_agents_evaluate(done: Transfer) -> None:
    run, start = str(done.folder / "SayA-v0" / "seed_01"), str(done.folder / "start")
    ours = evaluation(done, "SayA-v0/seed_01", "SayB-v0")["values"]
    theirs = agents.evaluate(run, "words/SayB-v0", 12, reference=start).values()
    for name in ("reward", "kl", "length"):
        assert ours[name] == pytest.approx(theirs[name].tolist(), abs=1e-5)
    assert abs(np.array(evaluation(done, "start/seed_00", "SayA-v0")["values"]["kl"])).max() < 1e-4


def test_all_runs_start_from_one_fresh_model(done: Transfer) -> None:
    starts = {
        json.loads((done.folder / row / "seed_00" / "config.json").read_text())["model"]
        for row in ("SayA-v0", "SayB-v0")
    }
    assert starts == {str(done.folder.absolute() / "start")}


def test_the_folder_has_the_report_in_every_form(done: Transfer) -> None:
    report = json.loads((done.folder / "report.json").read_text())
    assert report == json.loads(json.dumps(done.report.to_json()))
    with (done.folder / "matrix.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 2 * 2 * 2
    cell = done.report.cells["SayB-v0"]["SayA-v0"]
    (one,) = (r for r in rows if (r["row"], r["environment"], r["seed"]) == ("SayB-v0", "SayA-v0", "1"))
    assert float(one["change"]) == pytest.approx(cell.per_seed[1])
    text = (done.folder / "report.md").read_text()
    assert f"{cell.change.mean:+.3f} [" in text and "![" in text
    page = (done.folder / "report.html").read_text()
    assert page.count("<svg") == 1 and "<script" not in page and "src=" not in page
    assert (done.folder / "plots" / "matrix.png").read_bytes().startswith(b"\x89PNG")
    assert repr(done).startswith("Transfer(2 environments, one agent each, ppo, 2 seeds, from a fresh model")


def test_again_it_has_nothing_to_run_and_another_metric_needs_no_run(done: Transfer) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done.folder / "evaluations").rglob("*.json")}
    said: list[str] = []
    again = transfer_here(TransferConfig(folder=str(done.folder)), said.append)
    assert said == [f"5 runs in {done.folder}, the start among them, 5 of them finished"]
    assert again.report.cells == done.report.cells
    chosen = {"SayA-v0": "words", "words/SayB-v0": "vocabulary"}
    other = transfer_here(TransferConfig(folder=str(done.folder), metric=chosen))
    assert [column.metric for column in other.report.columns] == ["words", "vocabulary"]
    record = evaluation(done, "SayA-v0/seed_00", "SayB-v0")
    assert len(record["corpus"]["vocabulary"]) == 201
    start = evaluation(done, "start/seed_00", "SayB-v0")
    expected = record["corpus"]["vocabulary"][0] - start["corpus"]["vocabulary"][0]
    assert other.report.cells["SayA-v0"]["SayB-v0"].per_seed[0] == expected
    assert {path: path.stat().st_mtime_ns for path in before} == before
    transfer_here(TransferConfig(folder=str(done.folder), metric={}))  # as it was, for the other tests


def test_the_picture_has_every_cell_and_bold_where_the_interval_excludes_0(done: Transfer) -> None:
    figure = draw_matrix(done.report)
    texts = {text.get_text(): text.get_fontweight() for text in figure.axes[0].texts}
    for own in done.report.cells.values():
        for cell in own.values():
            assert texts[f"{cell.change.mean:+.3f}"] == ("bold" if cell.sign else "normal")
    bounds = [b for own in done.report.cells.values() for b in own["SayA-v0"].change[2:4]]
    assert column_scale(done.report, "SayA-v0") == max(map(abs, bounds))


def test_a_second_process_is_kept_out(done: Transfer) -> None:
    with locked(done.folder, "x"), pytest.raises(ValueError, match=rf"process {os.getpid()} .* transfer experiment"):
        agents.transfer(TransferConfig(folder=str(done.folder)), lambda _: None)


def test_environments_and_seeds_are_added_and_finished_runs_stay(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    transfer_here(config(folder, n_timesteps=128))
    model = folder / "SayA-v0" / "seed_00" / "model" / "model.safetensors"
    stamp = model.stat().st_mtime_ns
    grown = transfer_here(config(folder, n_timesteps=128, envs=[A, B, f"{WORDS}:words/SayC-v0"]))
    assert model.stat().st_mtime_ns == stamp
    assert all(len(own) == 3 for own in grown.report.cells.values()) and len(grown.report.cells) == 3
    assert "One seed: the intervals are over prompts" in grown.report.notes[0]
    start, end = (evaluation(grown, f"{run}/seed_00", "SayC-v0") for run in ("start", "SayA-v0"))
    change = grown.report.cells["SayA-v0"]["SayC-v0"].change
    paired = resample(end, "reward") - resample(start, "reward")
    assert (change.low, change.high) == pytest.approx(tuple(np.percentile(paired[1:], [2.5, 97.5])))
    with pytest.raises(ValueError, match=r"n_timesteps=256, and the experiment in .* has 128"):
        transfer_here(config(folder, n_timesteps=256))


def test_a_sequence_goes_on_from_each_result_and_measures_forgetting(tmp_path: Path) -> None:
    found = transfer_here(config(tmp_path / "t", sequence=True, seeds=2))
    assert found.report.rows == ["1-SayA-v0", "2-SayB-v0"]
    second = json.loads((found.folder / "2-SayB-v0" / "seed_01" / "config.json").read_text())
    assert second["model"] == str(found.folder.absolute() / "1-SayA-v0" / "seed_01" / "model")
    ends = [
        [np.mean(evaluation(found, f"{row}/seed_0{seed}", "SayA-v0")["values"]["reward"]) for row in found.report.rows]
        for seed in (0, 1)
    ]
    lost = [best - last for best, last in ends]  # of two steps the best value before the last is the first
    forgotten = found.report.forgetting["SayA-v0"]
    assert found.report.forgetting.keys() == {"SayA-v0"}
    assert forgotten.mean == pytest.approx(np.mean(lost)) and forgotten.mean > 0.2
    assert forgotten.high - forgotten.mean == pytest.approx(12.7062 * abs(lost[0] - lost[1]) / 2, rel=1e-4)
    assert found.report.mean_forgetting == forgotten
    assert "Chaudhry" in (found.folder / "report.md").read_text()
    with pytest.raises(ValueError, match="a sequence has one order"):
        transfer_here(config(found.folder, sequence=True, seeds=2, envs=[B, A, f"{WORDS}:words/SayC-v0"]))


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, folder = config(tmp_path / "t"), tmp_path / "t"
    update, done_at = PPO.train, list[int]()

    def stop(agent: Any) -> None:
        update(agent)
        done_at.append(agent.num_timesteps)
        if agent.num_timesteps == 384:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(PPO, "train", stop)
    with pytest.raises(RunInterrupted):
        transfer_here(chosen)
    assert [*(folder / "SayA-v0" / "seed_00" / "checkpoints").iterdir()]
    monkeypatch.setattr(PPO, "train", lambda agent: (done_at.append(agent.num_timesteps), update(agent))[1])
    found = transfer_here(chosen)
    of_first = done_at[: done_at.index(768) + 1]
    assert of_first == sorted(of_first) and len(of_first) == len({*of_first})  # nothing was learned twice
    whole = transfer_here(config(tmp_path / "whole"))
    assert found.report.cells == whole.report.cells
    assert not (folder / "SayA-v0" / "seed_00" / "checkpoints").exists()


def trained(tmp_path: Path, env: str, name: str, **given: Any) -> str:
    start = tmp_path / "start"
    if not start.is_dir():
        transfer_module.make_start(plan(config(tmp_path, envs=[A, B], n_timesteps=64)))
    own = {**{key: SMALL[key] for key in ("n_envs", "hyperparams", "learning_rate")}, "test_episodes": 4, **given}
    own = {"model": str(start), "env_kwargs": {"model": None}, **own}
    found = train(TrainConfig(env=env, n_timesteps=128, progress=False, log_folder=str(tmp_path), run_name=name, **own))
    return str(found.folder)


def test_finished_runs_are_taken_instead_of_training(tmp_path: Path) -> None:
    runs = [trained(tmp_path, A, "a"), trained(tmp_path, B, "b"), trained(tmp_path, B, "b1", seed=1)]
    given: dict[str, Any] = dict(runs=runs, test_episodes=8, folder=str(tmp_path / "t"))
    found = transfer_here(TransferConfig(**given))
    assert found.report.rows == ["SayA-v0", "SayB-v0"] and not (tmp_path / "t" / "SayA-v0").exists()
    assert found.report.cells["SayB-v0"]["SayA-v0"].per_seed.keys() == {0, 1}
    assert math.isfinite(found.report.cells["SayA-v0"]["SayB-v0"].change.low)
    assert found.report.notes[0].startswith("One seed of SayA-v0:")
    further = transfer_here(TransferConfig(**given, envs=[f"{WORDS}:words/SayC-v0"]))
    assert [column.name for column in further.report.columns] == ["SayA-v0", "SayB-v0", "SayC-v0"]
    assert further.report.rows == ["SayA-v0", "SayB-v0"]
    with pytest.raises(ValueError, match="are both on SayB-v0 with the seed 0: give one"):
        transfer_here(TransferConfig(runs=[*runs, trained(tmp_path, B, "again")], folder=str(tmp_path / "u")))
    with pytest.raises(ValueError, match=r"are all on .*SayB-v0: transfer is between at least two"):
        transfer_here(TransferConfig(runs=runs[1:], folder=str(tmp_path / "u")))
    with pytest.raises(ValueError, match="give runs of one algorithm"):
        transfer_here(TransferConfig(runs=[runs[0], trained(tmp_path, B, "x", algo="a2c", hyperparams={})]))
    own = trained(tmp_path, B, "own", model=None)
    with pytest.raises(ValueError, match="own started from a fresh model of its own: train the runs from one"):
        transfer_here(TransferConfig(runs=[runs[0], own], folder=str(tmp_path / "u")))


def test_a_folder_of_another_kind_is_no_run(done: Transfer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run of rlhf train, but a transfer experiment"):
        agents.transfer(TransferConfig(runs=[str(done.folder)] * 2, folder=str(tmp_path / "t")))
    with pytest.raises(ValueError, match=r"there is no folder .*gone"):
        agents.transfer(TransferConfig(runs=[str(tmp_path / "gone")], folder=str(tmp_path / "t")))
    (tmp_path / "sft.json").write_text("{}")
    with pytest.raises(ValueError, match="is no run of rlhf train: give"):
        agents.transfer(TransferConfig(runs=[str(tmp_path)], folder=str(tmp_path / "t")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"envs": [A]}, "transfer is between at least two"),
        ({"envs": []}, "no environments: transfer is between at least two"),
        (
            {"envs": [A, f"{WORDS}:words/Other-v0"]},
            "SayA-v0 and Other-v0 have different vocabularies, of 6 and 4 tokens",
        ),
        ({"envs": [A, "rlhf/SpamFilter-v0"]}, "SayA-v0 and SpamFilter-v0 have different vocabularies"),
        ({"envs": [A, A]}, "two environments are named 'SayA-v0'"),
        ({"envs": [A, {"id": B, "dat": []}]}, "takes no argument 'dat'"),
        ({"envs": [A, {"id": B, "name": "start"}]}, "'start' is the name of a folder too"),
        ({"envs": [A, {"name": "b"}]}, "has no 'id'"),
        ({"envs": [A, "words/None-v0"]}, "unknown environment 'words/None-v0'"),
        ({"algo": "pppo"}, "did you mean 'ppo'"),
        ({"hyperparams": {"n_epoch": 2}}, "n_epochs"),
        ({"metric": {"SayA-v0": "wrds"}}, "unknown metric 'wrds' for SayA-v0.*'words'"),
        ({"metric": {"SayX-v0": "words"}}, "metric of 'SayX-v0', 'words': no such environment here"),
        ({"algo": "dqn", "sequence": True, "hyperparams": {}}, "is no language model, which the next could train"),
        ({"runs": ["x"], "sequence": True}, "each was trained alone"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        agents.transfer(config(tmp_path / "t", **given), lambda _: None)
    assert not (tmp_path / "t").exists()


def test_few_prompts_of_the_users_own_data_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": f"the film number {i} was", "split": "train" if i else "test"} for i in range(9)]
    own = {"data": rows, "reward": "repetition"}
    log_once.cache_clear()
    plan(config(tmp_path / "t", envs=["rlhf/Sentiment-v0", {"id": "rlhf/Prompts-v0", **own}], learning_rate=None))
    assert "the split 'test' has 1 different prompt, each completed several times" in caplog.text


def test_starts_that_differ_are_named() -> None:
    from agents.experiments.transfer.plan import find_start
    from rlhf_envs.tasks.spam_filter import SpamFilter

    task, other = SpamFilter(), SpamFilter()
    other.default_model = "smollm2"
    with pytest.raises(ValueError, match="no common start: a takes tiny, b takes smollm2; give model="):
        find_start(None, {"a": task, "b": other})


def test_a_file_of_settings_imports_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"envs": ["never_imported:words/X-v0", "rlhf/SpamFilter-v0"]}))
    shown = CliRunner().invoke(app, ["transfer", "--config", str(file), "-f", str(tmp_path / "t")])
    assert shown.exit_code == 2
    assert "'never_imported:words/X-v0' is not imported just because" in shown.output


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is no transfer experiment"):
        agents.transfer(config(tmp_path))


def test_failed_runs_are_reported_and_the_others_shown(tmp_path: Path, jobs_here: Callable[..., list[str]]) -> None:
    """One of them in a process of its own, as users have them all."""
    apart = jobs_here("SayB-v0/seed_00")
    wrong = {"id": B, "reward": f"{WORDS}:broken", "reward_retries": 0}
    flags = ["--envs", json.dumps([A, wrong]), "--seeds", "1", "-n", "128", "--n-envs", "32", "--test-episodes", "4"]
    flags += ["-params", "batch_size:64", "--jobs", "1", "-f", str(tmp_path / "t")]
    shown = CliRunner().invoke(app, ["transfer", *flags], env={"COLUMNS": "300"})
    assert shown.exit_code == 1, shown.output
    report = json.loads((tmp_path / "t" / "report.json").read_text())
    errors = {entry["run"]: entry["error"] for entry in report["failed"]}
    assert errors.keys() == {"start/seed_00", "SayA-v0/seed_00", "SayB-v0/seed_00"}
    assert all("the scorer is <b>out</b>" in error for error in errors.values())
    assert apart == ["SayB-v0/seed_00"]
    (log,) = (tmp_path / "t").rglob("SayB-v0/seed_00.log")
    assert "Traceback" in log.read_text()
    assert report["cells"]["SayA-v0"].keys() == {"SayA-v0"}  # what could be measured is there
    assert report["cells"]["SayB-v0"] == {}
    assert "3 of 3 runs failed" in " ".join(report["notes"])
    assert "the scorer is &lt;b&gt;out" in (tmp_path / "t" / "report.html").read_text()
