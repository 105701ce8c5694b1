"""Find the registered text environments, and their tasks without making them."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym

from rlhf_envs.datasets import SPLITS
from rlhf_envs.names import check_arguments, find_name, import_module, nearest
from rlhf_envs.tasks.base import Task, load_task, own_arguments, pick_arguments

__all__ = ["arguments_of", "check_environment", "demonstrations", "find_task", "task_of", "text_environments"]

_WITH_MODULE = re.compile(r".+:[\w-]+/[\w-]+-v\d+")  # "module:id", and no file such as "C:/data/rows.jsonl"


def text_environments() -> list[str]:
    """Return the sorted ids of all registered text environments: ours, and users' that name a task."""
    return sorted(spec.id for spec in gym.registry.values() if "task" in spec.kwargs)


def check_environment(env_id: str) -> str:
    """Return the id of a registered environment. For "module:id" or "file.py:id", import the module or file first.

    Call it only with what a user typed. Case does not count.

    Raises:
        ValueError: there is no such module or environment. The message has the nearest name, or all of them.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_module(module, f"environment {env_id!r}")
    name = find_name(name, text_environments())
    if name not in gym.registry:
        raise ValueError(f"unknown environment {name!r}: {nearest(name, text_environments())}")
    return name


def task_of(env_id: str, **env_kwargs: Any) -> Task | None:
    """Return the task of a registered environment; None if it is no text environment of this package.

    Args:
        env_id: a registered id.
        **env_kwargs: arguments for `gymnasium.make`, where a `task` replaces the registered one.
    """
    kwargs = {**gym.spec(env_id).kwargs, **env_kwargs}
    if "task" not in kwargs:
        return None
    return load_task(kwargs["task"], **pick_arguments(kwargs["task"], kwargs))


def arguments_of(env_id: str | None) -> tuple[str, ...]:
    """Return the names of the arguments that the task of a registered environment has of its own."""
    name = "" if env_id is None else find_name(env_id.rpartition(":")[2], text_environments())
    return own_arguments(gym.spec(name).kwargs["task"]) if name in text_environments() else ()


def find_task(name: str, **env_kwargs: Any) -> Task | None:
    """Return the task of an environment that a user named, such as "rlhf/SpamFilter-v0"; None if it names none.

    "module:id" and "file.py:id" import the module or file, as for `check_environment`.

    Args:
        name: what the user typed.
        **env_kwargs: arguments of the task.

    Raises:
        ValueError: a module is named, and there is no such module or environment.
        TypeError: the task takes no such argument.
    """
    if _WITH_MODULE.fullmatch(name):
        name = check_environment(name)
    elif name not in text_environments():
        return None
    check_arguments(env_kwargs, arguments_of(name), f"the task of {name}")
    return task_of(name, **env_kwargs)


def demonstrations(task: Task) -> list[dict[str, Any]]:
    """Return a task's demonstrations of all its splits, each with its `split`.

    Raises:
        ValueError: the task has none for training.
    """
    found = [{**row, "split": "train"} for row in task.demonstrations("train")]
    for split in SPLITS:
        if split == "train":
            continue
        try:
            found += [{**row, "split": split} for row in task.demonstrations(split)]
        except ValueError:  # a split without rows or references
            continue
    return found
