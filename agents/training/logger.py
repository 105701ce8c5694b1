"""Log a run: SB3's logger, with files that a resumed run continues, and Weights & Biases.

W&B's files go where it puts them, `./wandb` or WANDB_DIR: in a run's folder TensorBoard would find the run twice.
Without a network, set WANDB_MODE=offline: it only writes the files, and `wandb sync` sends them later.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import (
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)
from torch.utils.tensorboard import SummaryWriter

from rlhf_envs.files import replace_file

from ..evaluation.evaluate import Evaluation
from .config import TrainConfig

__all__ = ["HELD_OUT", "check_wandb", "finish_wandb", "log_held_out", "open_logger", "start_wandb"]

STEP = "time/total_timesteps"
HELD_OUT = "held_out"  # the metrics of evaluations on the prompts that a run is judged by


def open_logger(folder: Path, stdout: bool = False, resumed_at: int | None = None) -> Logger:
    """Return a logger that writes `progress.csv` and TensorBoard events into a run's folder.

    Args:
        stdout: print SB3's table too.
        resumed_at: tokens at which a run goes on. Rows of later tokens are deleted.

    Raises:
        OSError: the files cannot be written; the message names them.
    """
    formats: list[KVWriter] = [ProgressFile(folder / "progress.csv", resumed_at), Board(folder, resumed_at)]
    return Logger(str(folder), formats + ([HumanOutputFormat(sys.stdout)] if stdout else []))


def log_held_out(folder: Path, evaluation: Evaluation, tokens: int) -> None:
    """Write the metrics of an evaluation after so many tokens for TensorBoard, as `held_out/<metric>`."""
    with SummaryWriter(str(folder)) as writer:
        for name, estimate in evaluation.estimates().items():
            writer.add_scalar(f"{HELD_OUT}/{name}", estimate.mean, tokens)


class ProgressFile(KVWriter):
    """Write SB3's `progress.csv` so that a crash never damages it: append rows, and replace the file for a new column.

    Args:
        resumed_at: keep the rows up to this number of tokens; None starts an empty file.
    """

    def __init__(self, path: Path, resumed_at: int | None = None) -> None:
        self.path = path
        self.columns: list[str] = []
        rows = self._read_rows() if resumed_at is not None else []
        self._replace([row for row in rows if row[STEP].isdecimal() and int(row[STEP]) <= (resumed_at or 0)])

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {name: value for name, value in values.items() if isinstance(value, str | int | float | np.generic)}
        if new := sorted(row.keys() - set(self.columns)):
            rows = self._read_rows()
            self.columns += new
            self._replace([*rows, row])
            return
        try:
            with self.path.open("r+", newline="", encoding="utf-8") as file:  # r+: a deleted file is an error
                file.seek(0, io.SEEK_END)
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)
        except OSError as error:
            raise _explained(error, self.path) from error

    def _read_rows(self) -> list[dict[str, str]]:
        """Return the complete rows of the file, and take over its columns."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="")
            self.columns = list(reader.fieldnames or [])
            rows = [row for row in reader if "" not in row and None not in row.values()]  # a crash cuts the last one
        return rows if STEP in self.columns else []

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        if self.columns:
            writer.writeheader()
        writer.writerows(rows)
        replace_file(self.path, text.getvalue().encode("utf-8"))

    def close(self) -> None:
        """Do nothing: the file is open only while a row is written."""


class Board(TensorBoardOutputFormat):
    """Write TensorBoard events as SB3 does; when a run goes on, make TensorBoard forget the steps after that point."""

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        self.folder = folder
        purge = None if resumed_at is None else resumed_at + 1
        try:
            self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge)
        except OSError as error:
            raise _explained(error, folder) from error
        self._is_closed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write all metrics of a step."""
        try:
            super().write(key_values, key_excluded, step)
        except OSError as error:
            raise _explained(error, self.folder) from error

    def close(self) -> None:
        """Close the file. A full disk is no error here: `write` has reported it already."""
        try:
            super().close()
        except OSError:
            self._is_closed = True


def _explained(error: OSError, path: Path) -> OSError:
    reason = error.strerror or str(error)
    message = f"cannot log to {path}: {reason}. Free space there or make it writable, or take another --log-folder"
    return type(error)(error.errno, message) if error.errno else OSError(message)


def check_wandb(config: TrainConfig) -> None:
    """Check that W&B is installed if the run logs to it.

    Raises:
        ImportError: it is not installed.
    """
    if config.wandb is None:
        return
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--wandb needs W&B ({error}): pip install 'rlhf-envs[wandb]'") from error


def start_wandb(config: TrainConfig, folder: Path) -> Any:
    """Start W&B's run for a run's folder, and return the callback that adds the agent's arguments to it.

    The W&B run has the folder's name, the whole configuration, and all that TensorBoard gets, under the same tags. A
    resumed run goes on under the same id.

    Raises:
        OSError: W&B cannot start, for example without a key or a network.
    """
    import wandb
    from wandb.integration.sb3 import WandbCallback

    id_file = folder / "wandb_id"
    try:
        run = wandb.init(
            project=config.wandb,
            name=f"{config.algo}/{folder.name}",
            group=config.env_id,
            job_type="train",
            tags=[config.algo, config.env_id],
            config=config.model_dump(mode="json"),
            id=id_file.read_text(encoding="utf-8") if id_file.is_file() else None,
            resume="allow",
            sync_tensorboard=True,
        )
    except (wandb.Error, ValueError) as error:
        raise OSError(f"--wandb {config.wandb}: {error}; without a network set WANDB_MODE=offline") from error
    id_file.write_text(run.id, encoding="utf-8")
    return WandbCallback()


def finish_wandb() -> None:
    """End W&B's run, once everything that TensorBoard got is written."""
    import wandb
    from wandb.integration.tensorboard import unpatch

    wandb.finish(quiet=True)
    unpatch()
