"""Check a task's score before agents train on it: what do answers get that know nothing?"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from rlhf_envs.datasets.messages import as_messages
from rlhf_envs.rewards.base import evaluate_reward
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.lookup import task_of

__all__ = ["TaskReport", "check_task"]

CONSTANTS = ("", "I don't know", "0", "yes", "a")
MARGIN = 0.05  # of the way from the lowest score to that of the references


@dataclass(frozen=True)
class TaskReport:
    """Hold the mean scores of answers over a sample of rows.

    Attributes:
        env_id: the task's environment.
        n: the number of rows.
        references: the mean score of the right answers.
        scores: the mean score of each kind of wrong answer: the constants, "most common", "shuffled" (the answers of
            other rows) and "near miss" (the right answer with one digit, word or character changed).
        beaten_by: the kinds of wrong answers that score as much as the right ones.
    """

    env_id: str
    n: int
    references: float
    scores: dict[str, float]

    @property
    def beaten_by(self) -> list[str]:
        """Return the kinds of wrong answers whose mean score is that of the right ones, or nearly (5% of the range)."""
        lowest = min(self.scores.values())
        bound = self.references - MARGIN * max(self.references - lowest, 0.0)
        return [name for name, score in self.scores.items() if score >= bound]

    def __str__(self) -> str:
        """Return one line per kind of answer."""
        lines = [f"{self.env_id}, {self.n} rows: mean scores", f"  right answers: {self.references:.3f}"]
        beaten = self.beaten_by
        lines += [f"  {k}: {v:.3f}{' (beats it)' if k in beaten else ''}" for k, v in self.scores.items()]
        return "\n".join(lines)


def check_task(
    env_id: str,
    n: int = 64,
    seed: int = 0,
    strict: bool = True,
    reward: Callable[..., Any] | None = None,
    **env_kwargs: Any,
) -> TaskReport:
    """Score answers that know nothing, and refuse a task whose score they beat.

    The right answers are the column `reference` of the training rows.

    Args:
        env_id: a registered id.
        n: rows of the training split to try.
        seed: draws the rows and what is changed.
        strict: raise if a wrong answer beats the task; False only reports it.
        reward: the reward function; by default that of the environment.
        **env_kwargs: arguments of the environment.

    Raises:
        AssertionError: with `strict`, wrong answers score as much as right ones. The message lists all scores.
        ValueError: the task has no references, or is no task.
    """
    task = task_of(env_id, **env_kwargs)
    if task is None:
        raise ValueError(f"{env_id!r} has no task to check")
    env: Any = gym.make(env_id, **env_kwargs).unwrapped
    rng = random.Random(seed)
    rows = [row for row in env.rows if row.get("reference")]
    if not rows:
        raise ValueError(
            f"task {task.name!r} has no column 'reference', the right answers that others are compared with"
        )
    rows = rng.sample(rows, min(n, len(rows)))
    answers = [str(row["reference"]) for row in rows]

    def score(given: Sequence[str]) -> float:
        return mean_score(reward or env.reward_fn, task, rows, given)

    kinds: dict[str, list[str]] = {repr(text): [text] * len(rows) for text in CONSTANTS}
    common = Counter(answers).most_common(1)[0][0]
    kinds[f"most common ({common.strip()[:20]!r})"] = [common] * len(rows)
    kinds["shuffled"] = shift(answers)
    kinds["near miss"] = [change_one(answer, rng) for answer in answers]
    report = TaskReport(env_id, len(rows), score(answers), {name: score(given) for name, given in kinds.items()})
    if strict and report.beaten_by:
        raise AssertionError(f"answers that know nothing score as much as right ones.\n{report}")
    return report


def mean_score(reward: Callable[..., Any], task: Task, rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> float:
    """Return the mean score of one answer per row."""
    names = sorted({name for row in rows for name in row} - {"prompt"})
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in names}
    columns["finish_reasons"] = ["eos"] * len(rows)
    columns["whole_prompts"] = [row["prompt"] for row in rows]
    prompts = [
        row["prompt"] if isinstance(row["prompt"], str) else as_messages(row["prompt"], "prompt") for row in rows
    ]
    totals, _ = evaluate_reward(reward, prompts, list(answers), columns)
    return float(np.mean(totals))


def shift(answers: Sequence[str]) -> list[str]:
    """Return for each answer one of another row that differs from it, where there is one."""
    others = sorted({*answers})
    return [others[(others.index(answer) + 1) % len(others)] for answer in answers]


def change_one(answer: str, rng: random.Random) -> str:
    """Return an answer with one digit changed, else one word left out, else one character, no space, doubled."""
    if digits := [match.start() for match in re.finditer(r"\d", answer)]:
        at = rng.choice(digits)
        return answer[:at] + str((int(answer[at]) + rng.randint(1, 9)) % 10) + answer[at + 1 :]
    words = answer.split()
    if len(words) > 1:
        words.pop(rng.randrange(len(words)))
        return " ".join(words)
    if not words:
        return answer
    at = rng.choice([at for at, character in enumerate(answer) if not character.isspace()])
    return answer[:at] + answer[at] + answer[at:]
