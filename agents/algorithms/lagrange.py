"""The multiplier of a constraint, found while the agent learns."""

from __future__ import annotations

import math

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from rlhf_envs.rewards.constraints import Constrained, find_constraints

__all__ = ["LagrangeMultiplier"]


class LagrangeMultiplier(BaseCallback):
    """Projected dual ascent, once a rollout: `multiplier = max(0, multiplier + step * (mean cost - limit))`.

    The cost is the mean over the episodes that ended in the rollout; the next rollout's episodes are scored with the
    new multiplier. Ascent integrates the violation, so that the cost swings about its limit before it settles: the
    more, the larger the step is against what the policy learns a rollout. The multipliers are in the environment's
    state, so a run goes on exactly without any state of this.

    Logged: `rlhf/lagrange_multiplier` and `rlhf/cost`; with several constraints, each with its cost's name behind.

    Args:
        constrained: the constraint whose multiplier is set; by default every `Constrained` in the reward of the
            training environment.
        step: how far the multiplier moves a rollout for a cost 1 above its limit.
        highest: the multiplier stays below; a constraint that cannot be met would drive it up for ever.

    Raises:
        ValueError: an argument is wrong; when training starts, that the environment's reward has no constraint.
    """

    def __init__(
        self,
        constrained: Constrained | None = None,
        step: float = 0.1,
        highest: float = 100.0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        for name, value in (("step", step), ("highest", highest)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a number above 0, got {value!r}")
        self._given = constrained
        self.step, self.highest = step, highest
        self.constraints: dict[str, list[Constrained]] = {}  # by the cost's name, one for each environment with its own
        self._costs: dict[str, list[float]] = {}  # of the episodes that ended in this rollout

    def _on_training_start(self) -> None:
        self.constraints = self._find() if self._given is None else {self._given.cost_name: [self._given]}
        self._costs = {name: [] for name in self.constraints}

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

    def _on_step(self) -> bool:
        for row in np.flatnonzero(np.asarray(self.locals["dones"], bool)):
            components = self.locals["infos"][row].get("reward_components", {})
            for name, costs in self._costs.items():
                if name not in components:
                    raise ValueError(
                        f"the environment reports no cost {name!r} (its reward components are "
                        f"{', '.join(map(repr, components)) or 'none'}): is its reward_fn the constrained one?"
                    )
                costs.append(components[name])
        return True

    def _on_rollout_end(self) -> None:
        for name, constraints in self.constraints.items():
            tail = f"_{name}" if len(self.constraints) > 1 else ""
            multiplier = constraints[0].multiplier
            if self._costs[name]:  # a rollout shorter than an episode may end none
                cost = float(np.mean(self._costs[name]))
                multiplier = min(max(multiplier + self.step * (cost - constraints[0].limit), 0.0), self.highest)
                self._costs[name] = []
                self.logger.record(f"rlhf/cost{tail}", cost)
            for constrained in constraints:
                constrained.multiplier = multiplier
            self.logger.record(f"rlhf/lagrange_multiplier{tail}", multiplier)
