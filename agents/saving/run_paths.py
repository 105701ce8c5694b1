"""Find the files and folders that a run's `config.json` names, whatever the working directory is. Imports no torch.

Relative paths stand there as they were typed. They belong to the directory that the log folder is in, which the run's
own place tells: `logs/ppo/mine` is the end of it. So no absolute path, with somebody's name in it, has to be kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_envs.datasets import BUNDLED
from rlhf_envs.models import split_label
from rlhf_envs.names import find_name
from rlhf_envs.rewards.registry import MODEL, list_rewards

from .folders import read_config

__all__ = ["as_typed", "from_here", "named_judges"]

FIELDS = ("model", "reward_model", "sft_data", "settings", "study")
REWARDS = ("constraint", "judge", "scorer")
DEPTH = 2  # folders between the log folder and the files of a run: the algorithm's and the run's


def from_here(values: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Return the content of a run's `config.json` with relative paths as the working directory needs them.

    A path changes only if it leads to something from where it was typed.
    """
    base = _typed_in(values, Path(folder))
    if base is None or base == Path.cwd():
        return dict(values)
    return _changed(values, lambda text: os.path.relpath(base / text) if _leads_on(base, text) else text)


def as_typed(values: Mapping[str, Any], old: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Return settings with the paths that `from_here` has changed as they stand in the `old` content of the file."""
    base = _typed_in(old, Path(folder))
    if base is None or base == Path.cwd():
        return dict(values)
    back: dict[str, str] = {}
    _changed(old, lambda text: back.setdefault(os.path.relpath(base / text), text))
    return _changed(values, lambda text: back.get(text, text))


def named_judges(folder: str | Path, judges: Sequence[str] | None) -> dict[str, str]:
    """Return a run's judges by the names that its `config.json` has: so what was measured before calls them.

    A judge in a folder is found from another working directory by another path. A folder without a configuration is of
    a run that begins: there judges have the names that were typed.
    """
    found, typed = list(judges or ()), read_config(Path(folder)).get("judge")
    names = typed if isinstance(typed, list) and len(typed) == len(found) else found
    return dict(zip(map(str, names), found, strict=True))


def _typed_in(values: Mapping[str, Any], folder: Path) -> Path | None:
    """Return the directory in which a run's paths were typed; None if its place does not tell."""
    given = values.get("log_folder")
    if not isinstance(given, str) or Path(given).is_absolute():
        return None
    logs, parts = folder.resolve().parents[DEPTH - 1 : DEPTH], Path(given).parts
    if not logs or ".." in parts or logs[0].parts[len(logs[0].parts) - len(parts) :] != parts:
        return None
    return Path(*logs[0].parts[: len(logs[0].parts) - len(parts)])


def _leads_on(base: Path, text: str) -> bool:
    """Return whether a path, perhaps with a label as in "folder@LABEL", leads to something from a directory."""
    return os.path.exists(base / text) or os.path.exists(base / split_label(text)[0])


def _changed(values: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return settings with all relative paths changed: of models, files, folders of rewards and their aspects."""

    def path(value: Any) -> Any:
        if isinstance(value, list):
            return [path(one) for one in value]
        return change(value) if isinstance(value, str) and value and not os.path.isabs(value) else value

    def data(value: Any) -> Any:
        return value if isinstance(value, str) and value in BUNDLED else path(value)

    def reward(value: Any) -> Any:
        if isinstance(value, list):
            return [reward(one) for one in value]
        if not isinstance(value, str) or find_name(value, list_rewards()) in list_rewards():
            return value
        before = MODEL if value.startswith(MODEL) else ""
        return before + path(value.removeprefix(MODEL))

    def entries(content: Any, changes: Mapping[str, Callable[[Any], Any]]) -> Any:
        if not isinstance(content, Mapping):
            return content
        return {name: changes[name](value) if name in changes else value for name, value in content.items()}

    def aspects(content: Any) -> Any:
        if not isinstance(content, Mapping):
            return path(content)
        return {name: entries(aspect, {"reward": reward}) for name, aspect in content.items()}

    of_reward = {"aspects": aspects, "store": path, "model": path}
    env_kwargs = {"data": data, "reward": reward, "reward_kwargs": lambda value: entries(value, of_reward)}
    changes: dict[str, Callable[[Any], Any]] = dict.fromkeys(FIELDS, path) | dict.fromkeys(REWARDS, reward)
    changes |= {
        "env_kwargs": lambda value: entries(value, env_kwargs),
        "hyperparams": lambda value: entries(value, {"data": data}),
        "by": lambda value: entries(value, dict.fromkeys(value, reward) if isinstance(value, Mapping) else {}),
    }
    return dict(entries(values, changes))
