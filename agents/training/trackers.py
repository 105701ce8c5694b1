"""Log a run to experiment trackers beside TensorBoard: Weights & Biases, trackio and MLflow, under the same tags.

All of them write local files. W&B's go where it puts them, `./wandb` or WANDB_DIR: in a run's folder TensorBoard would
find the run twice. Without a network, set WANDB_MODE=offline, and `wandb sync` sends them later. trackio's are in
`<log folder>/trackio` (or TRACKIO_DIR), MLflow's in `<log folder>/mlflow.db` (or where MLFLOW_TRACKING_URI says).

A run that goes on after a crash goes on in its trackers too. Steps that it takes again stand there twice; TensorBoard
alone forgets the first ones.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from ..saving.folders import read_config
from ..saving.provenance import without_passwords
from ..saving.run_paths import as_typed
from .config import TrainConfig
from .errors import RunInterrupted

__all__ = ["RunTracker", "TrackerOutput", "check_trackers", "finish_trackers", "start_trackers", "tracking"]

logger = logging.getLogger(__name__)

PACKAGES = {"wandb": "W&B", "trackio": "trackio", "mlflow": "MLflow"}  # modules, extras and flags have these names
NOT_IN_MLFLOW = re.compile(r"[^\w\-. :/]")
PARAM_LENGTH = 6000  # of a value in MLflow


class RunTracker(ABC):
    """Take the scalars of a run.

    Attributes:
        follows_tensorboard: whether it reads by itself what TensorBoard's writers get.
        callback: a callback of the training that it needs; None for none.
    """

    follows_tensorboard = False
    callback: Any = None

    @abstractmethod
    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers by tag at a step, which counts tokens."""

    @abstractmethod
    def finish(self, error: BaseException | None = None) -> None:
        """End the run, once everything is logged; as failed or stopped, if an error ended it."""


class TrackerOutput(KVWriter):
    """Hand SB3's logger's scalars to a tracker: those that TensorBoard gets, no texts and no pictures."""

    def __init__(self, tracker: RunTracker) -> None:
        self.tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Log the scalars of a step."""
        values = filter_excluded_keys(key_values, key_excluded, "tensorboard")
        texts = str | bytes
        plain = {t: v for t, v in values.items() if isinstance(v, np.ScalarType) and not isinstance(v, texts)}
        self.tracker.log({tag: float(value) for tag, value in plain.items()}, step)  # type: ignore[arg-type]

    def close(self) -> None:
        """Do nothing: the tracker gets the last evaluation after the logger is closed."""


def check_trackers(config: TrainConfig) -> None:
    """Check that the trackers that a run logs to are installed.

    Raises:
        ImportError: one is not; the message has the command that installs it.
    """
    for name in config.trackers:
        flag = "--wandb" if name == "wandb" and config.wandb is not None else f"--tracker {name}"
        try:
            if name == "mlflow":
                _keep_mlflow_quiet()
            with _trackio_folder(config) if name == "trackio" else contextlib.nullcontext():
                importlib.import_module(name)
            if name == "mlflow":
                importlib.import_module("sqlalchemy")
        except ImportError as error:
            raise ImportError(f"{flag} needs {PACKAGES[name]} ({error}): pip install 'rlhf-envs[{name}]'") from error


def start_trackers(config: TrainConfig, folder: Path) -> list[RunTracker]:
    """Start the trackers of a run for its folder.

    Raises:
        OSError: one cannot start, for example without a key or a network.
    """
    kinds: dict[str, Any] = {"wandb": WandbTracker, "trackio": TrackioTracker, "mlflow": MlflowTracker}
    started: list[RunTracker] = []
    try:
        for name in config.trackers:
            started.append(kinds[name](config, folder))
    except BaseException as error:
        finish_trackers(started, error)
        raise
    return started


def finish_trackers(trackers: list[RunTracker], error: BaseException | None = None) -> None:
    """End a run in all its trackers, and empty the list; as failed or stopped, if an error ended it.

    One that cannot end, such as one whose server has gone, is logged: the run's folder has all that it was given.
    """
    while trackers:
        tracker = trackers.pop()
        try:
            tracker.finish(error)
        except Exception as problem:
            logger.warning("%s could not end the run: %s", type(tracker).__name__, problem)


@contextlib.contextmanager
def tracking(
    config: TrainConfig, folder: Path, good: type[BaseException] | tuple[type[BaseException], ...] = ()
) -> Iterator[list[RunTracker]]:
    """Yield the trackers of a run for as long as a `with` lasts, and end them: as failed, if an error ends it.

    Args:
        config: of the run.
        folder: the run's, which keeps the ids under which it is logged.
        good: errors that are no failure.
    """
    trackers, failure = start_trackers(config, folder), None
    try:
        yield trackers
    except BaseException as error:
        failure = None if isinstance(error, good) else error
        raise
    finally:
        finish_trackers(trackers, failure)


def _settings(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Return the configuration as plain values, with paths as the run's folder has them, and without passwords."""
    typed = as_typed(config.model_dump(mode="json"), read_config(folder), folder)
    settings: dict[str, Any] = json.loads(without_passwords(json.dumps(typed)))
    return settings


def _name(config: TrainConfig, folder: Path) -> str:
    kind = config.kind[0]
    return f"{config.algo if kind == 'run' else kind}/{folder.name}"


def _kept_id(folder: Path, tracker: str) -> str | None:
    """Return under which id a run that goes on was logged; None for a new run."""
    path = folder / f"{tracker}_id"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _keep_id(folder: Path, tracker: str, run_id: str) -> None:
    (folder / f"{tracker}_id").write_text(run_id, encoding="utf-8")


class WandbTracker(RunTracker):
    """Log to Weights & Biases: all that TensorBoard gets, texts and hyperparameters too, and the configuration.

    The W&B run has the folder's name. A resumed run goes on under the same id.

    Raises:
        OSError: W&B cannot start.
    """

    follows_tensorboard = True

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        import wandb
        from wandb.integration.sb3 import WandbCallback

        project = config.project if config.wandb is None else config.wandb
        try:
            run = wandb.init(
                project=project,
                name=_name(config, folder),
                group=config.env_id,
                job_type="train",
                tags=[config.algo, config.env_id],
                config=_settings(config, folder),
                id=_kept_id(folder, "wandb"),
                resume="allow",
                sync_tensorboard=True,
            )
        except (wandb.Error, ValueError) as error:
            raise OSError(f"W&B, project {project}: {error}; without a network set WANDB_MODE=offline") from error
        _keep_id(folder, "wandb", run.id)
        self._wandb, self.callback = wandb, WandbCallback()

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._wandb.log({**scalars, "global_step": step})

    def finish(self, error: BaseException | None = None) -> None:
        from wandb.integration.tensorboard import unpatch

        self._wandb.finish(exit_code=0 if error is None else 1, quiet=True)
        unpatch()


@contextlib.contextmanager
def _trackio_folder(config: TrainConfig) -> Any:
    """Let trackio, which reads it when it is imported, write below the log folder, unless TRACKIO_DIR is set."""
    given = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = given or str(config.tracker_folder.absolute() / "trackio")
    try:
        yield
    finally:
        if given is None:
            del os.environ["TRACKIO_DIR"]


class TrackioTracker(RunTracker):
    """Log to trackio's local database, which `trackio show` opens. What it prints goes to standard error."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        kept = _kept_id(folder, "trackio")
        with _trackio_folder(config), contextlib.redirect_stdout(sys.stderr):
            import trackio

            wanted = Path(os.environ["TRACKIO_DIR"])
            if Path(trackio.TRACKIO_DIR) != wanted:
                logger.warning(
                    "trackio was imported before this run, so it writes to %s and not to %s: set TRACKIO_DIR first",
                    *(trackio.TRACKIO_DIR, wanted),
                )
            self._run = trackio.init(
                project=config.project,
                name=kept or _name(config, folder),
                group=config.env_id,
                config=_settings(config, folder),
                resume="never" if kept is None else "allow",
                auto_log_gpu=False,
                auto_log_cpu=False,
                embed=False,
            )
        _keep_id(folder, "trackio", self._run.name)
        self._trackio = trackio

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._run.log(dict(scalars), step=step)

    def finish(self, error: BaseException | None = None) -> None:  # it knows no other end than a good one
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()


def _keep_mlflow_quiet() -> None:
    """Switch off what MLflow tells its authors about its use, before it is imported; what is set already stays."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


class MlflowTracker(RunTracker):
    """Log to MLflow: a run of the experiment that is named like the project, with the settings as parameters."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        _keep_mlflow_quiet()
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # else they tell about their database's tables
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        own = config.tracker_folder.absolute()
        own.mkdir(parents=True, exist_ok=True)
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{own / 'mlflow.db'}"
        self._metric = Metric
        try:
            with FileLock(own / "mlflow.db.lock"):  # of several processes one makes the tables
                self._client = MlflowClient(address)
                found = self._client.get_experiment_by_name(config.project)
                where = self._client.create_experiment(config.project) if found is None else found.experiment_id
            self._id = _kept_id(folder, "mlflow")
            if self._id is None:
                tags = {"algo": config.algo, "env": config.env_id}
                self._id = self._client.create_run(where, run_name=_name(config, folder), tags=tags).info.run_id
            self._client.update_run(self._id, status="RUNNING")
            given = {name: value for name, value in _settings(config, folder).items() if value is not None}
            params = {name: str(value)[:PARAM_LENGTH] for name, value in given.items()}
            there = self._client.get_run(self._id).data.params
            self._client.log_batch(self._id, params=[Param(*one) for one in params.items() if one[0] not in there])
        except MlflowException as error:
            raise OSError(f"MLflow, {address}: {error}") from error
        _keep_id(folder, "mlflow", self._id)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        names = {NOT_IN_MLFLOW.sub("_", tag): value for tag, value in scalars.items()}
        self._client.log_batch(self._id, metrics=[self._metric(tag, v, now, step) for tag, v in names.items()])

    def finish(self, error: BaseException | None = None) -> None:
        stopped = isinstance(error, RunInterrupted | KeyboardInterrupt)
        self._client.set_terminated(self._id, "FINISHED" if error is None else "KILLED" if stopped else "FAILED")
