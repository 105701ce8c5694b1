"""Define the mixture: several tasks in one run, each with its own data, reward, judges, metrics, masks and replies."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlhf_envs.datasets import MissingSplitError, split_name
from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.models import vocabulary_fingerprint
from rlhf_envs.names import check_arguments, check_count
from rlhf_envs.rewards.by_task import TaskRewards
from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.task_weights import TaskWeights
from rlhf_envs.tasks.base import Task, choose_reward, measure
from rlhf_envs.tasks.lookup import check_environment, environment_rows, load_task, own_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ABOUT_TASK", "Mixture", "read_tasks"]

# An environment's arguments that each task of a mixture has for itself.
REWARDS, DATA = ("reward", "reward_fn", "reward_kwargs"), ("data", "columns", "validation_share", "test_share")
ABOUT_TASK = ("id", "name", "weight")  # what else its dict has
OWN = (*REWARDS, *DATA, "max_new_tokens", "max_turns")
NAME = re.compile(r"[\w.-]+")
OPENINGS = ("In a few words,", "In short,", "Briefly,", "To sum it up,", "All in all,", "Put simply,")
ABOUT = ("movie", "film", "plot", "story", "acting", "cast", "music", "script", "ending", "dialogue")
DEFAULT = (
    "rlhf/Sentiment-v0",
    {
        "id": "rlhf/Prompts-v0",
        "name": "brief",
        "data": [{"prompt": f"{opening} the {thing} was"} for opening in OPENINGS for thing in ABOUT],
        "reward": "length-penalty",
        "reward_kwargs": {"shortest": 3, "longest": 6},
    },
)


class Mixture(Task):
    """Train on several tasks in one run, each drawn by its weight.

    ## Description
    `gymnasium.make("rlhf/Mixture-v0", tasks=["rlhf/Sentiment-v0", {"id": "rlhf/Prompts-v0", "data": "my.jsonl"}])`.
    `tasks` are ids, weights by id (`{"rlhf/A-v0": 2, "rlhf/B-v0": 1}`), or dicts with an `id` and perhaps a `name`, a
    `weight` (1 by default) and arguments of that environment: `reward`, `reward_fn`, `reward_kwargs`, `data`,
    `columns`, `validation_share`, `test_share`, `max_new_tokens`, `max_turns` and its task's own. All
    other arguments are given to the mixture and hold for all its tasks. A task is named by its `name`, by default its
    own short name, and every row of the data has it in a column `task`.

    At reset a task is drawn by the weights, then one of its rows. With `weights="progress"` tasks are drawn more often
    while the agent's mean reward on them changes, as `rlhf_envs.task_weights.TaskWeights` says. Held-out prompts are in
    the shares of the weights always. Rewards, judges, metrics, replies and masks of a task see its own rows alone.

    By default it is a mixture of `Sentiment` and of 60 prompts such as "In short, the plot was", to be ended within 3
    to 6 words, so that the id can be tried.

    ## Observation space
    `input_ids` and `attention_mask`, (96,) each by default: a prompt of up to 64 tokens and up to 32 new ones. In
    general both have room for the tasks' longest.

    ## Action space
    `Discrete(V)` with the vocabulary that the tasks share.

    ## Reward
    At the end of an episode the score by its task's reward. `reward` or `reward_fn` of the mixture scores all tasks.

    ## Episode end
    As in the episode's task: EOS, its `max_new_tokens`, or the end of its dialog. Every `info` that has an `index` has
    the `task` too.

    ## Arguments
    `tasks`, `weights`, and all others of `TextGenerationEnv`. Here `max_new_tokens` shortens the longer tasks, and
    `data` are rows with a column `task`, in place of the tasks' data.

    ## Version history
    v0: the first version.

    Raises:
        ValueError: there are fewer than two tasks, or one has no id, an unknown id, another one's name, a weight that
            is not above 0, or another vocabulary.
        TypeError: a task is given an argument that environments do not know.
    """

    name = "mixture"

    def __init__(
        self, tasks: Sequence[str | Mapping[str, Any]] | Mapping[str, float] = DEFAULT, weights: str | None = None
    ) -> None:
        if weights not in (None, "progress"):
            raise ValueError(f"weights={weights!r}: 'progress', or leave it out and give each task its weight in tasks")
        entries = read_tasks(tasks)
        if len(entries) < 2:
            raise ValueError(f"tasks={tasks!r} is no mixture: give at least two tasks, or make the one's environment")
        self.subtasks: dict[str, Task] = {}
        self._options: dict[str, dict[str, Any]] = {}
        given = {}
        for entry in entries:
            name, task, options = _load(entry)
            if name in self.subtasks:
                raise ValueError(f"two tasks of the mixture are named {name!r}: give one of them another 'name'")
            self.subtasks[name], self._options[name], given[name] = task, options, _weight(name, entry)
        self.shares = {name: weight / sum(given.values()) for name, weight in given.items()}
        self.progress = weights == "progress"
        members = self.subtasks.values()
        self.default_model = next((task.default_model for task in members if task.default_model is not None), None)
        self.judges = tuple(dict.fromkeys(judge for task in members for judge in task.judges))
        templates = {task.chat_template for task in members} - {None}
        self.chat_template = templates.pop() if len(templates) == 1 else None  # of several, none is right for all
        self.max_prompt_tokens = max(task.max_prompt_tokens for task in members)
        self.max_new_tokens = max(task.max_new_tokens for task in members)
        self._columns: dict[str, dict[str, None]] = {name: {} for name in self.subtasks}

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Return the tokenizer that all tasks share.

        Raises:
            ValueError: two tasks have different vocabularies.
        """
        is_default = model == self.default_model
        found = {n: t.tokenizer(t.default_model if is_default else model) for n, t in self.subtasks.items()}
        (first, tokenizer), *others = found.items()
        for name, other in others:
            if vocabulary_fingerprint(other) != vocabulary_fingerprint(tokenizer):
                raise ValueError(
                    f"the tasks {first!r} and {name!r} of the mixture have different vocabularies, of {len(tokenizer)} "
                    f"and {len(other)} tokens: mix tasks that take the same model, or have the same words"
                )
        return tokenizer

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows of all tasks, or those of `data`, each with its task in the column `task`."""
        if data is None:
            rows = [row for name in self.subtasks for row in self._own_rows(name, split)]
        else:
            rows = self._given_rows(split, data)
        for row in rows:
            self._columns[row["task"]] |= {column: None for column in row if column not in ("prompt", "task")}
        return rows

    def _own_rows(self, name: str, split: str) -> list[dict[str, Any]]:
        options = {key: value for key, value in self._options[name].items() if key in DATA}
        try:
            rows = environment_rows(self.subtasks[name], split, **options)
        except MissingSplitError as error:
            raise MissingSplitError(f"task {name!r} of the mixture: {error}") from error
        if any("task" in row for row in rows):
            raise ValueError(
                f"the data of task {name!r} has a column 'task', in which a mixture says whose each row is: rename it, "
                "'columns': {'kind': 'task'}"
            )
        return [{**row, "task": name} for row in rows]

    def _given_rows(self, split: str, data: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows of `data` in their order, each as its task returns it."""
        places: dict[str, list[int]] = {name: [] for name in self.subtasks}
        for i, row in enumerate(data):
            if row.get("task") not in places:
                raise ValueError(
                    f"row {i} of the mixture's data has task={row.get('task')!r}: it needs a column 'task' with one of "
                    f"{', '.join(places)}"
                )
            places[row["task"]].append(i)
        found: dict[int, dict[str, Any]] = {}
        for name, own in places.items():
            found |= zip(own, self.subtasks[name].rows(split, [data[i] for i in own]) if own else [], strict=True)
        return [found[i] for i in range(len(data))]

    def task_weights(self, rows: Sequence[Mapping[str, Any]], split: str) -> TaskWeights:
        """Return what draws the tasks; held-out ones stay in the shares of the weights."""
        progress = self.progress and split_name(split) == "train"
        return TaskWeights([row["task"] for row in rows], self.shares, progress)

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the rewards of the tasks."""
        rewards = {}
        for name, task in self.subtasks.items():
            given = [self._options[name].get(key) for key in REWARDS]
            rewards[name] = choose_reward(task, min(task.max_new_tokens, max_new_tokens), *given)
        return TaskRewards(rewards, self._columns)

    def get_judge(self, name: str) -> Callable[..., Any]:
        """Return a judge of the episodes whose task has one of that name."""
        own = {task: get_reward(name) for task, one in self.subtasks.items() if name in one.judges}
        return TaskRewards(own, self._columns, may_be_silent=True)

    @property
    def has_replies(self) -> bool:
        """Return whether somebody answers the agent in one of the tasks."""
        return any(task.has_replies for task in self.subtasks.values())

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply | str | None]:
        """Return the replies of each dialog's task, asked in one call for each task; None of tasks without any."""
        found: list[Reply | str | None] = [None] * len(dialogs)
        for name, task in self.subtasks.items():
            own = [i for i, dialog in enumerate(dialogs) if dialog.row["task"] == name]
            if not own or not task.has_replies:
                continue
            replies = task.replies([dialogs[i] for i in own])
            if isinstance(replies, str) or not isinstance(replies, Sequence) or len(replies) != len(own):
                raise ValueError(
                    f"task {name!r} returned {replies!r} for {len(own)} dialogs: return one reply for each"
                )
            for i, reply in zip(own, replies, strict=True):
                found[i] = reply
        return found

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return the metrics of each episode's task, NaN where it has none of that name."""
        found: dict[str, Any] = {}
        for name, task in self.subtasks.items():
            own = [i for i, of in enumerate(columns["task"]) if of == name]
            given = {key: [values[i] for i in own] for key, values in columns.items() if key in self._columns[name]}
            texts = [prompts[i] for i in own], [completions[i] for i in own]
            measured = measure(task, *texts, given) if own else {}
            for key, values in measured.items():
                found.setdefault(key, np.full(len(prompts), np.nan))[own] = values
        return found

    def metric_names(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the names of the tasks' metrics, and of what is reported by task, such as "sentiment/reward"."""
        names: dict[str, None] = {}
        for name, task in self.subtasks.items():
            first = [{key: row[key] for key in row if key != "task"} for row in rows if row["task"] == name][:1]
            own = task.metric_names(first) if first else []
            names |= dict.fromkeys([*own, *(f"{name}/{key}" for key in ("reward", *task.judges, *own))])
        return [*names]


def read_tasks(tasks: Any) -> list[dict[str, Any]]:
    """Return the `tasks` of a mixture as dicts, each with an `id`.

    Raises:
        ValueError: they have another form.
    """
    form = "give ids, {id: weight}, or dicts such as {'id': 'rlhf/Sentiment-v0', 'weight': 2}"
    if isinstance(tasks, str) or not isinstance(tasks, Sequence | Mapping):
        raise ValueError(f"tasks={tasks!r}: {form}")
    if isinstance(tasks, Mapping):
        tasks = [{"id": env_id, "weight": weight} for env_id, weight in tasks.items()]
    entries = [{"id": entry} if isinstance(entry, str) else entry for entry in tasks]
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str):
            raise ValueError(f"tasks[{i}] is {entry!r}, without the id of an environment: {form}")
    return [dict(entry) for entry in entries]


def _load(entry: Mapping[str, Any]) -> tuple[str, Task, dict[str, Any]]:
    """Return the name and the task of an entry, and its arguments of an environment."""
    env_id = check_environment(entry["id"])
    registered = dict(gym.registry[env_id].kwargs)
    if "task" not in registered:
        raise ValueError(f"{env_id!r} is no text environment, and cannot be in a mixture")
    kind = registered.pop("task")
    options = registered | {key: value for key, value in entry.items() if key not in ABOUT_TASK}
    own = {key: options.pop(key) for key in own_arguments(kind) if key in options and key not in ("tasks", "weights")}
    task = copy.copy(load_task(kind, **own))
    if task.subtasks:
        raise ValueError(f"{env_id!r} is a mixture itself: list its tasks instead")
    name = entry.get("name", task.name)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"the name {name!r} of a task of the mixture: take letters, digits, '-', '_' and '.'")
    check_arguments(options, [*EpisodeOptions.__annotations__, *own_arguments(kind)], f"task {name!r} of the mixture")
    if shared := [key for key in options if key not in OWN]:
        raise ValueError(
            f"task {name!r} of the mixture: {shared[0]} is one for all tasks, give it to the mixture itself"
        )
    if isinstance(options.get("data"), Iterator):
        options["data"] = [*options["data"]]  # it is read again for other splits
    for key in ("max_new_tokens", "max_turns"):
        if options.get(key) is not None:
            setattr(task, key, check_count(key, options[key], 1))
    if options.get("max_turns") is not None and not task.has_replies:
        raise ValueError(f"task {name!r} of the mixture has no replies, so no max_turns={options['max_turns']}")
    return name, task, options


def _weight(name: str, entry: Mapping[str, Any]) -> float:
    weight = entry.get("weight", 1)
    is_number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
    if not (is_number and math.isfinite(weight) and weight > 0):
        raise ValueError(f"the weight of task {name!r} is {weight!r}: give a number above 0, or leave the task out")
    return float(weight)
