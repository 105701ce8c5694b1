"""Name the files in a run's folder, and find runs and bundles on the disk. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlhf_envs.files import MANIFEST

from .untrusted import read_env_id

__all__ = [
    "AGENT",
    "CHECKPOINTS",
    "CONFIG",
    "DESCRIPTION",
    "MODEL",
    "START",
    "find_bundle",
    "is_bundle",
    "read_config",
    "run_environment",
]

# In the folder of a run: two folders of weights (where it started, what it trained), bundles and the configuration.
CONFIG, AGENT, CHECKPOINTS, MODEL, START = "config.json", "agent", "checkpoints", "model", "start"
DESCRIPTION = "agent.json"  # in a bundle, beside its manifest


def is_bundle(path: Path) -> bool:
    """Return whether a folder looks like a bundle of `agents.save`."""
    return (path / MANIFEST).is_file() and (path / DESCRIPTION).is_file()


def find_bundle(path: Path) -> Path | None:
    """Return `path` if that is a bundle, else the agent of the finished run, else its newest checkpoint, else None."""
    for folder in (path, path / AGENT):
        if is_bundle(folder):
            return folder
    checkpoints = [p for p in (path / CHECKPOINTS).glob("*") if p.name.isdecimal() and is_bundle(p)]
    return max(checkpoints, key=lambda p: int(p.name), default=None)


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration of a run, given its folder or a file in it; empty if there is none."""
    folders = path.parents if path.is_file() else (path,)
    file = next((folder / CONFIG for folder in folders if (folder / CONFIG).is_file()), None)
    return {} if file is None else json.loads(file.read_text(encoding="utf-8"))


def run_environment(source: str) -> str | None:
    """Return the id of the environment that a run or a bundle was trained in; None if `source` is neither.

    Raises:
        ValueError: a module would be imported, or there is no such environment.
    """
    path, env_id = Path(source), read_config(Path(source)).get("env")
    if is_bundle(path):
        env_id = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))["env"].get("id")
    return None if env_id is None else read_env_id(env_id, f"{source}, a file,")
