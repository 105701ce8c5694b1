"""Find bundles and runs on the disk. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["AGENT", "CHECKPOINTS", "CONFIG", "MODEL", "START", "find_bundle", "is_bundle", "run_environment"]

# What the folder of a run holds.
CONFIG, AGENT, CHECKPOINTS, MODEL, START = "config.json", "agent", "checkpoints", "model", "start"


def is_bundle(path: Path) -> bool:
    """Whether a folder looks like a bundle of `agents.save`."""
    return (path / "manifest.json").is_file() and (path / "agent.json").is_file()


def find_bundle(path: Path) -> Path | None:
    """The bundle at `path`, of a run its agent, or of one not finished its newest checkpoint; None without any."""
    for folder in (path, path / "agent"):
        if is_bundle(folder):
            return folder
    checkpoints = [p for p in path.glob("checkpoints/*") if p.name.isdecimal() and is_bundle(p)]
    return max(checkpoints, key=lambda p: int(p.name), default=None)


def run_environment(source: str) -> str | None:
    """The environment that a run folder or a bundle was trained in; None where `source` is neither."""
    path = Path(source)
    if is_bundle(path):
        env_id = json.loads((path / "agent.json").read_text(encoding="utf-8"))["env"].get("id")
        return env_id if isinstance(env_id, str) else None
    folder = next((p for p in (path, *path.parents) if path.suffix == ".zip" and (p / "config.json").is_file()), path)
    config = folder / "config.json"
    env = json.loads(config.read_text(encoding="utf-8")).get("env") if config.is_file() else None
    return env if isinstance(env, str) else None
