"""Save, restore and freeze what rewards learn from the texts they score (running statistics, a memory)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rlhf_envs.rewards.base import Reward

__all__ = ["frozen_rewards", "get_reward_state", "is_frozen", "set_reward_state", "walk"]

logger = logging.getLogger(__name__)

_frozen: ContextVar[bool] = ContextVar("_frozen", default=False)


@contextmanager
def frozen_rewards() -> Iterator[None]:
    """Keep rewards from learning inside this block, so that evaluations leave a run as it was."""
    token = _frozen.set(True)
    try:
        yield
    finally:
        _frozen.reset(token)


def is_frozen() -> bool:
    """Return whether a reward must not learn from the texts it scores now."""
    return _frozen.get()


def walk(reward_fn: Callable[..., Any], at: str = "") -> Iterator[tuple[str, Reward]]:
    """Yield a reward and all its parts, each with its place, such as "/Composed/0/Whitened"; nothing for a function."""
    if isinstance(reward_fn, Reward):
        place = f"{at}/{type(reward_fn).__name__}"
        yield place, reward_fn
        for i, part in enumerate(reward_fn.parts()):
            yield from walk(part, f"{place}/{i}")


def get_reward_state(reward_fn: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Return what a reward and its parts have learned, by place."""
    states = {place: reward.get_state() for place, reward in walk(reward_fn)}
    return {place: state for place, state in states.items() if state}


def set_reward_state(reward_fn: Callable[..., Any], states: Mapping[str, Mapping[str, Any]]) -> None:
    """Go on from a state that `get_reward_state` gave; a part that has no state in it begins anew."""
    here = dict(walk(reward_fn))
    for place, state in states.items():
        if place in here:
            here[place].set_state(state)
        else:
            logger.warning("the saved state of the reward at %s has no place in the reward given now: left out", place)
