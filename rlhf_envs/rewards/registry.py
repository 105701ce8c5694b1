"""Reward functions by name, imported when first asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["get_reward", "list_rewards", "register_reward"]

_targets: dict[str, str | Callable[..., Any]] = {
    "tiny-reward": "rlhf_envs.rewards.reward_model:RewardModel",
    "gold": "rlhf_envs.rewards.judge:gold",
    "increasing-numbers": "rlhf_envs.rewards.rules:IncreasingNumbersReward",
    "token-bandit": "rlhf_envs.rewards.rules:TokenBanditReward",
}
_made: dict[str, Callable[..., Any]] = {}


def register_reward(name: str, target: str | Callable[..., Any]) -> None:
    """Give a reward function a name, by which `reward=name` finds it.

    Args:
        name: the name; an existing one is replaced.
        target: a reward function, or a factory of one (a class or a function that needs no argument), itself or as
            `"module:attribute"`, which is imported when the reward is first asked for.
    """
    if not name or ":" in name:
        raise ValueError(f"a reward's name must be non-empty and without ':', got {name!r}")
    _targets[name] = target
    _made.pop(name, None)


def get_reward(name: str) -> Callable[..., Any]:
    """The reward function of that name, or at that `"module:attribute"`; made once and then kept.

    Raises:
        ValueError: the name is unknown (the message lists those that exist) or there is nothing at the address.
    """
    if name not in _made:
        if name not in _targets and ":" not in name:
            raise ValueError(
                f"unknown reward {name!r}; there are {', '.join(list_rewards())}; or give 'module:attribute', or "
                "pass a callable as reward_fn"
            )
        _made[name] = _resolve(name, _targets.get(name, name))
    return _made[name]


def list_rewards() -> list[str]:
    """The registered names, sorted."""
    return sorted(_targets)


def _resolve(name: str, target: str | Callable[..., Any]) -> Callable[..., Any]:
    found: Any = target
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ModuleNotFoundError, AttributeError) as error:
            raise ValueError(f"reward {name!r}: there is no {attribute!r} in {module!r} ({error})") from error
    reward: Callable[..., Any] = found() if _is_factory(found) else found
    if not callable(reward):
        raise ValueError(f"reward {name!r} is {reward!r}, which cannot be called with prompts and completions")
    return reward


def _is_factory(target: Any) -> bool:
    """Whether it is called to get the reward function: a class, or a callable that needs no argument."""
    if inspect.isclass(target):
        return True
    if not callable(target):
        return False
    parameters = inspect.signature(target).parameters.values()
    return all(parameter.default is not parameter.empty for parameter in parameters)
