"""Make the aspects that a configuration names the reward of its environment. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_envs.rewards.aspects import read_aspects

__all__ = ["ASPECTS", "has_limits", "with_aspects"]

ASPECTS = (
    "Aspects of an answer, each with a weight or a limit, as the reward: a YAML file, or the folder of rlhf reward fit "
    "--aspects."
)


def with_aspects(env_kwargs: dict[str, Any], aspects: str) -> dict[str, Any]:
    """Return the arguments of an environment, with the aspects of a file as its reward.

    What they are stands in the arguments from then on: a run that goes on reads no file.

    Raises:
        ValueError: the arguments name a reward too, or the file is wrong.
    """
    if env_kwargs.get("reward") == "aspects" and "reward_kwargs" in env_kwargs:
        return env_kwargs
    if taken := [name for name in ("reward", "reward_kwargs", "reward_fn") if name in env_kwargs]:
        raise ValueError(
            f"aspects={aspects} beside env_kwargs={taken[0]}:{env_kwargs[taken[0]]!s:.60}: the aspects are the "
            "reward; name that one in their file (reward: NAME), or leave one of the two out"
        )
    found = {name: aspect.to_dict() for name, aspect in read_aspects(aspects).items()}
    return {**env_kwargs, "reward": "aspects", "reward_kwargs": {"aspects": found}}


def has_limits(env_kwargs: Mapping[str, Any]) -> bool:
    """Return whether an environment's reward is aspects, one of which has a limit."""
    aspects = (env_kwargs.get("reward_kwargs") or {}).get("aspects") if env_kwargs.get("reward") == "aspects" else None
    return aspects is not None and any(aspect.weight is None for aspect in read_aspects(aspects).values())
