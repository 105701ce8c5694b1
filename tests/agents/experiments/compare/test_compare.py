"""Real comparisons on the bandit: what they write, that they learn what `rlhf train` learns, kills and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import agents
from agents import registry
from agents.algorithms.ppo import PPO
from agents.cli import app
from agents.experiments.compare import compare as compare_module
from agents.experiments.compare.compare import Comparison
from agents.experiments.compare.config import CompareConfig
from agents.experiments.compare.plan import Run, plan
from agents.experiments.compare.worker import as_task, execute
from agents.saving.locks import locked
from agents.training.config import TrainConfig
from agents.training.run import RunInterrupted, train

BANDIT = "rlhf/TokenBandit-v0"
STEPS = [0, 192, 384, 576, 768]
RUNS = ["a2c/seed_00", "a2c/seed_01", "ppo/seed_00", "ppo/seed_01"]


def config(folder: Path, **given: Any) -> CompareConfig:
    chosen: dict[str, Any] = dict(env=BANDIT, algos=["ppo", "a2c"], seeds=2, tokens=768, n_envs=32, test_episodes=16)
    chosen |= dict(evaluations=4, folder=str(folder), overrides={"ppo": {"batch_size": 48}})
    return CompareConfig(**{**chosen, **given})


def run_all_here(
    runs: Sequence[Run], config: CompareConfig, ended: Callable[[Run, str], None], look: Callable[[], None]
) -> None:
    """Run what a process per run would, without the seconds in which each starts."""
    for run in runs:
        execute(as_task(run, config))
        look()
        ended(run, "finished")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "run_all", run_all_here)
        comparison = agents.compare(config(tmp_path_factory.mktemp("comparison") / "c"), said.append)
    assert sorted(line.split()[1] for line in said[1:] if "finished" in line) == [f"{name}:" for name in RUNS]
    return comparison


def result(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name / "result.json").read_text())
    return found


@pytest.mark.slow
def test_adapters_are_compared_with_their_base_as_the_start(tmp_path: Path) -> None:
    settings = dict(seeds=1, tokens=192, evaluations=1, overrides={"ppo": {"batch_size": 48, "learning_rate": 0.02}})
    comparison = agents.compare(config(tmp_path / "c", train="lora", **settings))
    for algo in ("ppo", "a2c"):
        start, end = (
            entry["estimates"]["kl"]["mean"] for entry in result(comparison.folder, f"{algo}/seed_00")["evaluations"]
        )
        assert start == pytest.approx(0, abs=1e-6)
        assert abs(end) > 1e-4


def test_it_says_first_which_algorithms_train_for_more_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_module, "run_all", stop)
    said: list[str] = []
    settings = config(tmp_path / "c", tokens=100, algos=["ppo", "dqn"], overrides={"dqn": {"train_freq": 1}})
    with pytest.raises(KeyboardInterrupt):
        agents.compare(settings, said.append)
    assert said[0] == "100 tokens are rounded up to whole rollouts: ppo 192, dqn 128"


def test_every_run_is_evaluated_at_equal_steps_on_equal_prompts(done: Comparison) -> None:
    results = [result(done.folder, name) for name in RUNS]
    for found in results:
        assert [entry["step"] for entry in found["evaluations"]] == STEPS
        assert [entry["tokens"] for entry in found["evaluations"]] == STEPS  # whole rollouts of 96 tokens
        prompts = [[sample["prompt"] for sample in entry["samples"]] for entry in found["evaluations"]]
        assert all(shown == prompts[0] for shown in prompts)
    assert len({found["prompts"] for found in results}) == 1
    for seed in (0, 1):  # the same start, which is the reference
        first = [result(done.folder, f"{algo}/seed_{seed:02d}")["evaluations"][0] for algo in ("ppo", "a2c")]
        assert first[0]["estimates"] == first[1]["estimates"]
        assert first[0]["estimates"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)


def test_a_run_learns_what_rlhf_train_learns_without_evaluations(done: Comparison, tmp_path: Path) -> None:
    """Also next to another run."""
    name = "ppo/seed_01"
    saved = result(done.folder, name)["config"]
    alone = train(TrainConfig(**{**saved, "log_folder": str(tmp_path), "save_freq": 0}))
    for file in ("model/model.safetensors", "start/model.safetensors"):
        ours, theirs = load_file(done.folder / name / file), load_file(alone.folder / file)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    last = result(done.folder, name)["evaluations"][-1]["estimates"]
    assert last["reward"]["mean"] == pytest.approx(alone.after.reward.mean())


def test_the_report_has_the_figures_of_the_runs(done: Comparison) -> None:
    report = json.loads((done.folder / "report.json").read_text())
    assert report == json.loads(json.dumps(done.report.to_json()))
    assert (report["metric"], report["failed"], report["unfinished"]) == ("reward", [], [])
    for row in report["arms"]:
        runs = [result(done.folder, f"{row['name']}/seed_{seed:02d}") for seed in (0, 1)]
        scores = [run["evaluations"][-1]["estimates"]["reward"]["mean"] for run in runs]
        assert row["figures"]["reward"]["value"] == pytest.approx(np.mean(scores))
        assert row["figures"]["reward"]["low"] == pytest.approx(min(scores))
        assert [point["step"] for point in row["curve"]] == STEPS
        assert row["seconds"]["value"] == pytest.approx(np.mean([run["seconds"] for run in runs]))
    (pair,) = report["improvement"]
    scores = {row["name"]: row["figures"]["reward"]["value"] for row in report["arms"]}
    assert scores[pair["better"]] >= scores[pair["than"]]
    assert any("2 seeds" in note for note in report["notes"])
    text = (done.folder / "report.md").read_text()
    for row in report["arms"]:
        assert f"| {row['name']} | 2 of 2 | {row['figures']['reward']['value']:.3f} [" in text
    for plot in ("final", "efficiency", "frontier"):
        assert f"(plots/{plot}.png)" in text
        assert (done.folder / "plots" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_is_one_line_and_a_table_in_notebooks(done: Comparison) -> None:
    best = done.report.arms[0]
    assert repr(done).startswith(f"Comparison({len(done.report.arms)} algorithms, ")
    assert f"{done.report.metric} {best.name} {best.metrics[done.report.metric]}" in repr(done)
    assert f"<td>{best.name}</td>" in done._repr_html_()


def test_the_page_stands_alone(done: Comparison) -> None:
    page = (done.folder / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "<script" not in page and "<img" not in page and 'href="http' not in page and "src=" not in page


def test_tensorboard_has_one_set_of_tags_and_samples_at_equal_steps(done: Comparison) -> None:
    tags = []
    for name in RUNS:
        events = EventAccumulator(str(done.folder / name)).Reload()
        tags.append({tag for tag in events.Tags()["scalars"] if tag.startswith("held_out/")})
        rewards = sorted(events.Scalars("held_out/reward"), key=attrgetter("wall_time"))
        assert [event.step for event in rewards] == STEPS
        samples = sorted(events.Tensors("held_out/samples/text_summary"), key=attrgetter("wall_time"))
        assert [event.step for event in samples] == STEPS
        assert "_hparams_/session_start_info" in events.summary_metadata
    assert all(found == tags[0] for found in tags)
    report = EventAccumulator(str(done.folder / "_report")).Reload()
    layout = report.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"^held_out/reward$" in layout


def test_again_it_has_nothing_to_run(done: Comparison) -> None:
    before = {path: path.stat().st_mtime_ns for name in RUNS for path in (done.folder / name).rglob("*")}
    said: list[str] = []
    again = agents.compare(CompareConfig(folder=str(done.folder)), said.append)
    assert said == [f"4 runs in {done.folder}, 4 of them finished"]
    assert again.report.arms == done.report.arms
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_second_process_is_kept_out(done: Comparison) -> None:
    message = rf"process {os.getpid()} on .* is at work on the comparison"
    with locked(done.folder, "comparison"), pytest.raises(ValueError, match=message):
        agents.compare(CompareConfig(folder=str(done.folder)), lambda _: None)


BROKEN = """
import os, signal
from agents.algorithms.ppo import PPO


class Raises(PPO):
    def train(self):
        raise ValueError("the loss <b>is</b> a | banana")


class Dies(PPO):
    def train(self):
        print("the last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    """Register algorithms of a module that the test may mend."""
    (tmp_path / "broken_algorithms.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    targets = {
        "raises": "broken_algorithms:Raises",
        "dies": "broken_algorithms:Dies",
        "gone": "gone:X",
    }
    for name in names:
        monkeypatch.setitem(registry._ALGORITHMS, name, targets[name])


BROKEN_RUNS = ["--env", BANDIT, "--seeds", "1", "--n-envs", "32", "--test-episodes", "4", "--evaluations", "1"]


def test_failed_runs_are_reported_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs_here: Callable[..., list[str]]
) -> None:
    """One of them in a process of its own, as users have them all. It learns there what this process registered."""
    apart = jobs_here("dies/seed_00")
    broken(tmp_path, monkeypatch, ("raises", "dies", "gone"))
    folder = tmp_path / "c"
    flags = [*BROKEN_RUNS, "--algos", "dies,raises,gone,ppo", "--tokens", "192", "--jobs", "1", "-f", str(folder)]
    shown = CliRunner().invoke(app, ["compare", *flags], env={"COLUMNS": "400"})
    assert shown.exit_code == 1, shown.output
    report = json.loads((folder / "report.json").read_text())
    errors = {entry["run"]: entry["error"] for entry in report["failed"]}
    assert errors.keys() == {"dies/seed_00", "raises/seed_00", "gone/seed_00"}
    assert apart == ["dies/seed_00"]
    assert errors["dies/seed_00"].startswith("its process ended with the signal SIGKILL; it printed last: ")
    assert errors["dies/seed_00"].endswith("the last words")
    assert "ValueError: the run stopped after 96 tokens: the loss <b>is</b> a | banana" in errors["raises/seed_00"]
    assert "No module named 'gone'" in errors["gone/seed_00"]
    assert "raises/seed_00: FAILED, ValueError: the run stopped" in shown.output
    assert result(folder, "ppo/seed_00")["tokens"] == 192
    assert [row["finished"] for row in report["arms"]] == [1, 0, 0, 0]
    notes = " ".join(report["notes"])
    assert "3 of 4 runs failed" in notes
    assert "One seed: no intervals are given" in notes
    assert report["arms"][0]["figures"]["reward"]["low"] is None
    assert "the loss &lt;b&gt;is&lt;/b&gt; a | banana" in (folder / "report.html").read_text()
    assert "the loss &lt;b\\>is&lt;/b\\> a &#124; banana" in (folder / "report.md").read_text()
    assert "Traceback" in (folder / "raises" / "seed_00.log").read_text()


@pytest.mark.slow
def test_failed_runs_run_again_when_they_are_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path, monkeypatch, ("raises", "gone"))
    folder = tmp_path / "c"
    flags = [*BROKEN_RUNS, "--algos", "raises,gone", "--tokens", "192", "--jobs", "1", "-f", str(folder)]
    assert CliRunner().invoke(app, ["compare", *flags]).exit_code == 1
    (tmp_path / "broken_algorithms.py").write_text("from agents.algorithms.ppo import PPO as Raises")
    mended = agents.compare(CompareConfig(folder=str(folder)), lambda _: None)
    assert mended.failed.keys() == {"gone/seed_00"}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_stopped_comparison_goes_on_to_the_same_end(
    how: signal.Signals, done: Comparison, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    overrides = ["--override", "ppo.batch_size:48", "--seeds", "2", "--algos", "ppo,a2c", "--tokens", "768"]
    flags = ["--env", BANDIT, *overrides, "--n-envs", "32", "--test-episodes", "16", "--evaluations", "4"]
    command = [sys.executable, "-m", "agents.cli", "compare", *flags, "--jobs", "1", "-f", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": _path()}) as process:
        half = folder / "a2c" / "seed_00" / "checkpoints" / "384"
        deadline = time.monotonic() + 300
        while not half.is_dir():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        (worker,) = psutil.Process(process.pid).children()
        process.send_signal(how)
    worker.wait(60)  # it ends with its comparison
    assert process.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
    finished, cut = folder / "ppo/seed_00/result.json", folder / "a2c/seed_00"
    stamp = finished.stat().st_mtime_ns
    assert not (cut / "result.json").exists()
    kept = json.loads((cut / "evaluations.json").read_text())[:3]
    agents.compare(config(folder), lambda _: None)
    assert finished.stat().st_mtime_ns == stamp
    assert result(folder, "a2c/seed_00")["evaluations"][:3] == kept  # their seconds too: they were not done again
    for name in RUNS:
        ours, theirs = result(folder, name), result(done.folder, name)
        assert [e["estimates"] for e in ours["evaluations"]] == [e["estimates"] for e in theirs["evaluations"]]
        assert [e["samples"] for e in ours["evaluations"]] == [e["samples"] for e in theirs["evaluations"]]
    events = EventAccumulator(str(cut)).Reload()
    assert [event.step for event in events.Scalars("held_out/reward")] == STEPS


def test_a_stopped_run_keeps_the_seconds_since_its_last_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan(config(tmp_path / "c", evaluations=1))[0]
    task = {"config": run.config.model_dump(), "label": "ppo", "steps": [768], "keep_agents": True, "registered": {}}
    update = PPO.train

    def slow(agent: Any) -> None:
        update(agent)
        time.sleep(0.2)
        if agent.num_timesteps == 480:  # of 768
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(PPO, "train", slow)
    with pytest.raises(RunInterrupted):
        execute(task)
    monkeypatch.setattr(PPO, "train", update)
    execute(task)
    found = result(tmp_path / "c", run.name)
    assert [entry["tokens"] for entry in found["evaluations"]] == [0, 768]
    assert found["seconds"] == found["evaluations"][-1]["seconds"] >= 5 * 0.2


def test_a_stopped_run_goes_on_with_the_users_own_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's file may not import it; the comparison, which the user has typed, names it."""
    (tmp_path / "own_reward.py").write_text("def score(prompts, completions, **_):\n    return [1.0] * len(prompts)\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = plan(config(tmp_path / "c", evaluations=1, env_kwargs={"reward": "own_reward:score"}))[0]
    task = {"config": run.config.model_dump(), "label": "ppo", "steps": [768], "keep_agents": True, "registered": {}}
    update = PPO.train

    def stop(agent: Any) -> None:
        update(agent)
        if agent.num_timesteps == 480:  # of 768
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(PPO, "train", stop)
    with pytest.raises(RunInterrupted):
        execute(task)
    monkeypatch.setattr(PPO, "train", update)
    execute(task)
    assert result(tmp_path / "c", run.name)["evaluations"][-1]["estimates"]["reward"]["mean"] == 1.0


def _path() -> str:
    return os.pathsep.join(path or os.getcwd() for path in sys.path)
