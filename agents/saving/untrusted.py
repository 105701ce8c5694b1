"""Read what a file says of an environment and its reward. Anybody may have written it, so nothing it names is imported.

This is the one way in for bundles, for the `config.json` of runs, loops and comparisons, and for files of settings.
What the user types or passes is theirs: it is `given` and is not checked. Imports no torch.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf_envs.datasets.templates import is_template_file
from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.models import has_place, split_label
from rlhf_envs.names import is_address, is_imported
from rlhf_envs.registration import check_environment
from rlhf_envs.rewards.registry import MODEL, is_import
from rlhf_envs.tasks.lookup import arguments_of
from rlhf_envs.tasks.mixture import ABOUT_TASK, read_tasks

__all__ = [
    "JSON_ARGUMENTS",
    "describe_problem",
    "read_engine",
    "read_env_id",
    "read_env_kwargs",
    "read_ray_address",
    "read_reward",
    "read_store",
]

ADDRESS = re.compile(r"[\w./\\-]+:\w+")  # "module:attribute", and no template such as "{text}\nLabel:"
JSON_ARGUMENTS = (set(EpisodeOptions.__annotations__) - {"reward_fn"}) | {"render_mode"}


def read_env_id(env_id: Any, source: str, instead: str | None = None) -> str:
    """Return an environment's id that a file has, after checking that it is registered.

    "module:id" and "file.py:id" pass only if that has been imported already, by the user's own command or code.

    Args:
        env_id: what the file has.
        source: what the file is, for the message.
        instead: what to do instead; by default to give `--env` again.

    Raises:
        ValueError: a module would be imported, or nothing of that name is registered.
    """
    if not isinstance(env_id, str):
        raise ValueError(f"the environment {env_id!r} in {source} is no id")
    module = env_id.rpartition(":")[0]
    if module and not is_imported(module):
        _refuse_import("the environment", env_id, source, instead or f"give it again, --env {shlex.quote(env_id)}")
    return check_environment(env_id) and env_id


def read_env_kwargs(
    kwargs: Any,
    source: str,
    given: Mapping[str, Any] | None = None,
    instead: str | None = None,
    follow_paths: bool = True,
    env_id: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of an environment that a file has, without those that are `given` again.

    Args:
        kwargs: what the file has: an object.
        source: what the file is, for the message.
        given: arguments that the user gives in their place.
        instead: what to do instead; by default to give the flag of the argument again.
        follow_paths: whether files of data and chat templates, feedback stores in files and hub ids of models are used:
            true for runs, false for bundles. The URL of a database or a server is never used.
        env_id: the environment, whose task may take arguments of its own.

    Raises:
        ValueError: an argument is none of `JSON_ARGUMENTS` or the task's own, a reward would be imported, or an
            address or path is not followed. The message says what to do.
    """
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"the environment's arguments in {source} are {kwargs!r}: expected an object")
    kept = {str(name): value for name, value in kwargs.items() if name not in (given or {})}
    own_names = arguments_of(env_id)
    for name, value in kept.items():
        remedy = instead or f"give it again, {_flag(name, value)}, or env_kwargs={{{name!r}: ...}} in Python"
        if name not in JSON_ARGUMENTS and name not in own_names:
            raise ValueError(f"the environment's argument {name!r} is not taken from {source}: {remedy}")
        if name in ("reward", "reward_kwargs"):
            for text in _strings(value):
                if is_import(text) and text != _store(kept):
                    _refuse_import("the reward", text, source, remedy)
        if name in own_names:
            for text in _strings(value):
                if ADDRESS.fullmatch(text) or is_address(text):
                    _refuse_import("the task's argument", text, source, remedy)
        if name == "tasks":
            for entry in read_tasks(value):
                read_env_id(entry["id"], source, remedy)
                own = {key: entry[key] for key in entry if key not in ABOUT_TASK}
                read_env_kwargs(own, source, None, remedy, follow_paths, entry["id"])
        if (address := _address(name, kept, follow_paths)) is not None:
            raise ValueError(f"{name} names {address!r}, which is not followed where {source} says so: {remedy}")
    return kept


def describe_problem(error: ValidationError) -> str:
    """Return the first thing that is wrong with a file's content, in one line: where, what, and the value."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    problem = f"{first['msg'].removeprefix('Value error, ')} (got {first['input']!r:.80})"
    return f"{where}: {problem}" if where else problem


def read_reward(reward: Any, source: str, flag: str) -> None:
    """Raise ValueError if the reward, or one of the rewards, that a file has for a flag would be imported."""
    for one in reward if isinstance(reward, list) else [reward]:
        if isinstance(one, str) and is_import(one):
            _refuse_import(f"the {flag}", one, source, f"give it again, --{flag} {shlex.quote(one)}")


def read_store(url: Any, source: str, name: str, given: bool = False) -> None:
    """Raise ValueError if a file names a database on a server: texts would go there, or come from there.

    Args:
        url: what the file has. A path or an address of SQLite is a file.
        source: what the file is, for the message.
        name: the name of the setting.
        given: whether the user gives it too.
    """
    if isinstance(url, str) and "://" in url and not url.startswith("sqlite:") and not given:
        flag = f"--{name.replace('_', '-')}"
        raise ValueError(f"the store {url!r} is not followed where {source} says so: give it again, {flag}")


def read_ray_address(settings: Mapping[str, Any], source: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError if a file names a Ray cluster elsewhere: it would get the run, and what it sends is unpickled.

    Args:
        settings: what the file has; "auto" and "local" are clusters of this machine.
        source: what the file is, for the message.
        given: settings that the user gives in their place.
    """
    address = settings.get("ray_address")
    if address not in (None, "auto", "local") and "ray_address" not in given:
        raise ValueError(
            f"the Ray cluster {address!r} gets no work just because {source} names it: give it again, --ray-address "
            f"{shlex.quote(str(address))}"
        )


def read_engine(settings: Mapping[str, Any], source: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError if a file names a server that draws completions, which gets texts and perhaps a key.

    The same holds for what it would write and send: the folder of the weights, and the variable that has the key.

    Args:
        settings: what the file has: `engine` stands there, or in `hyperparams`.
        source: what the file is, for the message.
        given: settings that the user gives in their place.
    """
    for name, values, own in (
        ("--engine", settings, given),
        ("-params engine:", settings.get("hyperparams"), given.get("hyperparams")),
    ):
        url = values.get("engine") if isinstance(values, Mapping) else None
        if url is not None and "engine" not in (own or {}):
            again = f"{name}{'' if name.endswith(':') else ' '}{shlex.quote(str(url))}"
            raise ValueError(f"the engine {url!r} is not asked just because {source} names it: give it again, {again}")
    folder = settings.get("engine_folder")
    if folder is not None and "engine_folder" not in given:
        raise ValueError(
            f"the engine's weights are not written to {folder!r} just because {source} names it: give it again, "
            f"--engine-folder {shlex.quote(str(folder))}"
        )
    named, own = (_engine_kwargs(values) for values in (settings, given))
    for name in ("folder", "api_key_env"):
        if named.get(name) is not None and own.get(name) != named[name]:
            again = shlex.quote(f"engine_kwargs:{json.dumps(dict(named))}")
            raise ValueError(
                f"{name}={named[name]!r} of the engine does not hold just because {source} names it: give it again, "
                f"-params {again}"
            )


def _engine_kwargs(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of an engine among settings, or those that stand in their `hyperparams`."""
    hyperparams = settings.get("hyperparams")
    found = hyperparams.get("engine_kwargs") if isinstance(hyperparams, Mapping) else settings.get("engine_kwargs")
    return found if isinstance(found, Mapping) else {}


def _refuse_import(what: str, name: str, source: str, instead: str) -> None:
    """Raise the error for a name that would be imported."""
    raise ValueError(f"{what} {name!r} is not imported just because {source} names it: {instead}")


def _store(kwargs: Mapping[str, Any]) -> Any:
    """Return the address among the arguments of a reward, which is no module."""
    arguments = kwargs.get("reward_kwargs")
    return arguments.get("store") if isinstance(arguments, Mapping) else None


def _address(name: str, kwargs: Mapping[str, Any], follow_paths: bool) -> str | None:
    """Return the address or path in one of the arguments that is not followed, or None."""
    store, value = _store(kwargs) if name == "reward_kwargs" else None, kwargs[name]
    if name not in JSON_ARGUMENTS:  # a task's own argument, such as the server of rlhf/OpenEnv-v0
        url = next((text for text in _strings(value) if "://" in text), None)
        if url is not None:
            return url
    if isinstance(store, str) and ("://" in store or not follow_paths):
        return store
    if follow_paths:
        return None
    if name == "data":
        return next(_files(value), None)
    if name == "chat_template":
        return value if isinstance(value, str) and is_template_file(value) else None
    takes_places = name in ("model", "reward", "reward_kwargs") or name not in JSON_ARGUMENTS
    names = [*_strings(value), *_aspects(kwargs)] if takes_places else []
    if (
        (name.endswith("reward") or name == "reward_kwargs")
        and any(text.lower() == "human" for text in names)
        and not _asks_nobody(kwargs)
    ):
        return "feedback.db"  # the store of a human reward that is given none
    for text in names:
        place = split_label(text.removeprefix(MODEL))[0]
        if has_place(place) and not Path(place).is_dir():
            return text
    return None


def _aspects(kwargs: Mapping[str, Any]) -> list[str]:
    """Return the names of aspects, each of which is its reward unless the aspect has another one."""
    arguments = kwargs.get("reward_kwargs")
    aspects = arguments.get("aspects") if isinstance(arguments, Mapping) else None
    return [*map(str, aspects)] if isinstance(aspects, Mapping) else []


def _asks_nobody(kwargs: Mapping[str, Any]) -> bool:
    """Return whether a human reward is given no store."""
    arguments = kwargs.get("reward_kwargs")
    return isinstance(arguments, Mapping) and "store" in arguments and arguments["store"] is None


def _files(data: Any) -> Iterator[str]:
    """Yield the files among data: a path, or one for each split."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for part in data.values():
            yield from _files(part)


def _flag(name: str, value: Any) -> str:
    """Return the flag that gives an argument of the environment."""
    if name in ("reward", "data") and isinstance(value, str):
        return f"--{name} {shlex.quote(value)}"
    return f"--env-kwargs {shlex.quote(f'{name}:{value if isinstance(value, str) else json.dumps(value)}')}"


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value, except the keys of objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)
