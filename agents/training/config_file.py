"""Read the settings of a verb from a file, which is what `--config` takes. Imports no torch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rlhf_envs.files import check_size
from rlhf_envs.names import nearest

from ..saving.provenance import MADE
from ..saving.untrusted import read_engine, read_env_id, read_env_kwargs, read_ray_address, read_reward, read_store
from .config import REWARDS
from .data_flags import ChatFlags, DataFlags
from .fields import parse_pairs
from .hyperparams import parse_yaml

__all__ = ["check_imports", "read_config_file"]

PARSERS: dict[str, Any] = {".json": json.loads, ".toml": tomllib.loads, ".yaml": parse_yaml, ".yml": parse_yaml}
PAIRS = ("by", "env_kwargs", "hyperparams")  # settings with names of their own
NAME_REWARDS = (*REWARDS, "scorer", "metric")
STORES = ("store", "from_serving", "storage")


def read_config_file(
    path: str | Path, fields: Collection[str], given: Mapping[str, Any], short: type[ChatFlags] = DataFlags
) -> dict[str, Any]:
    """Return the settings in a file, with those that are `given` in their place.

    Of the arguments of the algorithm and of the environment each is replaced by itself. A file imports nothing: an
    environment or a reward to import has to be among the settings that are `given` as well. The records of what made
    the file (see `agents.saving.provenance`) are left out.

    Args:
        path: a TOML, YAML or JSON file, such as the config.json of a run.
        fields: the names of settings.
        given: what the user typed.
        short: the short flags that are taken too, which become arguments of the environment.

    Raises:
        ValueError: the file has another suffix, is not well-formed (the message has the line), or has an unknown name.
        OSError: the file cannot be read.
    """
    settings = _parse(Path(path))
    settings.pop(MADE, None)
    for name in settings:
        if name not in fields and name not in short.model_fields:
            raise ValueError(f"{path}: unknown setting {name!r}; {nearest(str(name), fields)}")
    try:
        settings = short.fold(settings)
        pairs = {name: parse_pairs(settings[name]) for name in PAIRS if settings.get(name) is not None}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    settings |= pairs
    check_imports(settings, str(path), given)
    merged = {name: {**pairs[name], **given[name]} for name in pairs if name in given and isinstance(pairs[name], dict)}
    return settings | dict(given) | merged


def check_imports(settings: Mapping[str, Any], source: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError for what a file's word is not enough for, unless it is given too.

    That is an import, a pickle, and a server: an engine, a cluster or a database.
    """
    if settings.get("env") is not None and "env" not in given:
        read_env_id(settings["env"], source)
    several = settings.get("envs") if "envs" not in given else None  # of an evaluation
    names = [env for env in several if isinstance(env, str)] if isinstance(several, list) else []
    for env in names:
        read_env_id(env, source, f"give them again, --envs {','.join(names)}")
    if settings.get("trust") and not given.get("trust"):
        raise ValueError(f"no pickle is loaded just because {source} says trust: give it again, --trust")
    kwargs, env_id = parse_pairs(settings.get("env_kwargs") or {}), given.get("env", settings.get("env"))
    read_env_kwargs(kwargs, source, given.get("env_kwargs"), env_id=env_id)
    for name in NAME_REWARDS:
        if name not in given:
            read_reward(settings.get(name), source, name)
    for name, reward in (settings.get("by") or {}).items():
        if name not in (given.get("by") or {}):
            read_reward(reward, source, "by")
    for name in STORES:
        read_store(settings.get(name), source, name, name in given)
    pairs = {"hyperparams": parse_pairs(settings.get("hyperparams") or {})}
    read_engine({**settings, **pairs}, source, given)
    read_ray_address(settings, source, given)
    arms = settings.get("overrides")  # of a comparison
    for label, values in arms.items() if isinstance(arms, Mapping) else ():
        if isinstance(values, Mapping):
            read_engine(values, source, (given.get("overrides") or {}).get(label, {}))


def _parse(path: Path) -> dict[str, Any]:
    suffix = path.suffix.lower()
    if path.is_file() and suffix not in PARSERS:
        raise ValueError(f"{path}: expected a .toml, .yaml or .json file")
    check_size(path)
    try:
        settings = PARSERS[suffix](path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected names and values, such as seed: 1")
    return settings
