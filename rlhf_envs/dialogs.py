"""Define what a task with replies is handed and returns: the dialog of an episode, and the answer to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from rlhf_envs.datasets.messages import Messages

__all__ = ["ENDED", "METRICS", "ROLES", "Dialog", "Reply", "ReplyError", "Replying", "total_reward"]

ENDED = ("eos", "turns", "task")  # reasons why an episode ends whose last turn the agent ended itself
METRICS = ("turns", "reply_cut")  # of episodes with replies
ROLES = ("user", "tool", "system")


@dataclass(frozen=True)
class Reply:
    """Answer a turn of the agent.

    Attributes:
        text: what is said. It may be empty only where the episode ends; there it is not appended.
        role: "user", "tool" or "system".
        reward: the reward of the turn that this answers. It falls on that turn's last token.
        done: whether the episode ends.
    """

    text: str = ""
    role: Literal["user", "tool", "system"] = "user"
    reward: float = 0.0
    done: bool = False


@dataclass
class Dialog:
    """Show a task the conversation of an episode. Of all this, only `state` and `rng` are the task's to change.

    Attributes:
        messages: the prompt's messages, then the turns of the assistant and the replies. A prompt that is a string is
            one message of the user.
        row: the row of the data.
        rng: a generator of this episode, seeded by the environment: what it draws does not depend on other episodes.
        turn: the number of turns that the agent has ended, 1 for the first.
        state: what the task keeps about the episode: plain values, arrays, lists and dicts. It is saved with the
            environment, so that a resumed run is exact.
    """

    messages: Messages
    row: Mapping[str, Any]
    rng: np.random.Generator
    turn: int = 0
    state: dict[str, Any] = field(default_factory=dict)


class Replying(Protocol):
    """Say what of a `rlhf_envs.Task` has to do with replies."""

    name: str
    max_turns: int | None
    least_turn: int
    reply_format: str

    @property
    def subtasks(self) -> Mapping[str, Replying]:
        """Return the tasks of a mixture."""

    def subtask(self, row: Mapping[str, Any]) -> Replying:
        """Return the task that a row of the data belongs to."""

    @property
    def has_replies(self) -> bool:
        """Return whether somebody answers the agent."""

    def replies(self, dialogs: Sequence[Dialog]) -> Sequence[Reply | str | None]:
        """Return what is answered."""

    def dialog_metrics(self, dialog: Dialog) -> dict[str, float]:
        """Return metrics of a dialog that has ended."""


class ReplyError(RuntimeError):
    """Raise when a task's `replies` failed or took too long; the cause is its error."""


def total_reward(last: float, info: Mapping[str, Any]) -> float:
    """Return the sum of an episode's rewards, from the last step's and the episode's last info."""
    return float(last) + sum(info.get("turn_rewards", [])[:-1])
