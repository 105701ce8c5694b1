"""Keep the checkpoints of a run: numbered bundles, of which the last few stay."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_envs.files import clear_unfinished, discard, find_folder, is_replaceable

from .bundle import AGENT, BundleError, capture, read, write
from .loading import load

__all__ = ["Checkpoints"]

logger = logging.getLogger(__name__)


class Checkpoints:
    """A folder of bundles named by the tokens trained for, `<directory>/<tokens>`; the last `keep` stay.

    Args:
        directory: the folder; made when the first checkpoint is saved.
        keep: how many stay.

    Raises:
        ValueError: `keep` is below 1.
    """

    def __init__(self, directory: str | Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: expected at least one checkpoint to keep")
        self.directory, self.keep = Path(directory), keep

    def save(self, agent: Any, extra: Mapping[str, Any] | None = None) -> Path:
        """Save the agent as it is now, see `agents.save`; returns the bundle's folder."""
        return self.write(capture(agent, extra), agent)

    def write(self, captured: Mapping[str, Any], agent: Any) -> Path:
        """Save what `bundles.capture` gave, with the agent's weights; older checkpoints beyond `keep` go."""
        path = self.directory / str(captured["attributes"]["num_timesteps"])
        clear_unfinished(self.directory)
        if not is_replaceable(path) and (path / AGENT).is_file():  # a broken one, which has lost its manifest
            discard(path)
        write(captured, agent, path)
        for old in self._numbers()[self.keep :]:
            if old != int(path.name):
                discard(find_folder(self.directory / str(old)))
        return path

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole; broken ones are skipped with a warning. None without any."""
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
        """The agent of the newest whole checkpoint, see `agents.load`.

        Raises:
            BundleError: there is none.
        """
        path = self.latest()
        if path is None:
            raise BundleError(f"{self.directory} holds no checkpoint that is whole")
        return load(path, env, **overrides)

    def _numbers(self) -> list[int]:
        """The tokens of all checkpoints, newest first; also of those that stepped aside for a save cut short."""
        names = [p.name for p in self.directory.glob("*")] + [
            p.name[1:].removesuffix(".old") for p in self.directory.glob(".*.old")
        ]
        return sorted({int(name) for name in names if name.isdecimal()}, reverse=True)
