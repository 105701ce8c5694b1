"""Trackers get the scalars that TensorBoard gets; the real packages where they are installed."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from agents import TrainConfig
from agents.algorithms.ppo import PPO
from agents.cli import app
from agents.experiments.compare.config import CompareConfig
from agents.experiments.compare.plan import plan
from agents.training import run as running
from agents.training import trackers
from agents.training.run import RunInterrupted, RunStopped
from agents.training.trackers import RunTracker, start_trackers

BANDIT = "rlhf/TokenBandit-v0"
SMALL: dict[str, Any] = {"n_envs": 16, "test_episodes": 4, "eval_freq": 0, "threads": 1, "progress": False}
Points = dict[str, list[tuple[int, float]]]


class Recorder(RunTracker):
    """Keep what a run logs."""

    def __init__(self) -> None:
        self.points: Points = defaultdict(list)
        self.is_finished = False
        self.error: BaseException | None = None

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        assert not self.is_finished
        for tag, value in scalars.items():
            self.points[tag].append((step, value))

    def finish(self, error: BaseException | None = None) -> None:
        self.is_finished, self.error = True, error


def in_tensorboard(folder: Path) -> Points:
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: [(one.step, one.value) for one in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def assert_equal_points(found: Points, board: Points) -> None:
    assert {"rlhf/reward", "rlhf/kl", "held_out/reward"} <= found.keys()
    for tag, points in found.items():
        theirs = board[tag]
        assert len(points) == len({step for step, _ in points}), tag
        for step, value in points:
            assert any(step == at and math.isclose(value, other, rel_tol=1e-5, abs_tol=1e-6) for at, other in theirs), (
                tag
            )
    assert found.keys() == board.keys()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Points]:
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "start_trackers", lambda config, folder: [recorder])
        config = TrainConfig(env=BANDIT, n_timesteps=96, log_folder=str(tmp_path_factory.mktemp("logs")), **SMALL)
        result = running.train(config)
    return recorder, in_tensorboard(result.folder)


def test_a_tracker_gets_each_scalar_of_tensorboard_once(logged: tuple[Recorder, Points]) -> None:
    assert_equal_points(dict(logged[0].points), logged[1])
    assert "train/loss" in logged[0].points
    assert [step for step, _ in logged[0].points["held_out/reward"]] == [0, 96]


def test_a_tracker_is_finished_after_the_last_evaluation(logged: tuple[Recorder, Points]) -> None:
    assert logged[0].is_finished


def test_trackers_are_read_from_texts_and_lists_and_unknown_ones_are_named() -> None:
    assert TrainConfig(tracker="tensorboard, MLflow,mlflow").trackers == ["mlflow"]  # type: ignore[arg-type]
    assert TrainConfig(tracker=["trackio"], wandb="mine").trackers == ["wandb", "trackio"]
    result = CliRunner().invoke(app, ["train", "--tracker", "mlfow"])
    assert result.exit_code == 2 and "did you mean 'mlflow'" in result.stderr


@pytest.mark.parametrize("name", ["trackio", "mlflow"])
def test_without_the_package_the_message_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    flags = ["train", "--env", BANDIT, "--tracker", name, "-f", str(tmp_path / "logs")]
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 2
    assert f"--tracker {name} needs" in result.stderr and f"pip install 'rlhf-envs[{name}]'" in result.stderr
    assert not (tmp_path / "logs").exists()


def test_a_comparison_hands_its_trackers_to_its_runs_and_they_share_files(tmp_path: Path) -> None:
    config = CompareConfig(env=BANDIT, algos=["ppo", "a2c"], seeds=1, tracker=["mlflow"], project="mine")
    runs = plan(config.model_copy(update={"folder": str(tmp_path / "c")}))
    assert {(*run.config.trackers, run.config.project) for run in runs} == {("mlflow", "mine")}
    assert {run.config.tracker_folder for run in runs} == {tmp_path / "c"}


def in_mlflow(logs: Path, run_id: str) -> Points:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{logs / 'mlflow.db'}")
    run = client.get_run(run_id)
    assert run.data.params["algo"] == "ppo" and run.info.status == "FINISHED"
    found = {tag: client.get_metric_history(run_id, tag) for tag in run.data.metrics}
    return {tag: [(point.step, point.value) for point in points] for tag, points in found.items()}


def in_trackio(logs: Path, project: str) -> Points:
    with sqlite3.connect(logs / "trackio" / f"{project}.db") as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
    found: Points = defaultdict(list)
    for step, metrics in rows:
        for tag, value in json.loads(metrics).items():
            found[tag].append((step, value))
    return found


@pytest.mark.filterwarnings("ignore")  # of theirs
@pytest.mark.parametrize("name", ["trackio", "mlflow"])
def test_a_run_goes_on_in_the_real_package_and_no_password_is_in_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # trackio reads it when it is imported
    package = pytest.importorskip(name)
    if getattr(package, "TRACKIO_DIR", tmp_path / "trackio") != tmp_path / "trackio":
        pytest.skip("something has imported trackio before, so it writes elsewhere: run this file alone")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "ppo" / "run_1"
    folder.mkdir(parents=True)
    secret = {"reward_kwargs": {"store": "postgresql://me:pass-4711@db/x"}}
    config = TrainConfig(env=BANDIT, tracker=[name], project="mine", log_folder=str(tmp_path), env_kwargs=secret)
    for step in (5, 15):
        (tracker,) = start_trackers(config, folder)
        tracker.log({"rlhf/reward": step / 2, "rlhf/my judge": math.nan}, step)
        tracker.finish()
    found = (
        in_mlflow(tmp_path, (folder / "mlflow_id").read_text()) if name == "mlflow" else in_trackio(tmp_path, "mine")
    )
    assert found["rlhf/reward"] == [(5, 2.5), (15, 7.5)] and "rlhf/my judge" in found
    (database,) = [path for path in tmp_path.rglob("m*.db")]
    assert b"pass-4711" not in database.read_bytes() and b"postgresql://***@db/x" in database.read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of theirs
@pytest.mark.parametrize("verb", ["train", "compare"])
def test_the_real_packages_keep_the_same_scalars(tmp_path: Path, verb: str) -> None:
    there = [name for name in ("trackio", "mlflow") if find_spec(name) is not None]
    if not there:
        pytest.skip("needs trackio or MLflow: pip install 'rlhf-envs[trackio,mlflow]'")
    flags = ["--env", BANDIT, "-n", "96", "--test-episodes", "4", "--tracker", ",".join(there), "--project", "mine"]
    if verb == "train":
        flags += ["--n-envs", "16", "--eval-freq", "0", "--threads", "1", "--no-progress", "-f", str(tmp_path)]
        folder = tmp_path / "ppo" / "TokenBandit-v0_1"
    else:
        flags += ["--algos", "ppo", "--seeds", "1", "--evaluations", "2", "--jobs", "1", "-f", str(tmp_path)]
        folder = tmp_path / "ppo" / "seed_00"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TRACKIO_DIR", "MLFLOW_TRACKING_URI")
    }
    done = subprocess.run(
        [sys.executable, "-m", "agents.cli", verb, *flags],
        env=environment, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    board = in_tensorboard(folder)
    board = {tag: points for tag, points in board.items() if not tag.startswith("_")}
    if "mlflow" in there:
        assert_equal_points(in_mlflow(tmp_path, (folder / "mlflow_id").read_text()), board)
    if "trackio" in there:
        assert_equal_points(in_trackio(tmp_path, "mine"), board)


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The trackers of the runs that a test starts, in order."""
    started: list[Recorder] = []

    def start(config: TrainConfig, folder: Path) -> list[RunTracker]:
        started.append(Recorder())
        return [started[-1]]

    monkeypatch.setattr(trackers, "check_trackers", lambda config: None)
    monkeypatch.setattr(trackers, "start_trackers", start)
    monkeypatch.setattr(running, "start_trackers", start)
    monkeypatch.setattr(running, "check_trackers", lambda config: None)
    return started


def test_a_tracker_hears_that_a_run_failed(
    recorders: list[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: PPO) -> None:
        raise ValueError("no loss")

    monkeypatch.setattr(PPO, "train", broken)
    with pytest.raises(RunStopped) as stopped:
        running.train(TrainConfig(env=BANDIT, n_timesteps=96, log_folder=str(tmp_path), **SMALL))
    assert [recorder.error for recorder in recorders] == [stopped.value]


def test_a_tracker_that_cannot_end_a_run_hides_neither_its_error_nor_other_trackers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Gone(Recorder):
        def finish(self, error: BaseException | None = None) -> None:
            raise ConnectionError("the server has gone")

    other = Recorder()
    monkeypatch.setattr(trackers, "start_trackers", lambda config, folder: [other, Gone()])
    with pytest.raises(ValueError, match="no loss"), trackers.tracking(TrainConfig(env=BANDIT), tmp_path):
        raise ValueError("no loss")
    assert str(other.error) == "no loss"
    assert "Gone could not end the run: the server has gone" in caplog.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("no loss"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (RunInterrupted("SIGTERM", signal.SIGTERM), "KILLED"),
    ],
)
def test_mlflow_shows_how_a_run_ended(
    error: BaseException | None, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MLflow's client where it is installed; else with one that keeps what it is told."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client: Any = None
    if find_spec("mlflow") is None:
        client = fake_mlflow(monkeypatch)
    folder = tmp_path / "ppo" / "run_1"
    folder.mkdir(parents=True)
    config = TrainConfig(env=BANDIT, tracker=["mlflow"], log_folder=str(tmp_path))
    with nullcontext() if error is None else pytest.raises(type(error)), trackers.tracking(config, folder):
        if error is not None:
            raise error
    run_id = (folder / "mlflow_id").read_text()
    if client is None:
        from mlflow import MlflowClient

        assert MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(run_id).info.status == status
    else:
        assert client.statuses[run_id] == ["RUNNING", status]


def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a module in MLflow's place, and return its client, which keeps the statuses of runs."""

    class Client:
        statuses: ClassVar[dict[str, list[str]]] = {}

        def __init__(self, address: str) -> None: ...

        def get_experiment_by_name(self, name: str) -> None: ...

        def create_experiment(self, name: str) -> str:
            return "1"

        def create_run(self, where: str, run_name: str, tags: dict[str, str]) -> Any:
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def update_run(self, run_id: str, status: str) -> None:
            self.statuses[run_id] = [status]

        def get_run(self, run_id: str) -> Any:
            return SimpleNamespace(data=SimpleNamespace(params={}))

        def log_batch(self, run_id: str, **values: Any) -> None: ...

        def set_terminated(self, run_id: str, status: str | None = None) -> None:
            self.statuses[run_id].append(status or "FINISHED")

    for name in ("mlflow", "mlflow.entities", "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mlflow"].MlflowClient = Client  # type: ignore[attr-defined]
    for name in ("Metric", "Param"):
        setattr(sys.modules["mlflow.entities"], name, lambda *values: values)
    sys.modules["mlflow.exceptions"].MlflowException = OSError  # type: ignore[attr-defined]
    return Client


def test_trials_of_a_search_are_runs_of_their_own(
    recorders: list[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="needs the extra tune")
    from agents.experiments.tune import search
    from agents.experiments.tune.config import TuneConfig

    for name in ("check_trackers", "tracking"):
        monkeypatch.setattr(search, name, getattr(trackers, name))
    settings: dict[str, Any] = dict(env=BANDIT, tokens=192, n_envs=16, episodes=8, confirm_seeds=0, threads=1, trials=3)
    settings |= dict(only=["learning_rate"], hyperparams={"batch_size": 24, "n_epochs": 1}, tracker=["mlflow"])
    is_pruned = search._is_pruned
    monkeypatch.setattr(search, "_is_pruned", lambda trial, *found: is_pruned(trial, *found) or trial.number == 1)
    measure = search.measure

    def broken(*arguments: Any) -> Any:
        if len(recorders) == 3:
            raise FloatingPointError("nan")
        return measure(*arguments)

    monkeypatch.setattr(search, "measure", broken)
    study = search.tune(TuneConfig(**settings, log_folder=str(tmp_path))).study
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert [recorder.error if recorder.error is None else str(recorder.error) for recorder in recorders] == [
        None,
        None,
        "nan",
    ]
    assert recorders[0].points["validation/reward"] == [(192, study.trials[0].value)]
    assert "train/loss" in recorders[0].points and "validation/reward" not in recorders[1].points


def test_a_loop_logs_its_rounds_and_its_training(
    recorders: list[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("sqlalchemy", "crowdkit"):
        pytest.importorskip(package, reason="needs the extras web and agreement")
    from agents.experiments.loop import loop
    from tests.agents.experiments.loop.runs import config as loop_config

    for name in ("check_trackers", "tracking"):
        monkeypatch.setattr(loop, name, getattr(trackers, name))
    result = loop.run_loop(loop_config(tmp_path, rounds=1, tracker=["mlflow"]), say=lambda line: None)
    (recorder,) = recorders
    assert recorder.is_finished and recorder.error is None
    board = in_tensorboard(result.folder)
    assert {"loop/reward", "loop/kl", "train/loss", "rlhf/reward"} <= recorder.points.keys()
    for tag in ("loop/kl", "rlhf/reward"):
        assert [step for step, _ in recorder.points[tag]] == [step for step, _ in board[tag]]
    loop.run_loop(loop.LoopConfig.of_folder(result.folder), result.folder, say=lambda line: None)
    assert not recorders[1].points, "rounds that are done are not logged again"
