"""Constrain a reward: raise it while a cost keeps to a limit.

A fixed penalty needs nothing from here: `reward - 2 * toxicity` is one, and the cost is whatever comes out. A
`Constrained` reward states the limit of the cost instead, and training finds the penalty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.base import Reward
from rlhf_envs.rewards.scores import Columns, Scores, as_scores, combine
from rlhf_envs.rewards.shaping import as_reward
from rlhf_envs.rewards.state import walk

__all__ = ["Constrained", "find_constraints"]


class Constrained(Reward):
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

    Raises:
        ValueError: an argument is wrong.
    """

    reads_messages = True

    def __init__(
        self,
        reward: str | Callable[..., Any],
        cost: str | Callable[..., Any],
        limit: float,
        multiplier: float = 0.0,
        cost_name: str | None = None,
    ) -> None:
        self.reward, self.cost = as_reward(reward), as_reward(cost)
        if not math.isfinite(limit):
            raise ValueError(f"the limit of cost {self.cost.name!r} must be a finite number, got {limit!r}")
        if not (math.isfinite(multiplier) and multiplier >= 0):
            raise ValueError(f"the multiplier of cost {self.cost.name!r} must be at least 0, got {multiplier!r}")
        self.limit, self.multiplier = float(limit), float(multiplier)
        self.cost_name = cost_name or self.cost.name
        self.name = f"constrained_{self.reward.name}"

    def parts(self) -> tuple[Reward, ...]:
        """Return the reward and the cost."""
        return (self.reward, self.cost)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[Any]) -> np.ndarray:
        """Return the Lagrangian, (n,) float64."""
        return self.evaluate(prompts, completions, columns)[0]

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
        price = combine("*", self.multiplier, combine("-", costs, self.limit))
        total = combine("-", scores, price)
        return Scores(total.totals, {**components, **found}, total.tokens)

    def get_state(self) -> dict[str, Any]:
        """Return the multiplier."""
        return {"multiplier": self.multiplier}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the multiplier that `get_state` gave."""
        self.multiplier = float(state["multiplier"])


def find_constraints(reward_fn: Callable[..., Any]) -> list[Constrained]:
    """Return the constrained rewards that a reward is made of, the outermost first; none for a plain function."""
    found: list[Constrained] = []
    for _, reward in walk(reward_fn):
        if isinstance(reward, Constrained) and not any(reward is other for other in found):
            found.append(reward)
    return found
