"""PPO under a constraint on a cost.

Paper: Ray et al. 2019, "Benchmarking Safe Exploration in Deep Reinforcement Learning" (PPO-Lagrangian); for language
models Dai et al. 2023, "Safe RLHF", https://arxiv.org/abs/2310.12773. PPO maximises `reward - multiplier * (cost -
limit)`, and dual ascent moves the multiplier once a rollout: up while the mean cost is above the limit, down while it
is below (`rlhf_envs.rewards.Constrained`, `agents.LagrangeMultiplier`).

Departures: one critic for the Lagrangian and not one each for reward and cost; the multiplier is not under Adam, and
the objective is not rescaled by `1 / (1 + multiplier)`: advantages are normalised, which does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from rlhf_envs.rewards.constraints import Constrained, find_constraints

from ..core.policy import TokenPolicy
from .common.text_agent import beside
from .lagrange import LagrangeMultiplier
from .ppo import PPO

__all__ = ["PPOLagrangian"]


class PPOLagrangian(PPO):
    """`PPO` whose reward is constrained, with the callback that finds the multiplier.

    The environment's `reward_fn` becomes the constrained one, and stays so: give another agent another environment.

    Args:
        cost: a registered reward's name (or a reward function), higher is worse; None where the environment's reward is
            a `Constrained` already.
        cost_limit: of the mean cost an episode.
        multiplier_step: how far the multiplier moves a rollout for a cost 1 above its limit.

    The other arguments are those of `PPO`.

    Raises:
        ValueError: there is no cost, or one without a limit, or the environment's reward has another one already.
    """

    def __init__(
        self,
        policy: Any = TokenPolicy,
        env: Any = None,
        cost: Any = None,
        cost_limit: float | None = None,
        multiplier_step: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if (cost is None) != (cost_limit is None):
            raise ValueError(f"cost={cost!r} with cost_limit={cost_limit}: a constraint is a cost and its limit")
        self.cost, self.cost_limit, self.multiplier_step = cost, cost_limit, multiplier_step
        LagrangeMultiplier(step=multiplier_step)  # says now what is wrong with it
        super().__init__(policy, env, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        assert self.env is not None
        made: dict[int, Constrained] = {}  # by the reward inside: environments that share one share its multiplier
        for index, reward_fn in enumerate(self.env.get_attr("reward_fn")):
            if found := find_constraints(reward_fn):
                self._check_same(found)
                continue
            if self.cost is None or self.cost_limit is None:
                raise ValueError(
                    "ppo_lagrangian needs a constraint: give it cost='repetition' and cost_limit=0.1, or an "
                    "environment whose reward_fn is Constrained(reward, cost, limit)"
                )
            if id(reward_fn) not in made:
                made[id(reward_fn)] = Constrained(reward_fn, self.cost, self.cost_limit)
            self.env.env_method("set_reward_fn", made[id(reward_fn)], indices=[index])

    def _check_same(self, found: Sequence[Constrained]) -> None:
        """Refuse a cost beside others that the environment has already."""
        if self.cost is None:
            return
        mine = Constrained(found[0].reward, self.cost, self.cost_limit or 0.0)
        theirs = [(one.cost.name, one.limit) for one in found]
        if (mine.cost.name, mine.limit) not in theirs:
            known = " and ".join(f"{name!r} with the limit {limit}" for name, limit in theirs)
            raise ValueError(
                f"cost={self.cost!r} with cost_limit={self.cost_limit}: the environment's reward is constrained "
                f"already, by {known}; leave both out to take that"
            )

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback(beside(callback, LagrangeMultiplier, step=self.multiplier_step), progress_bar)
