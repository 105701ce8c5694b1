"""Rewards that learn from what they score (running statistics, a memory): how that is kept, and kept still."""

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
    """Within it rewards score by what they know and learn nothing: evaluations leave a run as it was."""
    token = _frozen.set(True)
    try:
        yield
    finally:
        _frozen.reset(token)


def is_frozen() -> bool:
    """Whether a reward must not learn from the texts it scores now."""
    return _frozen.get()


def walk(reward_fn: Callable[..., Any], at: str = "") -> Iterator[tuple[str, Reward]]:
    """A reward and all that it is made of, each with its place, such as "/Composed/0/Whitened"; a function has none."""
    if isinstance(reward_fn, Reward):
        place = f"{at}/{type(reward_fn).__name__}"
        yield place, reward_fn
        for i, part in enumerate(reward_fn.parts()):
            yield from walk(part, f"{place}/{i}")


def get_reward_state(reward_fn: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """What a reward and its parts have learned, by place."""
    states = {place: reward.get_state() for place, reward in walk(reward_fn)}
    return {place: state for place, state in states.items() if state}


def set_reward_state(reward_fn: Callable[..., Any], states: Mapping[str, Mapping[str, Any]]) -> None:
    """Go on from a state of `get_reward_state`; where the reward is made otherwise now, that part begins anew."""
    here = dict(walk(reward_fn))
    for place, state in states.items():
        if place in here:
            here[place].set_state(state)
        else:
            logger.warning("the saved state of the reward at %s has no place in the reward given now: left out", place)
