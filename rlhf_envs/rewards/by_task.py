"""Score the episodes of a mixture with the rewards of their tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.base import FunctionReward, Reward, RewardOfRewards, evaluate_reward
from rlhf_envs.rewards.calling import KNOWN, pass_on
from rlhf_envs.rewards.scores import Columns, EpisodeError, RewardError, ScoreError, Scores

__all__ = ["TaskRewards"]


class TaskRewards(RewardOfRewards):
    """Score each episode with the reward of its task, which the column `task` names: one call for each task.

    A reward is given the episodes and the columns of its own task. What it gives to `log_metric` is logged under
    "<task>/<name>".

    Args:
        rewards: rewards or reward functions by task. Episodes of other tasks get no score, if `may_be_silent`.
        columns: the names of the columns of each task. It is read at every call, since data may come later.
        may_be_silent: see `Reward`.
    """

    name = "by task"

    def __init__(
        self,
        rewards: Mapping[str, Callable[..., Any]],
        columns: Mapping[str, Collection[str]],
        may_be_silent: bool = False,
    ) -> None:
        found = rewards.items()
        self.rewards = {task: fn if isinstance(fn, Reward) else FunctionReward(fn) for task, fn in found}
        self.columns, self.may_be_silent = columns, may_be_silent

    def parts(self) -> tuple[Reward, ...]:
        """Return the rewards in the order of the tasks."""
        return tuple(self.rewards.values())

    def part_columns(self, columns: Sequence[str]) -> list[list[str]]:
        """Return the names of each task's own columns."""
        return [[*self.columns[task]] for task in self.rewards]

    def map_parts(self, function: Callable[[Reward], Reward]) -> TaskRewards:
        """Return the same of what `function` makes of every reward."""
        mapped = {task: function(reward) for task, reward in self.rewards.items()}
        return TaskRewards(mapped, self.columns, self.may_be_silent)

    def evaluate(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns) -> Scores:
        """Return the scores and their components; NaN where a task has no reward, or no component of that name.

        Raises:
            ScoreError: there is no column `task`, or a reward returned something wrong.
        """
        if "task" not in columns:
            raise ScoreError("the rewards of a mixture need the column 'task', which names the task of each episode")
        n, tasks = len(prompts), np.array(columns["task"])
        scores = Scores(np.full(n, np.nan), {})
        tokens: list[np.ndarray | None] = [None] * n
        for task, reward in self.rewards.items():
            if len(rows := np.flatnonzero(tasks == task)):
                self._add(scores, tokens, rows, task, self._of_task(task, reward, rows, prompts, completions, columns))
        pass_on(scores.metrics, scores.extra, n)
        return Scores(*scores, tokens)

    def _of_task(
        self,
        task: str,
        reward: Reward,
        rows: np.ndarray,
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        columns: Columns,
    ) -> Scores:
        """Return the scores of the task's episodes, `rows` of all."""
        own = {*self.columns[task], *KNOWN}
        given = {name: [values[i] for i in rows] for name, values in columns.items() if name in own}
        try:
            return evaluate_reward(reward, [prompts[i] for i in rows], [completions[i] for i in rows], given)
        except (ScoreError, RewardError, EpisodeError) as error:
            if error.index is not None:
                error.index = int(rows[error.index])
            error.args = (f"task {task!r}: {error}",)
            raise

    def _add(self, scores: Scores, tokens: list[np.ndarray | None], rows: np.ndarray, task: str, found: Scores) -> None:
        """Write what was found for `rows` into the scores of all."""
        n = len(tokens)
        scores.totals[rows] = found.totals
        for name, values in found.components.items():
            scores.components.setdefault(name, np.full(n, np.nan))[rows] = values
        scores.metrics.update({f"{task}/{name}": value for name, value in found.metrics.items()})
        for column, logged in found.extra.items():
            of_all = scores.extra.setdefault(column, [None] * n)
            for i, value in zip(rows, logged, strict=True):
                of_all[i] = value
        for i, one in zip(rows, found.tokens or [None] * len(rows), strict=True):
            tokens[i] = one
