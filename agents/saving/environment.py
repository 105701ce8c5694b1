"""Describe an environment as JSON, and make it again from its description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv

from ..core.vec_env import TextVecEnv, make_vec_env
from .untrusted import read_env_kwargs

__all__ = ["describe_env", "remake_env"]


def describe_env(env: VecEnv) -> dict[str, Any]:
    """Return as JSON how to make an environment like this one: its id, number of rows and arguments.

    If that cannot be written, return `{"missing": the reason}`.
    """
    spec = getattr(env, "spec", None)
    if type(env) is not TextVecEnv or spec is None:
        return {"missing": f"it was a {type(env).__name__} that agents.make_vec_env cannot make from an id"}
    registered = gym.registry[spec.id].kwargs if spec.id in gym.registry else {}
    own = {"num_envs", "vectorization_mode"}  # what gym.make_vec adds
    kwargs = {k: v for k, v in spec.kwargs.items() if k not in own and (k not in registered or registered[k] is not v)}
    if "chat_template" in kwargs:  # it may be a file, which a bundle does not name
        kwargs["chat_template"] = env.env.episodes.chat.options.get("chat_template")
    for name, value in kwargs.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            return {"missing": f"its argument {name} was {value!r}, which is not JSON"}
    return {"id": spec.id, "num_envs": env.num_envs, "kwargs": kwargs}


def remake_env(description: Mapping[str, Any]) -> TextVecEnv:
    """Make an environment from what `describe_env` returned. No module, file or address that it names is used.

    Raises:
        ValueError: the environment cannot be made from registered names; the message says why and what to do.
    """
    instead = "pass the environment, agents.load(..., env=env)"
    if "missing" in description:
        raise ValueError(f"the environment is not in the bundle: {description['missing']}; {instead}")
    env_id, given = description["id"], description["kwargs"]
    kwargs = read_env_kwargs(given, "a bundle", instead=instead, follow_paths=False, env_id=env_id)
    if ":" in env_id or env_id not in gym.registry or "task" not in gym.registry[env_id].kwargs:
        raise ValueError(
            f"no text environment {env_id!r} is registered here: import the module that registers it, or {instead}"
        )
    return make_vec_env(env_id, description["num_envs"], **kwargs)
