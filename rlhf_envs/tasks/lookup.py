"""Find the registered text environments, and their tasks and data without making them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from rlhf_envs.datasets import SPLITS, Data, load_rows
from rlhf_envs.names import check_arguments, find_name, import_attribute, import_module, nearest
from rlhf_envs.tasks.base import Task

__all__ = [
    "arguments_of",
    "check_environment",
    "demonstrations",
    "environment_rows",
    "find_task",
    "load_task",
    "own_arguments",
    "pick_arguments",
    "task_of",
    "text_environments",
]

SHARE = 0.1  # of given data that is held out for validation, and as much for tests, by default
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


def import_task(task: str | type[Task] | Task) -> type[Task] | Task:
    """Return a task or its class, imported if it is "module:Class" or "file.py:Class"."""
    return import_attribute(task, f"unknown task {task!r}") if isinstance(task, str) else task


def own_arguments(task: str | type[Task] | Task) -> tuple[str, ...]:
    """Return the names of the arguments that a task's class takes; none for a task that is made already."""
    task = import_task(task)
    return tuple(inspect.signature(task).parameters) if isinstance(task, type) else ()


def pick_arguments(task: str | type[Task] | Task, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an environment's arguments is for its task: `tasks`, `weights`, and the task's own."""
    names = {"tasks", "weights", *own_arguments(task)}
    return {name: value for name, value in kwargs.items() if name in names}


def load_task(task: str | type[Task] | Task, tasks: Any = None, weights: Any = None, **own: Any) -> Task:
    """Return the task object for a task, its class, "module:Class" or "file.py:Class".

    Args:
        task: the task.
        tasks, weights: arguments of the class of a mixture; None leaves them to it.
        **own: further arguments of the class.

    Raises:
        ValueError: there is no such module or class, the task takes no such arguments, or it answers with the hook
            `reply` of older releases.
    """
    task = import_task(task)
    mixed = {name: value for name, value in (("tasks", tasks), ("weights", weights)) if value is not None}
    given, takes = {**mixed, **own}, own_arguments(task)
    if unknown := [name for name in given if name not in takes]:
        whose = "is for rlhf/Mixture-v0, not" if unknown[0] in mixed else "is no argument of environments in general or"
        raise ValueError(f"{unknown[0]}={given[unknown[0]]!r} {whose} for task {task!r}: leave it out")
    loaded: Any = task(**given) if isinstance(task, type) else task
    if hasattr(loaded, "reply"):
        raise ValueError(
            f"task {loaded.name!r} defines reply(prompt, completion, row), which is no hook any more: define "
            "replies(dialogs), which returns a list with a Reply, a text or None for each dialog"
        )
    return loaded


def environment_rows(
    task: str | type[Task] | Task,
    split: str,
    data: Data | None = None,
    columns: Mapping[str, str] | None = None,
    validation_share: float = SHARE,
    test_share: float = SHARE,
    **others: Any,
) -> list[dict[str, Any]]:
    """Return the rows of data of an environment with these arguments, without making it.

    Of `others` only the task's own arguments count.
    """
    task = task if isinstance(task, Task) else load_task(task, **pick_arguments(task, others))
    if data is None:
        if columns:
            raise ValueError(f"columns={columns!r} renames columns of data=..., which is not given")
        for name, share in (("validation_share", validation_share), ("test_share", test_share)):
            if share != SHARE:
                raise ValueError(f"{name}={share} is of data=..., which is not given: the task splits its own")
        return task.rows(split, None)
    return task.rows(split, load_rows(data, split, ("prompt",), columns, validation_share, test_share))
