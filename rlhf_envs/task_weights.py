"""Draw the tasks of a mixture by weights, which are fixed or follow the agent's progress."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["TaskWeights"]

logger = logging.getLogger(__name__)

WINDOW = 64  # episodes of a task by which its progress is measured
FLOOR = 0.2  # the part of the draws that the shares alone decide


class TaskWeights:
    """Draw the task of each episode, and a row of its data.

    A task is drawn with the probability of its share. With `progress`, once every task has had 64 episodes, with

        p(task) = 0.2 share(task) + 0.8 change(task) / (sum of all changes)

    where the change is the absolute difference between the mean rewards of the newer and of the older 32 of the task's
    last 64 episodes. So tasks are drawn on which the agent gets better, or worse again, and none is left out. This is
    the absolute learning progress of Matiisen et al. 2017, "Teacher-Student Curriculum Learning"
    (https://arxiv.org/abs/1707.00183), section 3, over windows of rewards. Departures: the probabilities are
    proportional to the progress, without a bandit's estimates, as Portelas et al. 2019
    (https://arxiv.org/abs/1910.07224) sample; the part that is drawn without regard to it goes by the shares. Changes
    have the rewards' units, and noise counts as progress: bring rewards to one scale, such as by `Whitened`.

    Args:
        names: the task of each row of the data.
        shares: the shares by task. A task without rows is left out, with a warning.
        progress: whether the probabilities follow the progress.
    """

    def __init__(self, names: Sequence[str], shares: Mapping[str, float], progress: bool) -> None:
        self.names, there, self.progress = [*names], {*names}, progress
        if without := [task for task in shares if task not in there]:
            logger.warning("the data have no rows of the mixture's tasks %s: these are never drawn", without)
        self.tasks = [task for task in shares if task in there]
        chosen = np.array([shares[task] for task in self.tasks])
        self.shares = chosen / chosen.sum()
        places = np.array([self.tasks.index(name) for name in names])
        self.rows = [np.flatnonzero(places == place) for place in range(len(self.tasks))]
        self._rewards: list[deque[float]] = [deque(maxlen=WINDOW) for _ in self.tasks]

    def probabilities(self) -> np.ndarray:
        """Return the probability of each task, (tasks,) float64."""
        if not self.progress or any(len(rewards) < WINDOW for rewards in self._rewards):
            return self.shares
        means = np.array(self._rewards).reshape(len(self.tasks), 2, -1).mean(axis=2)
        change = np.abs(means[:, 1] - means[:, 0])
        total = change.sum()
        return FLOOR * self.shares + (1 - FLOOR) * change / total if total > 0 else self.shares

    def draw(self, rng: np.random.Generator) -> int:
        """Return a row of the data: of a task drawn by the probabilities, each of its rows being as likely."""
        rows = self.rows[rng.choice(len(self.tasks), p=self.probabilities())]
        return int(rows[rng.integers(len(rows))])

    def held_out(self, n: int) -> np.ndarray:
        """Return n rows, always the same, in the tasks' shares from the first on, each once before any comes twice."""
        orders = [np.random.default_rng(0).permutation(rows) for rows in self.rows]
        taken = np.zeros(len(self.tasks), dtype=np.int64)
        chosen = np.zeros(n, dtype=np.int64)
        for i in range(n):
            task = int(np.argmax(self.shares * (i + 1) - taken))
            chosen[i] = orders[task][taken[task] % len(orders[task])]
            taken[task] += 1
        return chosen

    def learn(self, tasks: Sequence[str], rewards: Sequence[float]) -> None:
        """Take in the rewards of episodes of these tasks, in their order."""
        for task, reward in zip(tasks, rewards, strict=True):
            self._rewards[self.tasks.index(task)].append(float(reward))

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the last rewards of each task."""
        return {task: np.array(rewards) for task, rewards in zip(self.tasks, self._rewards, strict=True)}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on with the rewards that `get_state` gave.

        Raises:
            ValueError: it is the state of other tasks.
        """
        if state.keys() != {*self.tasks}:
            raise ValueError(f"the state is of the tasks {', '.join(state)}, and here are {', '.join(self.tasks)}")
        self._rewards = [deque(state[task].tolist(), maxlen=WINDOW) for task in self.tasks]
