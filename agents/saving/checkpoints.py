"""Keep the newest checkpoints of a run, as numbered bundles."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_envs.files import clear_unfinished, discard, find_folder, is_replaceable

from .bundle import BundleError, capture, read, write
from .folders import DESCRIPTION
from .loading import load

__all__ = ["Checkpoints"]

logger = logging.getLogger(__name__)


class Checkpoints:
    """Keep the newest `keep` bundles of a run, named by the tokens trained for: `<directory>/<tokens>`.

    The first checkpoint makes the directory.

    Raises:
        ValueError: `keep` is below 1.
    """

    def __init__(self, directory: str | Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: expected at least one checkpoint to keep")
        self.directory, self.keep = Path(directory), keep

    def save(self, agent: Any, extra: Mapping[str, Any] | None = None) -> Path:
        """Save the agent as a new checkpoint, as `agents.save` does. Return the checkpoint's folder."""
        return self.write(capture(agent, extra), agent)

    def write(self, captured: Mapping[str, Any], agent: Any) -> Path:
        """Save what `bundle.capture` returned, with the agent's weights; remove older checkpoints beyond `keep`."""
        path = self.directory / str(captured["attributes"]["num_timesteps"])
        clear_unfinished(self.directory)
        if not is_replaceable(path) and (path / DESCRIPTION).is_file():  # a broken bundle without its manifest
            discard(path)
        write(captured, agent, path)
        for old in self._numbers()[self.keep :]:
            if old != int(path.name):
                discard(find_folder(self.directory / str(old)))
        return path

    def exist(self) -> bool:
        """Return whether there is a checkpoint, whole or not."""
        return bool(self._numbers())

    def latest(self) -> Path | None:
        """Return the newest whole checkpoint, or None if there is none; broken ones are skipped with a warning."""
        for number in self._numbers():
            path = find_folder(self.directory / str(number))
            try:
                read(path)
            except BundleError as error:
                logger.warning("skipping a checkpoint: %s", error)
            else:
                return path
        return None

    def load(self, env: Any = None, **overrides: Any) -> Any:
        """Load the agent of the newest whole checkpoint, with the arguments of `agents.load`.

        Raises:
            BundleError: there is none.
        """
        if (path := self.latest()) is None:
            raise BundleError(f"{self.directory} holds no checkpoint that is whole")
        return load(path, env, **overrides)

    def _numbers(self) -> list[int]:
        """Return the tokens of all checkpoints, newest first, including those that an unfinished save moved aside."""
        aside = (path.name[1:].removesuffix(".old") for path in self.directory.glob(".*.old"))
        names = {path.name for path in self.directory.glob("*")}.union(aside)
        return sorted({int(name) for name in names if name.isdecimal()}, reverse=True)
