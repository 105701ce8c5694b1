"""Constrain a reward: raise it while a cost keeps to a limit.

A fixed penalty needs nothing from here: `reward - 2 * toxicity` is one, and the cost is whatever comes out. A
`Constrained` reward states the limit of the cost instead, and training finds the penalty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.base import Reward, RewardOfRewards
from rlhf_envs.rewards.scores import Columns, Scores, as_scores, combine
from rlhf_envs.rewards.shaping import as_reward
from rlhf_envs.rewards.state import walk

__all__ = ["Constrained", "find_constraints"]


class Constrained(RewardOfRewards):
    """Score `r - multiplier * (c - limit)`: the Lagrangian of a reward whose mean cost is to stay at or below a limit.

    By itself the multiplier is fixed. `agents.LagrangeMultiplier` raises it while the cost is above the limit and
    lowers it while the cost is below (Altman 1999, "Constrained Markov Decision Processes", section 5; Ray et
    al. 2019, "Benchmarking Safe Exploration in Deep Reinforcement Learning"; for language models Dai et al. 2023, "Safe
    RLHF", https://arxiv.org/abs/2310.12773). The multiplier is part of an environment's state, so that a resumed
    run goes on exactly.

    It reports the components of the reward and of the cost, and the cost itself under `cost_name`.

    Args:
        reward: the reward to maximise: a reward, a reward function or a registered reward's name.
        cost: the cost to limit, given likewise; higher is worse.
        limit: the limit of the mean cost per episode.
        multiplier: the first multiplier, at least 0.
        cost_name: the cost's component; its own name by default.
        at_least: whether the cost is a score, higher is better, and the limit the lowest that its mean may be.

    Raises:
        ValueError: an argument is wrong.
    """

    def __init__(
        self,
        reward: str | Callable[..., Any],
        cost: str | Callable[..., Any],
        limit: float,
        multiplier: float = 0.0,
        cost_name: str | None = None,
        at_least: bool = False,
    ) -> None:
        self.reward, self.cost = as_reward(reward), as_reward(cost)
        if not math.isfinite(limit):
            raise ValueError(f"the limit of cost {self.cost.name!r} must be a finite number, got {limit!r}")
        if not (math.isfinite(multiplier) and multiplier >= 0):
            raise ValueError(f"the multiplier of cost {self.cost.name!r} must be at least 0, got {multiplier!r}")
        self.limit, self.multiplier = float(limit), float(multiplier)
        self.integral: float | None = None  # the multiplier without its proportional term, kept by what sets it
        self.cost_name, self.at_least = cost_name or self.cost.name, at_least
        self.name = f"constrained_{self.reward.name}"

    def parts(self) -> tuple[Reward, ...]:
        """Return the reward and the cost."""
        return (self.reward, self.cost)

    def excess(self, mean: float) -> float:
        """Return how far a mean of the cost is beyond the limit; below 0 where it keeps to it."""
        return self.limit - mean if self.at_least else mean - self.limit

    def evaluate(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns) -> Scores:
        """Return the Lagrangian, and the unweighted components of the reward and of the cost."""
        scores = as_scores(self.reward.evaluate(prompts, completions, columns))
        costs = as_scores(self.cost.evaluate(prompts, completions, columns))
        components, found = scores.components, {**costs.components, self.cost_name: costs.totals}
        if twice := sorted(components.keys() & found.keys()):
            raise ValueError(
                f"the reward {self.reward.name!r} and the cost {self.cost.name!r} both report {twice[0]!r}: give one "
                "of them another name (name=... of a FunctionReward, cost_name=... of Constrained)"
            )
        beyond = combine("-", self.limit, costs) if self.at_least else combine("-", costs, self.limit)
        price = combine("*", self.multiplier, beyond)
        total = combine("-", scores, price)
        return Scores(total.totals, {**components, **found}, total.tokens)

    def get_state(self) -> dict[str, Any]:
        """Return the multiplier, and the part of it that sums up the violations so far."""
        return {"multiplier": self.multiplier, "integral": self.integral}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `get_state` gave."""
        self.multiplier, self.integral = float(state["multiplier"]), state.get("integral")


def find_constraints(reward_fn: Callable[..., Any]) -> list[Constrained]:
    """Return the constrained rewards that a reward is made of, the outermost first; none for a plain function."""
    found: list[Constrained] = []
    for _, reward in walk(reward_fn):
        if isinstance(reward, Constrained) and not any(reward is other for other in found):
            found.append(reward)
    return found
