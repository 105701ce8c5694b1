"""The logger of a run, SB3's, writing files that a resumed run goes on with."""

from __future__ import annotations

import csv
import io
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

from rlhf_envs.files import replace_file

__all__ = ["open_logger"]

STEP = "time/total_timesteps"


def open_logger(folder: Path, stdout: bool = False, resumed_at: int | None = None) -> Logger:
    """A logger that writes `progress.csv` and TensorBoard events into `folder`.

    Args:
        folder: the run's.
        stdout: print SB3's table too.
        resumed_at: tokens at which a run goes on: what the files say of later ones is taken back.

    Raises:
        OSError: the files cannot be written; the message names them.
    """
    import sys

    formats: list[KVWriter] = [ProgressFile(folder / "progress.csv", resumed_at), Board(folder, resumed_at)]
    return Logger(str(folder), formats + ([HumanOutputFormat(sys.stdout)] if stdout else []))


class ProgressFile(KVWriter):
    """SB3's `progress.csv`, of which no crash leaves a part: rows are appended, and a new column replaces the file."""

    def __init__(self, path: Path, resumed_at: int | None = None) -> None:
        self.path = path
        self.columns: list[str] = []
        rows = self._rows() if resumed_at is not None else []
        rows = [row for row in rows if (row[STEP] or "").isdecimal() and int(row[STEP]) <= (resumed_at or 0)]
        self._replace(rows)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {name: value for name, value in values.items() if isinstance(value, str | int | float | np.generic)}
        if new := sorted(row.keys() - set(self.columns)):
            rows = self._rows()
            self.columns += new
            self._replace([*rows, row])
            return
        try:
            with self.path.open("r+", newline="", encoding="utf-8") as file:
                file.seek(0, io.SEEK_END)
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)
        except OSError as error:
            raise _explained(error, self.path) from error

    def _rows(self) -> list[dict[str, str]]:
        """The whole rows of the file; its columns become this one's."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="")
            self.columns = list(reader.fieldnames or [])
            rows = [row for row in reader if "" not in row and None not in row.values()]  # the last may be a part
        return rows if STEP in self.columns else []

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        if self.columns:
            writer.writeheader()
        writer.writerows(rows)
        replace_file(self.path, text.getvalue().encode("utf-8"))

    def close(self) -> None:
        """Nothing: the file is open only while a row is written."""


class Board(TensorBoardOutputFormat):
    """SB3's TensorBoard writer; resumed, it tells TensorBoard to forget the steps after the one it goes on from."""

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        purge = None if resumed_at is None else resumed_at + 1
        try:
            self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge)
        except OSError as error:
            raise _explained(error, folder) from error
        self._is_closed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write all figures of a step."""
        try:
            super().write(key_values, key_excluded, step)
        except OSError as error:
            raise _explained(error, self.folder) from error

    def close(self) -> None:
        """Close the file, if it can be: what the run has to say of a full disk it has said."""
        try:
            super().close()
        except OSError:
            self._is_closed = True


def _explained(error: OSError, path: Path) -> OSError:
    reason = error.strerror or str(error)
    message = f"cannot log to {path}: {reason}. Free space there or make it writable, or take another --log-folder"
    return type(error)(error.errno, message) if error.errno else OSError(message)
