"""Check what all runs of a comparison share, before anything is written. No model is loaded for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import torch

from rlhf_envs.datasets import load_rows
from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.models import resolve as find_model
from rlhf_envs.models.devices import find_device
from rlhf_envs.names import check_arguments, nearest
from rlhf_envs.registration import task_of
from rlhf_envs.rewards.registry import check_reward
from rlhf_envs.tasks.lookup import environment_rows, own_arguments

from ...evaluation.prompt_counts import count_different, warn_of_few
from .config import CompareConfig

__all__ = ["check_device", "check_environment_kwargs", "check_shared", "check_start", "check_tokens", "horizon_of"]


def check_shared(config: CompareConfig) -> None:
    """Raise ValueError or TypeError if what all runs share is wrong, and warn of few prompts to evaluate on."""
    check_environment_kwargs(config.env_id, config.env_kwargs)
    _check_metric(config)
    check_tokens("tokens", config.tokens, horizon_of(config.env_id, config.env_kwargs))
    _check_prompts(config)


def check_tokens(name: str, tokens: int, horizon: int) -> None:
    """Raise ValueError if runs are shorter than one episode. `name` is that of the setting."""
    if tokens < horizon:
        raise ValueError(f"{name}={tokens} is less than one episode of {horizon}: take at least that")


def check_start(config: CompareConfig, data: Iterable[str]) -> None:
    """Raise ValueError or OSError if runs cannot start on this machine: their model, their device or a file is missing.

    Args:
        config: the comparison.
        data: the files of completions that runs learn beside their reward.
    """
    if config.model is not None:
        find_model(config.model)
    if not config.uses_ray:
        check_device(config.device)
    for source in dict.fromkeys(data):
        load_rows(source, required=())


def horizon_of(env_id: str, env_kwargs: Mapping[str, Any]) -> int:
    """Return the most tokens of an episode; 1 where the environment does not say."""
    kwargs = {**gym.spec(env_id).kwargs, **env_kwargs}
    task = task_of(env_id, **env_kwargs)
    return int(kwargs.get("max_new_tokens") or getattr(task, "max_new_tokens", None) or 1)


def check_environment_kwargs(env_id: str, env_kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError for an argument that an environment does not take, and ValueError for an unknown reward."""
    kwargs = gym.spec(env_id).kwargs
    if "task" not in kwargs:  # it is not ours
        return
    own = own_arguments({**kwargs, **env_kwargs}["task"])
    check_arguments(env_kwargs, ("task", *EpisodeOptions.__annotations__, *own), "the environment")
    if isinstance(reward := env_kwargs.get("reward"), str):
        check_reward(reward)


def check_device(device: str) -> None:
    """Raise ValueError if there is no such device. One that is CUDA's is not used for it: the runs have it alone."""
    if not (device.startswith("cuda") and torch.cuda.is_available()):
        find_device(device)


def _check_metric(config: CompareConfig) -> None:
    task = task_of(config.env_id, **config.env_kwargs)
    if config.metric is None or config.metric.startswith("reward_") or task is None:
        return
    rows = environment_rows(**{"split": "train", **config.env_kwargs, "task": task})
    known = ["reward", *task.judges, *task.metric_names(rows)]
    if config.metric not in known:
        raise ValueError(f"unknown metric {config.metric!r} for {config.env_id}: {nearest(config.metric, known)}")


def _check_prompts(config: CompareConfig) -> None:
    """Raise ValueError if the user's data has no prompts to evaluate on, and warn if it has few."""
    task = task_of(config.env_id, **config.env_kwargs)
    if task is None or "data" not in config.env_kwargs:
        return
    rows = environment_rows(**{**config.env_kwargs, "split": config.test_split, "task": task})
    if config.test_split != "train":
        warn_of_few(count_different(rows), config.test_episodes, config.test_split)
