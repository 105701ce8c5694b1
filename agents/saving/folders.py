"""Name the files in a run's folder, and find runs and bundles on the disk. Imports no torch."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf_envs.files import MANIFEST, check_size

from .untrusted import describe_problem, read_env_id

__all__ = [
    "AGENT",
    "BEST",
    "CHECKPOINTS",
    "CONFIG",
    "DESCRIPTION",
    "LOCK",
    "MODEL",
    "REWARD_MODELS",
    "START",
    "check_no_folder_of_runs",
    "clear",
    "find_bundle",
    "is_bundle",
    "is_restartable",
    "read_config",
    "read_object",
    "run_environment",
]

logger = logging.getLogger(__name__)

# In the folder of a run: two folders of weights (where it started, what it trained), bundles and the configuration.
CONFIG, AGENT, CHECKPOINTS, MODEL, START = "config.json", "agent", "checkpoints", "model", "start"
BEST = "best"  # the bundle that early stopping keeps
REWARD_MODELS = "reward_models"  # fitted to people's ratings during the run, which stay in the store
DESCRIPTION = "agent.json"  # in a bundle, beside its manifest
LOCK = ".lock"  # names the process that has the folder
# What a run may write before its first checkpoint. None of it is needed to start over, and early stopping begins anew.
BEGUN = {LOCK, CONFIG, START, CHECKPOINTS, BEST, REWARD_MODELS, "progress.csv", "evaluations.npz"}
EVENTS, UNFINISHED = "events.out.tfevents.", ".tmp"  # TensorBoard's files, and what interrupted saves leave behind


class _Run(BaseModel):
    """Check what is read of a run's `config.json` without the rest, which differs among kinds of runs and releases."""

    model_config = ConfigDict(strict=True)

    algo: str | None = None
    env: str | None = None
    env_kwargs: dict[str, Any] | None = None
    hyperparams: dict[str, Any] | None = None


def is_restartable(folder: Path) -> bool:
    """Return whether a folder is empty, or of a run that ended before it kept anything of what it learned."""
    if not folder.is_dir():
        return False
    saves = folder / CHECKPOINTS
    kept = [path.name for path in saves.iterdir() if UNFINISHED not in path.name] if saves.is_dir() else []
    names = {path.name for path in folder.iterdir()} - BEGUN
    if kept or not all(name.startswith(EVENTS) or (name[0] == "." and UNFINISHED in name) for name in names):
        return False
    found = {path.name for path in folder.iterdir() if UNFINISHED not in path.name} - {LOCK}
    return not found or _is_run(folder)  # other programs have files of these names too


def _is_run(folder: Path) -> bool:
    """Return whether the configuration in a folder is a run's."""
    try:
        config = read_config(folder)
    except ValueError:
        return False
    return config.get("algo") is not None and config.get("env") is not None


def clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Empty a folder that `is_restartable` and locked, except for the lock. Log it if there was anything.

    Args:
        folder: the folder.
        keep: names of files that stay.
    """
    found = [path for path in folder.iterdir() if path.name not in (LOCK, *keep)]
    if found:
        logger.warning("the run in %s ended before its first checkpoint: it starts over", folder)
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_bundle(path: Path) -> bool:
    """Return whether a folder looks like a bundle of `agents.save`."""
    return (path / MANIFEST).is_file() and (path / DESCRIPTION).is_file()


def find_bundle(path: Path) -> Path | None:
    """Return `path` if that is a bundle, else a run's best or last agent, else its newest checkpoint, else None."""
    for folder in (path, path / BEST, path / AGENT):
        if is_bundle(folder):
            return folder
    checkpoints = [p for p in (path / CHECKPOINTS).glob("*") if p.name.isdecimal() and is_bundle(p)]
    return max(checkpoints, key=lambda p: int(p.name), default=None)


def check_no_folder_of_runs(path: Path) -> None:
    """Raise a ValueError if a folder is none of a run or a model and has runs in it, or in its folders.

    The message names up to 8 of them.
    """
    if (path / CONFIG).is_file():
        return
    found = sorted(file.parent for pattern in ("*", "*/*") for file in path.glob(f"{pattern}/{CONFIG}"))
    if runs := [str(run) for run in found if (run / MODEL).is_dir() or find_bundle(run) is not None]:
        more = f" or one of {len(runs) - 8} more" if len(runs) > 8 else ""
        raise ValueError(f"{path} is a folder of runs: give one of them, {', '.join(runs[:8])}{more}")


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration of a run, given its folder or a file in it; empty if there is none.

    Anybody may have written it. So what is read of it anywhere has the right type.

    Raises:
        ValueError: it is no JSON object, or a field has another type. The message has the file and the field.
    """
    folders = path.parents if path.is_file() else (path,)
    file = next((folder / CONFIG for folder in folders if (folder / CONFIG).is_file()), None)
    if file is None:
        return {}
    config = read_object(file)
    try:
        _Run.model_validate(config)
    except ValidationError as error:
        raise ValueError(f"{file}: {describe_problem(error)}: the file is damaged") from error
    return config


def run_environment(source: str) -> str | None:
    """Return the id of the environment that a run or a bundle was trained in; None if `source` is neither.

    Raises:
        ValueError: a module would be imported, or there is no such environment.
    """
    path, env_id = Path(source), read_config(Path(source)).get("env")
    if is_bundle(path):
        env = read_object(path / DESCRIPTION).get("env")
        env_id = env.get("id") if isinstance(env, dict) else None
    return None if env_id is None else read_env_id(env_id, f"a file of {source}")


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: it holds something else, or is too large. The message has the file.
    """
    check_size(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}): the file is damaged") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is {str(content)[:80]!r}, expected an object: the file is damaged")
    return content
