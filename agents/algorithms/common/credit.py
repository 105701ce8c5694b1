"""Credit rewards to the turns of a dialog: what is still to come from a turn on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch

__all__ = ["Credit", "Turns", "check_credit", "turn_numbers"]

Credit = Literal["episode", "turn"]


def check_credit(credit: Credit) -> Credit:
    """Return "episode" or "turn"; raise ValueError for anything else."""
    if credit not in ("episode", "turn"):
        raise ValueError(f"credit={credit!r}: expected 'episode' or 'turn'")
    return credit


class Turns(NamedTuple):
    """Hold the returns of n actions by turn. The agent's next turn begins where tokens that are not its own stand.

    Turn k of an episode is credited with the rewards of turn k and of all later turns, as by Zeng et al. 2025,
    "Reinforcing Multi-Turn Reasoning in LLM Agents via Turn-Level Credit Assignment", https://arxiv.org/abs/2505.11821.
    Baselines are taken turn by turn. An episode that is over has no return to come: it counts as 0 in later turns.

    Attributes:
        returns: (episodes, most turns) float64, the sum of an episode's rewards from each turn on.
        episodes: (n,) int64, the episode of each action.
        numbers: (n,) int64, its turn in the episode, from 0.
    """

    returns: np.ndarray
    episodes: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, rewards: np.ndarray, episodes: np.ndarray, columns: np.ndarray) -> Turns:
        """Return the turns of actions in order of episodes, from their rewards and columns; `(n, 1)` each."""
        turns = turn_numbers(*(torch.as_tensor(array[:, 0]) for array in (episodes, columns))).numpy()
        first = np.searchsorted(episodes[:, 0], episodes[:, 0])  # the first action of its episode
        numbers = turns - turns[first]
        sums = np.zeros((episodes.max() + 1, numbers.max() + 1))
        np.add.at(sums, (episodes[:, 0], numbers), rewards[:, 0])
        return cls(np.flip(np.flip(sums, 1).cumsum(axis=1), 1), episodes[:, 0], numbers)

    def spread(self, table: np.ndarray) -> np.ndarray:
        """Give each action the value of its turn, `(n, 1)`, from a table in the shape of `returns`."""
        return np.asarray(table[self.episodes, self.numbers])[:, None]

    def compared(self, compare: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the advantages of the actions, `(n, 1)`; `compare` turns scores of episodes into advantages."""
        return self.spread(np.stack([compare(column) for column in self.returns.T], axis=1))


def turn_numbers(episodes: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Count the turns of actions through all episodes, from 0, `(n,)` int64: one ends where the columns leap."""
    begins = torch.ones_like(columns, dtype=torch.bool)
    begins[1:] = (episodes.diff() != 0) | (columns.diff() != 1)
    return begins.cumsum(0) - 1
