"""Fit a reward model to people's ratings beside the training, in a process: `python -m agents.training.refit`.

A thread would draw from the training's random generators, which are global, and share Python's lock with it; a process
of `multiprocessing` would run a script of the user's again. The process here has one CPU thread, so with a core to
spare the training goes on at full pace.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_envs.files import MANIFEST, replace_json
from rlhf_envs.preferences.fitting import fit_reward
from rlhf_envs.preferences.training import NothingToFit
from rlhf_envs.rewards.base import Reward
from rlhf_envs.rewards.ensemble import load_reward
from rlhf_envs.rewards.guard import RewardError

from ..core.random_state import isolated_generators
from ..saving.provenance import provenance

__all__ = ["RatingRefit", "RunningFit", "main"]

logger = logging.getLogger(__name__)

NOTHING = 3  # exit code: the ratings tell no texts apart
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RatingRefit:
    """Fit a reward model to people's ratings and keep it in a folder, as `HumanReward.refit` is to do.

    Every fit starts from the same model and sees all ratings, so that an early rating counts no more than a late one.

    Args:
        folder: models are kept in `<folder>/<number of ratings>`.
        train: which part of the model learns, see `rlhf_envs.preferences.training.trained_part`.
        held_out: the share of the ratings that is held out to measure on.
        epochs: passes over the ratings.
        seed: seeds the split and the fit.
    """

    def __init__(
        self,
        folder: str | Path,
        model: str = "tiny-reward",
        train: str | int = "head",
        held_out: float = 0.2,
        epochs: int = 4,
        seed: int = 0,
    ) -> None:
        self.folder, self.seed = Path(folder), seed
        self.settings: dict[str, Any] = {"model": model, "train": train, "held_out_share": held_out, "epochs": epochs}

    def __call__(self, rows: list[dict[str, Any]]) -> Reward | None:
        """Fit a model to all ratings; warn and return None while all labels are the same or there is one text."""
        place = self.folder / str(len(rows))
        try:
            with isolated_generators(self.seed):  # the training draws as if nothing had been fitted
                fit_reward(folder=place, **self._task(rows))
        except NothingToFit as error:
            logger.warning("the reward model is not refitted: %s", error)
            return None
        logger.info("refitted the reward model to %d ratings: %s", len(rows), place)
        return _load(place)

    def begin(self, rows: list[dict[str, Any]]) -> RunningFit:
        """Begin the same fit in another process."""
        return RunningFit(self.folder / str(len(rows)), self._task(rows))

    def _task(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"rows": rows, "loss": "mse", "seed": self.seed, "made": provenance(), **self.settings}

    def newest(self) -> tuple[int, Reward] | None:
        """Return the model of the most ratings in the folder, and their number; None if there is none."""
        places = [file.parent for file in self.folder.glob(f"*/{MANIFEST}") if file.parent.name.isdecimal()]
        newest = max(places, key=lambda place: int(place.name), default=None)
        return None if newest is None else (int(newest.name), _load(newest))


class RunningFit:
    """Hold a fit in another process. It ends with this process, or when nobody holds this object any more.

    Args:
        place: the folder of the model. What the process prints is in a log beside it.
        task: the arguments of `fit_reward`.
    """

    def __init__(self, place: Path, task: Mapping[str, Any]) -> None:
        self.place, self.log = place, place.with_name(f"{place.name}.log")
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.with_name(f".{place.name}.json")
        replace_json(file, task, exact=True)
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents.training.refit", str(file), str(place)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C is for the training, which decides what ends
            )
        self._stop = weakref.finalize(self, _end, self.process, file)

    def done(self) -> bool:
        """Return whether the fit has ended."""
        return self.process.poll() is not None

    def result(self) -> Reward | None:
        """Return the model, once it is fitted; warn and return None if the ratings tell no texts apart.

        Raises:
            RewardError: the fit failed. The message has its last line, and the log.
        """
        code = self.process.wait()
        self._stop()
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
        if code == 0:
            self.log.unlink()
            logger.info("refitted the reward model to %s ratings: %s", self.place.name, self.place)
            return _load(self.place)
        if code != NOTHING:
            raise RewardError(f"the reward model could not be refitted: {last} (all of it is in {self.log})")
        logger.warning("the reward model is not refitted: %s", last)
        return None


def _end(process: subprocess.Popen[bytes], file: Path) -> None:
    """End a process that still runs, and remove its task."""
    process.terminate()
    process.wait()
    file.unlink(missing_ok=True)


def _load(place: Path) -> Reward:
    with isolated_generators():
        return load_reward(place)


def main(arguments: list[str]) -> int:
    """Fit a model as a file of JSON says, into a folder; return the exit code."""
    file, place = map(Path, arguments)
    task = json.loads(file.read_text(encoding="utf-8"))
    try:
        fit_reward(folder=place, **task)
    except NothingToFit as error:
        print(error)
        return NOTHING
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
