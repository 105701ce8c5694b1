"""Train with PPO under limits on costs: the algorithm, and the callback that finds the multipliers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from rlhf_envs.rewards.constraints import Constrained, find_constraints

from ..core import ranks
from .common.text_agent import with_callback
from .ppo import PPO

__all__ = ["LagrangeMultiplier", "PPOLagrangian", "constrain"]


def constrain(
    env: Any,
    cost: str | Callable[..., Any],
    limit: float,
    indices: Sequence[int] | None = None,
    multiplier: float = 0.0,
) -> None:
    """Put a `Constrained` around the reward of an SB3 environment's rows. Rows of one reward share its multiplier.

    Args:
        env: an SB3 `VecEnv` whose environments have a `reward_fn`.
        cost, limit, multiplier: as in `Constrained`.
        indices: the rows; all by default.
    """
    rewards = env.get_attr("reward_fn")
    made: dict[int, Constrained] = {}  # by the reward inside
    for index in range(len(rewards)) if indices is None else indices:
        if id(rewards[index]) not in made:
            made[id(rewards[index])] = Constrained(rewards[index], cost, limit, multiplier)
        env.env_method("set_reward_fn", made[id(rewards[index])], indices=[index])


class LagrangeMultiplier(BaseCallback):
    """Find the multiplier of a constraint by projected dual ascent, while any agent learns.

    Once per rollout, `multiplier = max(0, multiplier + step * (mean cost - limit))`, with the difference the other way
    round where the limit is the least of a score (`at_least`). The cost is the mean over the
    episodes that ended in the rollout. The next rollout's episodes are scored with the new multiplier. Ascent
    integrates the violation, so the cost swings about its limit before it settles; it swings the more, the larger
    `step` is against what the policy learns per rollout. It settles sooner if the first multiplier is near the last
    one (`Constrained(..., multiplier=2.0)`), and swings less with `proportional`, which makes the multiplier `max(0,
    sum of the above + proportional * (mean cost - limit))`: a proportional-integral controller (Stooke et al. 2020,
    "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods", https://arxiv.org/abs/2007.03964; without
    their derivative term and smoothing). The sum is kept apart: summing up multipliers that were cut off at 0 would
    let the noise of the costs drive them up. Multipliers and sums are part of the environment's state, so a run
    resumes exactly although this callback saves nothing.

    It logs `rlhf/lagrange_multiplier` and `rlhf/cost`, with the cost's name appended if there are several constraints.

    Args:
        constrained: the constraint whose multiplier is set; by default all in the training environment's reward.
        step: how far the multiplier moves per rollout for a cost 1 above its limit.
        proportional: how much higher it is beside that after a rollout whose cost is 1 above its limit, for the next
            rollout alone. Five to ten times `step` damps the swings: the policy takes about as many rollouts to follow.
        highest: upper bound of the multiplier. A constraint that cannot be met would drive it up for ever.

    Raises:
        ValueError: `step` or `highest` is not above 0, or `proportional` below 0; when training starts, the
            environment's reward has no constraint or two whose costs have one name.
    """

    def __init__(
        self,
        constrained: Constrained | None = None,
        step: float = 0.1,
        highest: float = 100.0,
        proportional: float = 0.0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if not (math.isfinite(proportional) and proportional >= 0):
            raise ValueError(f"proportional must be a number of at least 0, got {proportional!r}")
        for name, value in (("step", step), ("highest", highest)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a number above 0, got {value!r}")
        self._given = constrained
        self.step, self.highest, self.proportional = step, highest, proportional
        self.constraints: dict[str, list[Constrained]] = {}  # by cost name, one per environment that has its own
        self._ended: list[Mapping[str, Any]] = []  # the infos of the episodes that ended in this rollout

    def _on_training_start(self) -> None:
        self.constraints = self._find() if self._given is None else {self._given.cost_name: [self._given]}
        self._reported: set[str] = set()  # the components of all episodes so far

    def _find(self) -> dict[str, list[Constrained]]:
        constraints: dict[str, list[Constrained]] = {}
        for reward_fn in self.training_env.get_attr("reward_fn"):
            found = find_constraints(reward_fn)
            names = [constrained.cost_name for constrained in found]
            if len(set(names)) < len(names):
                raise ValueError(f"the constraints limit costs of one name ({', '.join(names)}): give each a cost_name")
            for constrained in found:
                known = constraints.setdefault(constrained.cost_name, [])
                if not any(constrained is other for other in known):
                    known.append(constrained)
        if not constraints:
            raise ValueError(
                "the training environment's reward has no constraint: make it with "
                "reward_fn=Constrained(reward, cost, limit)"
            )
        return constraints

    def _on_rollout_start(self) -> None:
        self._ended = []

    def _on_step(self) -> bool:
        self._ended += [self.locals["infos"][row] for row in np.flatnonzero(np.asarray(self.locals["dones"], bool))]
        return True

    def _on_rollout_end(self) -> None:
        reported = [info.get("reward_components", {}) for info in self._ended]
        self._reported.update(*reported)
        for name, constraints in self.constraints.items():
            if self._reported and name not in self._reported:
                raise ValueError(
                    f"the environment reports no cost {name!r} (its reward components are "
                    f"{', '.join(map(repr, sorted(self._reported)))}): is its reward_fn the constrained one?"
                )
            tail = f"_{name}" if len(self.constraints) > 1 else ""
            multiplier = constraints[0].multiplier
            # A rollout shorter than an episode may end none, and a cost may apply to none.
            own = [components[name] for components in reported if name in components]
            if costs := [cost for part in ranks.everywhere(own) for cost in part]:
                cost = float(np.mean(costs))
                excess, integral = constraints[0].excess(cost), constraints[0].integral
                if integral is None or not self.proportional:
                    integral = multiplier
                integral = min(max(integral + self.step * excess, 0.0), self.highest)
                multiplier = min(max(integral + self.proportional * excess, 0.0), self.highest)
                for constrained in constraints:
                    constrained.integral = integral
                self.logger.record(f"rlhf/cost{tail}", cost)
            for constrained in constraints:
                constrained.multiplier = multiplier
            self.logger.record(f"rlhf/lagrange_multiplier{tail}", multiplier)


def _check_costs(costs: Any, cost: Any) -> None:
    """Raise a ValueError unless `costs` has limits by names, and stands alone."""
    if not isinstance(costs, Mapping) or not costs or not all(isinstance(name, str) for name in costs):
        raise ValueError(f"costs={costs!r}: expected limits by the names of costs, such as {{'repetition': 0.1}}")
    if wrong := [
        name for name, limit in costs.items() if isinstance(limit, bool) or not isinstance(limit, int | float)
    ]:
        raise ValueError(f"costs: the limit of {wrong[0]!r} is {costs[wrong[0]]!r}; it must be a number")
    if cost is not None:
        raise ValueError(f"cost={cost!r} beside costs={costs!r}: put all limits into costs")


class PPOLagrangian(PPO):
    """Train with PPO under limits on one or more costs (PPO-Lagrangian).

    Papers: Ray et al. 2019, "Benchmarking Safe Exploration in Deep Reinforcement Learning",
    https://cdn.openai.com/safexp-short.pdf; for language models Dai et al. 2023, "Safe RLHF: Safe Reinforcement
    Learning from Human Feedback", https://arxiv.org/abs/2310.12773. PPO maximises `reward - multiplier * (cost -
    limit)`, with one such term per cost, and dual ascent moves each multiplier once per rollout: up while the mean
    cost is above its limit, down while it is below (`rlhf_envs.rewards.Constrained`, `agents.LagrangeMultiplier`).

    Departures: there is one critic, for reward and costs together, and not one each. The multiplier is not optimised by
    Adam. The objective is not rescaled by `1 / (1 + multiplier)`: advantages are normalised, which does the same.

    When to use it: where a completion must stay below a limit, for example of toxicity or repetition, on average. While
    the cost stays below its limit by itself, the multiplier is 0 and this is `ppo`.

    The environment's `reward_fn` becomes the constrained one, and stays so: give another agent another environment.

    Args:
        cost: a registered reward's name or a reward function, higher is worse; None if the environment's reward is a
            `Constrained` already.
        cost_limit: limit of the mean cost per episode.
        multiplier_step: how far a multiplier moves per rollout for a cost 1 above its limit.
        multiplier_proportional: how much higher it is beside that after a rollout whose cost is 1 above its limit:
            against swings of the cost about its limit, see `agents.LagrangeMultiplier`.
        costs: limits of several costs by their registered names, such as `{"repetition": 0.05, "toxicity": 0.1}`,
            instead of the two. Each cost gets a multiplier of its own.
        multiplier_start: the first multiplier of each cost that is given here. A cost far above its limit comes down
            sooner with a start near the multiplier that holds it there, and swings less than with a larger step. An
            environment whose reward is constrained already keeps its own multipliers.

    Defaults: `cost=None`, `cost_limit=None`, `multiplier_step=0.1`, `costs=None`, `multiplier_start=0.0`,
    `multiplier_proportional=0.0`. All other arguments and defaults are as in `PPO`.

    Raises:
        ValueError: there is no cost, or one without a limit, or the environment's reward is constrained by another;
            `multiplier_step` is not above 0, or `multiplier_start` or `multiplier_proportional` below 0.
    """

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        cost: Any = None,
        cost_limit: float | None = None,
        multiplier_step: float = 0.1,
        costs: Mapping[str, float] | None = None,
        multiplier_start: float = 0.0,
        multiplier_proportional: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if (cost is None) != (cost_limit is None):
            raise ValueError(f"cost={cost!r} with cost_limit={cost_limit}: a constraint is a cost and its limit")
        if costs is not None:
            _check_costs(costs, cost)
        self.cost, self.cost_limit, self.costs, self.multiplier_step = cost, cost_limit, costs, multiplier_step
        self.multiplier_proportional = multiplier_proportional
        LagrangeMultiplier(**self._controller)  # raises at once if an argument is wrong
        if not (math.isfinite(multiplier_start) and multiplier_start >= 0):
            raise ValueError(f"multiplier_start must be a number of at least 0, got {multiplier_start!r}")
        self.multiplier_start = float(multiplier_start)
        super().__init__(policy, env, learning_rate, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        assert self.env is not None
        found = [find_constraints(reward_fn) for reward_fn in self.env.get_attr("reward_fn")]
        for constraints in filter(None, found):
            self._check_same(constraints)
        if all(found):
            return
        if not self._limits:
            raise ValueError(
                "ppo_lagrangian needs a constraint: give it cost='repetition' and cost_limit=0.1, several by "
                "costs={'repetition': 0.1, ...}, or an environment whose reward_fn is Constrained(reward, cost, limit)"
            )
        free = [index for index, constraints in enumerate(found) if not constraints]
        for cost, limit in self._limits:
            constrain(self.env, cost, limit, free, self.multiplier_start)

    @property
    def _controller(self) -> dict[str, Any]:
        return {"step": self.multiplier_step, "proportional": self.multiplier_proportional}

    @property
    def _limits(self) -> list[tuple[Any, float]]:
        """Return the costs and their limits; none if the environment has them."""
        return [*(self.costs or {}).items()] or (
            [] if self.cost is None else [(self.cost, float(self.cost_limit or 0))]
        )

    def _check_same(self, found: Sequence[Constrained]) -> None:
        """Refuse a cost that is not among the constraints that the environment has already."""
        theirs = [(one.cost.name, one.limit) for one in found]
        for cost, limit in self._limits:
            mine = Constrained(found[0].reward, cost, limit)
            if (mine.cost.name, mine.limit) not in theirs:
                known = " and ".join(f"{name!r} with the limit {limit}" for name, limit in theirs)
                raise ValueError(
                    f"cost={cost!r} with cost_limit={limit}: the environment's reward is constrained already, by "
                    f"{known}; leave both out to take that"
                )

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callback = with_callback(callback, LagrangeMultiplier, **self._controller)
        return super()._init_callback(callback, progress_bar)
