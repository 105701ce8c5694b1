"""Keep a cost under a limit in a run of any algorithm: what `rlhf train --constraint COST --limit X` does.

The limits among the aspects of `rlhf train --aspects` get their prices in the same way.

The cost goes around the training environment's reward, and `LagrangeMultiplier`, which is among the run's callbacks,
finds its price. Evaluations have the reward alone, with the cost beside it as a judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_envs.rewards.aspects import aspect_limits
from rlhf_envs.rewards.base import Reward
from rlhf_envs.rewards.constraints import find_constraints
from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.rewards.shaping import as_reward

from ..algorithms.ppo_lagrangian import LagrangeMultiplier, constrain
from ..evaluation.evaluate import find_judges
from ..registry import describe, get_algorithm
from ..saving.run_paths import named_judges
from .config import TrainConfig

__all__ = ["constrain_environment", "find_cost", "find_held_out_judges", "find_multipliers", "find_run_judges"]


def constrain_environment(config: TrainConfig, env: Any) -> None:
    """Put the constraint of a run around the reward of its training environment.

    Raises:
        ValueError: the algorithm has a constraint of its own, there is no such cost, or the environment cannot have it.
    """
    assert config.limit is not None
    flag, cost = f"--constraint {config.constraint}", find_cost(config)
    if "cost" in describe(get_algorithm(config.algo)).defaults:
        raise ValueError(
            f"{flag}: {config.algo} has a constraint among its own arguments; take --algo ppo, or give -params cost:"
            f"{config.constraint} -params cost_limit:{config.limit:g}, multiplier_start and so on likewise"
        )
    if not env.has_attr("reward_fn"):
        raise ValueError(f"{flag}: {config.env} is no text environment, so it has no reward to put a cost into")
    known = [one.cost_name for reward_fn in env.get_attr("reward_fn") for one in find_constraints(reward_fn)]
    if cost.name in known:
        raise ValueError(f"{flag}: the environment's reward limits {cost.name!r} already; leave the flag out")
    constrain(env, cost, config.limit, multiplier=config.multiplier_start)


def find_multipliers(config: TrainConfig, agent: Any) -> list[LagrangeMultiplier]:
    """Return the callback that finds the prices of a run's constraint and of its aspects' limits; none without.

    Raises:
        ValueError: the configuration has a step for an algorithm that brings its own.
    """
    env = agent.get_env()
    limited = env.has_attr("reward_fn") and any(map(aspect_limits, env.get_attr("reward_fn")))
    own = "multiplier_step" in describe(get_algorithm(config.algo)).defaults  # it brings its callback
    given = {name: getattr(config, name) for name in ("multiplier_step", "multiplier_proportional")}
    if own:
        for name, value in given.items():
            if value != TrainConfig.model_fields[name].default:
                raise ValueError(f"{name}={value:g}: {config.algo} has one of its own; give -params {name}:{value:g}")
    found = LagrangeMultiplier(step=given["multiplier_step"], proportional=given["multiplier_proportional"])
    return [found] if config.constraint is not None or (limited and not own) else []


def find_run_judges(config: TrainConfig, folder: Path) -> dict[str, Any] | None:
    """Return the judges of --judge by the names that the run's folder has for them; None stands for the task's."""
    if config.judge is None:
        return None
    return {name: get_reward(judge) for name, judge in named_judges(folder, config.judge).items()}


def find_held_out_judges(config: TrainConfig, agent: Any, folder: Path) -> Mapping[str, Any] | None:
    """Return the judges of a run's evaluations: those of --judge, else the task's, and the cost of its constraint.

    None stands for the task's.
    """
    judges = find_run_judges(config, folder)
    if config.constraint is None:
        return judges
    cost = find_cost(config)
    return {**find_judges(agent.get_env().get_attr("task", 0)[0], judges), cost.name: cost}


def find_cost(config: TrainConfig) -> Reward:
    """Return the cost that a configuration names.

    Raises:
        ValueError: there is none of that name.
    """
    assert config.constraint is not None
    try:
        return as_reward(get_reward(config.constraint))
    except ValueError as error:
        raise ValueError(f"--constraint {config.constraint}: {error}") from error
