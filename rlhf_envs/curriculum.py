"""Draw rows of data by their difficulty: the next level opens when the agent succeeds on the one before."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets import split_name
from rlhf_envs.task_weights import WINDOW, TaskWeights

__all__ = ["SUCCESS", "Curriculum", "curriculum_of"]

logger = logging.getLogger(__name__)

SUCCESS = 0.7  # the mean reward that opens the next level
NEWEST = 0.5  # the part of the draws that the newest open level gets


class Curriculum(TaskWeights):
    """Draw levels of difficulty, from the easiest one on.

    One level is open at first. When the mean reward of the last 64 episodes of the newest open level reaches `success`,
    the next level opens; no level closes again. Half of the draws are of the newest level, and the others are shared
    equally by the levels before it, so that these are not forgotten. This is the staged curriculum of Bengio et al.
    2009, "Curriculum learning" (https://doi.org/10.1145/1553374.1553380), with a threshold for the switch.

    Args:
        levels: the level of each row of the data.
        success: the mean reward that opens the next level; 1 is the reward of an answer that is right.

    Raises:
        ValueError: a success is no number above 0.
    """

    def __init__(self, levels: Sequence[int], success: float = SUCCESS) -> None:
        if not success > 0:
            raise ValueError(f"success={success!r}: give a mean reward above 0 that opens the next level")
        names = [str(level) for level in levels]
        super().__init__(names, dict.fromkeys(map(str, sorted({*levels})), 1.0), progress=False)
        self.success, self.opened = success, 1

    @property
    def level(self) -> int:
        """Return the newest open level."""
        return int(self.tasks[self.opened - 1])

    def probabilities(self) -> np.ndarray:
        """Return the probability of each level, (levels,) float64."""
        weights = np.zeros(len(self.tasks))
        weights[: self.opened - 1] = (1 - NEWEST) / max(self.opened - 1, 1)
        weights[self.opened - 1] = NEWEST
        return weights / weights.sum()

    def learn(self, tasks: Sequence[str], rewards: Sequence[float]) -> None:
        """Take in the rewards of episodes of these levels, in their order, and open the next level on success."""
        super().learn(tasks, rewards)
        newest = self._rewards[self.opened - 1]
        if self.opened < len(self.tasks) and len(newest) == WINDOW and np.mean(newest) >= self.success:
            self.opened += 1
            logger.info("level %s of the curriculum opens: mean reward %.2f", self.level, float(np.mean(newest)))

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the number of open levels, and the last rewards of each level."""
        return {"opened": np.array(self.opened), **super().get_state()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on with what `get_state` gave.

        Raises:
            ValueError: it is the state of other levels.
        """
        rewards = {name: values for name, values in state.items() if name != "opened"}
        super().set_state(rewards)
        self.opened = int(state["opened"])


def curriculum_of(rows: Sequence[Mapping[str, Any]], split: str, task: str) -> Curriculum | None:
    """Return the curriculum over the column `level` of training rows; None for held-out rows, which are drawn evenly.

    Args:
        rows: the rows of the split.
        split: the split.
        task: the task's name, for messages.

    Raises:
        ValueError: a row has no level, or one that is no whole number. The message names the row.
    """
    if split_name(split) != "train":
        return None
    return Curriculum([_level(row.get("level"), f"task {task!r}: row {number}") for number, row in enumerate(rows)])


def _level(value: Any, where: str) -> int:
    """Return a whole number, of which tables make a text or a float."""
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(
            f"{where} has the 'level' {value!r}, and curriculum=True needs a whole number: fill the column, or rename "
            "one, columns={'level': 'difficulty'} (--column level:difficulty)"
        )
    return int(number)
