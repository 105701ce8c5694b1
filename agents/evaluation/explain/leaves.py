"""Take a composed reward apart: its parts, and what each is multiplied by."""

from __future__ import annotations

from typing import Any, NamedTuple

from rlhf_envs.rewards import Constrained, Reward
from rlhf_envs.rewards.aspects import AspectReward
from rlhf_envs.rewards.base import Composed

__all__ = ["TOTAL", "Leaf", "leaves_of", "name_of", "refuse_people"]

TOTAL = "reward"  # the name of the whole reward among its components
PEOPLE = "rlhf_envs.rewards.human"


class Leaf(NamedTuple):
    """Hold a part of a reward with what it is multiplied by; None where the reward is no weighted sum."""

    name: str
    reward: Any
    weight: float | None


def name_of(reward: Any) -> str:
    """Return the name of a reward, or of the function that it is."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", type(reward).__name__))


def refuse_people(reward: Any) -> None:
    """Raise ValueError if a reward, or a part of it, asks people."""
    if type(reward).__module__.startswith(PEOPLE):
        raise ValueError(f"the reward {name_of(reward)!r} asks people, who would be asked once per token: give another")
    for part in reward.parts() if isinstance(reward, Reward) else ():
        refuse_people(part)


def leaves_of(reward: Any) -> tuple[list[Leaf], float]:
    """Return the parts of a composed reward, each once, and the constant that is added to their weighted sum."""
    weights: dict[int, float | None] = {}
    rewards: dict[int, Any] = {}

    def walk(operand: Any, factor: float | None) -> float:
        if isinstance(operand, AspectReward):
            return walk(operand.whole, factor)
        if isinstance(operand, Constrained):
            price = None if factor is None else factor * operand.multiplier * (1 if operand.at_least else -1)
            return walk(operand.reward, factor) + walk(operand.cost, price) - (price or 0.0) * operand.limit
        if not isinstance(operand, Composed):
            if isinstance(operand, int | float):
                return 0.0 if factor is None else factor * operand
            rewards[id(operand)] = operand
            known = weights.get(id(operand), 0.0)
            weights[id(operand)] = None if known is None or factor is None else known + factor
            return 0.0
        left, right = operand.left, operand.right
        if operand.operator != "*":
            sign = -1.0 if operand.operator == "-" else 1.0
            return walk(left, factor) + walk(right, None if factor is None else sign * factor)
        numbers = [side for side in (left, right) if isinstance(side, int | float)]
        if not numbers:
            return walk(left, None) + walk(right, None)
        scaled = None if factor is None else factor * numbers[0]
        return walk(left if numbers[0] is right else right, scaled)

    constant = walk(reward, 1.0)
    leaves: list[Leaf] = []
    for key, part in rewards.items():
        name, n = name_of(part), 2
        taken = {TOTAL, *(leaf.name for leaf in leaves)}
        while name in taken:
            name, n = f"{name_of(part)}#{n}", n + 1
        leaves.append(Leaf(name, getattr(part, "function", part), weights[key]))
    return leaves, constant
