"""Open the episodes of an environment on their own state."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.names import check_arguments
from rlhf_envs.registration import check_environment
from rlhf_envs.tasks.lookup import own_arguments

__all__ = ["open_batch"]


def open_batch(env: Any, n: int, **env_kwargs: Any) -> EpisodeBatch:
    """Open `n` rows of an environment's episodes, whose state is their own.

    Args:
        env: an id, or a text environment (single, batched, or wrapped for SB3) or its episodes, whose task, data and
            reward are taken.
        **env_kwargs: the environment's arguments, if `env` is an id.

    Raises:
        ValueError: the id is unknown; the message lists the ids that exist.
        TypeError: `env` is no text environment.
    """
    if isinstance(env, str):
        kwargs = {**gym.spec(check_environment(env)).kwargs, **env_kwargs}
        if "task" in kwargs:
            own = own_arguments(kwargs["task"])
            check_arguments(kwargs, ("task", *EpisodeOptions.__annotations__, *own), "the environment")
            return EpisodeBatch(n, **kwargs)
        env = gym.make(env, **env_kwargs)
    if isinstance(env, EpisodeBatch):
        return env.copy(n)
    while not hasattr(env, "episodes"):  # SB3's and Gymnasium's wrappers
        inner = env.envs[0] if hasattr(env, "envs") else getattr(env, "venv", getattr(env, "env", None))
        if inner is None:
            raise TypeError(f"expected an environment id or a text environment, got {env!r}")
        env = inner
    episodes: EpisodeBatch = env.episodes
    return episodes.copy(n)
