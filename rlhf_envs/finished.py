"""Score finished episodes, at once or later: all that their scores need is kept with them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import said, shown
from rlhf_envs.names import list_environments
from rlhf_envs.rewards import Guarded, RewardError, ScoreError, evaluate_reward
from rlhf_envs.tasks.base import Task, measure

__all__ = ["FinishedEpisode", "copied", "score_episodes"]


@dataclass
class FinishedEpisode:
    """Hold an episode that has ended.

    Attributes:
        row: the environment that it ended in.
        completion_ids: the tokens after the prompt.
        info: the last info of the episode. Scoring adds `reward_components` and `metrics` to this very dict.
        token_rewards: (tokens,) float64, the parts of the score that belong to the single `completion_ids`; None if all
            of it belongs to the last.
    """

    row: int
    completion_ids: list[int]
    info: dict[str, Any]
    token_rewards: np.ndarray | None = None

    @property
    def turn_reward(self) -> float:
        """Return the reward of the last turn, to which the score is added; 0 without replies."""
        return float(self.info.get("turn_rewards", [0.0])[-1])


def score_episodes(
    reward: Guarded,
    task: Task,
    data: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    episodes: Sequence[FinishedEpisode],
    trainer_state: Any = None,
) -> np.ndarray:
    """Score k episodes in one call of the reward, and add its components and the task's metrics to their infos.

    Args:
        reward: the reward function.
        task: gives the metrics.
        data: the rows that the prompts come from; an episode's is `data[info["index"]]`.
        columns: the names of the data's further columns.
        episodes: at least one.
        trainer_state: what rewards are given that declare it.

    Returns:
        The scores, (k,) float64.

    Raises:
        RewardError, ScoreError: the reward failed; the message names the environments and the rows of the data.
        ValueError: the task's metrics are not one per episode.
    """
    infos = [episode.info for episode in episodes]
    prompts, completions = [info["prompt"] for info in infos], [info["completion"] for info in infos]
    rows = [data[info["index"]] for info in infos]
    of_data = {name: [copied(row.get(name)) for row in rows] for name in columns}
    known = {
        "completion_ids": [episode.completion_ids for episode in episodes],
        "finish_reasons": [info["finish_reason"] for info in infos],
        "whole_prompts": [copied(row["prompt"]) for row in rows],
    }
    try:
        scores = evaluate_reward(reward, prompts, completions, {**of_data, **known}, trainer_state)
    except (RewardError, ScoreError) as error:
        at = getattr(error, "index", None)
        about = episodes if at is None else [episodes[at]]
        named = list_environments([one.row for one in about], [one.info["index"] for one in about])
        error.args = (f"{str(error).rstrip('.')}. In {named}.",)
        raise
    metrics = measure(task, [*map(shown, prompts)], [*map(said, completions)], of_data)
    for i, (info, episode) in enumerate(zip(infos, episodes, strict=True)):
        info["reward_components"] = {
            name: float(values[i]) for name, values in scores.components.items() if not np.isnan(values[i])
        }
        measured = info.get("metrics", {}) | {name: float(values[i]) for name, values in metrics.items()}
        measured = {name: value for name, value in measured.items() if not np.isnan(value)}  # NaN: has none of that
        extra = {column: values[i] for column, values in scores.extra.items()}
        found = {"metrics": measured, "logged": dict(scores.metrics), "extra": extra}
        info |= {key: values for key, values in found.items() if values}
        episode.token_rewards = None if scores.tokens is None else scores.tokens[i]
    return scores.totals


def copied(value: Any) -> Any:
    """Return a value of the data, of a list or an object a copy: what gets it may change it."""
    return copy.deepcopy(value) if isinstance(value, list | dict) else value
