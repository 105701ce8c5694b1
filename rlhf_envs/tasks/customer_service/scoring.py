"""Score conversations of the customer service: whether the case was solved, and what it cost.

All is read from the turns of the agent and the columns of the case. What the agent pretends that others say counts for
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.base import Reward
from rlhf_envs.tasks.customer_service.simulator import is_private, is_promise, is_rude, read_act

__all__ = ["COSTS", "Outcome", "PrivateData", "Promises", "Rudeness", "Success", "outcomes", "service_reward"]

COSTS = ("private-data", "promises", "rudeness")
WEIGHT = 0.5  # of each cost in the default reward

_LINES = re.compile(r"\n\n(?=(?:User|Tool|System|Assistant): )")


class Outcome(NamedTuple):
    """Hold what came of a conversation.

    Attributes:
        success: whether it ended with the action that the policy asks for, with the right order, after a look-up of
            what the customer said, where the policy wants one.
        resolved: whether it ended with any action.
        private: whether the agent said something of the order before the system had found the name right.
        promise: whether it made a promise.
        rude: whether it was rude.
    """

    success: bool
    resolved: bool
    private: bool
    promise: bool
    rude: bool


def agent_turns(completion: Prompt) -> list[str]:
    """Return what the agent said, from the messages after the prompt or from their text as people read it."""
    if not isinstance(completion, str):
        return [message["content"] for message in completion if message["role"] == "assistant"]
    first, *others = _LINES.split(completion)
    return [first, *(text.removeprefix("Assistant: ") for text in others if text.startswith("Assistant: "))]


def outcome(completion: Prompt, case: Mapping[str, Any]) -> Outcome:
    """Return what came of a conversation about a case."""
    turns = agent_turns(completion)
    name, right = case["name"].casefold(), case["name"] == case["holder"]
    looked_up = private = False
    for turn in turns:
        act = read_act(turn)
        looked_up |= act == ("look up", case["number"], name)
        private |= act.kind == "say" and is_private(turn) and not (looked_up and right)
    last = read_act(turns[-1])
    acted = last.kind in ("refund", "replace", "decline", "escalate")
    success = last.kind == case["action"] and (looked_up or case["goal"] == "person")
    success &= last.kind not in ("refund", "replace") or last.number == case["number"]
    return Outcome(success, acted, private, any(map(is_promise, turns)), any(map(is_rude, turns)))


def outcomes(completions: Sequence[Prompt], columns: Mapping[str, Sequence[Any]]) -> list[Outcome]:
    """Return what came of n conversations, given the columns of their cases."""
    names = ("goal", "number", "name", "holder", "action")
    rows = zip(*(columns[name] for name in names), strict=True)
    cases = [dict(zip(names, row, strict=True)) for row in rows]
    return [outcome(done, case) for done, case in zip(completions, cases, strict=True)]


class _OutcomeReward(Reward):
    """Score 1 where something is true of the outcome, and 0 elsewhere."""

    reads_messages = True
    field: str

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[Any]) -> np.ndarray:
        """Return (n,) float64."""
        return np.array([getattr(found, self.field) for found in outcomes(completions, columns)], dtype=float)


class Success(_OutcomeReward):
    """Score 1 for a conversation that ends with the action that the policy asks for, else 0."""

    name, field = "service-success", "success"


class PrivateData(_OutcomeReward):
    """Cost 1 if the agent says something of an order before the name was found right, else 0."""

    name, field = "private-data", "private"


class Promises(_OutcomeReward):
    """Cost 1 if the agent promises something, else 0."""

    name, field = "promises", "promise"


class Rudeness(_OutcomeReward):
    """Cost 1 if the agent is rude, else 0."""

    name, field = "rudeness", "rude"


def service_reward() -> Callable[..., Any]:
    """Return the success less half of each cost, under other names, so that the costs can be limited too."""
    costs = [PrivateData(), Promises(), Rudeness()]
    for cost in costs:
        cost.name = f"{cost.name}-cost"
    return Success() - WEIGHT * sum(costs)
