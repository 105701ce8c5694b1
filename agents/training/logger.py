"""Log a run: SB3's logger, with files that a resumed run continues, and trackers beside them."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
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
from .trackers import RunTracker, TrackerOutput

__all__ = ["HELD_OUT", "log_held_out", "open_logger"]

STEP = "time/total_timesteps"
HELD_OUT = "held_out"  # the metrics of evaluations on the prompts that a run is judged by


def open_logger(
    folder: Path, stdout: bool = False, resumed_at: int | None = None, trackers: Sequence[RunTracker] = ()
) -> Logger:
    """Return a logger that writes `progress.csv` and TensorBoard events into a run's folder.

    Args:
        stdout: print SB3's table too.
        resumed_at: tokens at which a run goes on. Rows of later tokens are deleted.
        trackers: trackers that get the same scalars.

    Raises:
        OSError: the files cannot be written; the message names them.
    """
    formats: list[KVWriter] = [ProgressFile(folder / "progress.csv", resumed_at), Board(folder, resumed_at)]
    formats += [TrackerOutput(tracker) for tracker in trackers if not tracker.follows_tensorboard]
    return Logger(str(folder), formats + ([HumanOutputFormat(sys.stdout)] if stdout else []))


def log_held_out(folder: Path, evaluation: Evaluation, tokens: int, trackers: Sequence[RunTracker] = ()) -> None:
    """Write the metrics of an evaluation after so many tokens as `held_out/<metric>`, for TensorBoard and trackers."""
    found = {f"{HELD_OUT}/{name}": float(estimate.mean) for name, estimate in evaluation.estimates().items()}
    with SummaryWriter(str(folder)) as writer:
        for tag, value in found.items():
            writer.add_scalar(tag, value, tokens)
    for tracker in trackers:
        tracker.log(found, tokens)


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
