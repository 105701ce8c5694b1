"""Open episodes over prompts that somebody gives, instead of those of an environment's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlhf_envs.chat_format import CHAT_OPTIONS, ChatFormat, choose_template
from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.datasets.rows import SYSTEMS, read_prompt
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.models import model_positions
from rlhf_envs.prompts import encode_prompts
from rlhf_envs.registration import check_environment, task_of
from rlhf_envs.rewards import Reward, Scores
from rlhf_envs.rewards.scores import Columns
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.mixture import read_tasks
from rlhf_envs.tasks.prompts import Prompts

from ..core.episodes import open_batch
from ..saving.untrusted import read_env_kwargs
from .source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["lent_template", "open_prompts"]

REWARDS = ("reward", "reward_fn", "reward_kwargs")
KEPT = (
    "max_new_tokens",
    "min_new_tokens",
    "suppress_tokens",
    *CHAT_OPTIONS,
)  # what counts of an environment's arguments unscored


class NoReward(Reward):
    """Score 0, and report no component."""

    name = "none"

    def score(self, prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> np.ndarray:
        """Return zeros, (n,)."""
        return np.zeros(len(completions))

    def evaluate(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns) -> Scores:
        """Return zeros, (n,), and no components."""
        return Scores(np.zeros(len(completions)), {})


class Unscored(Task):
    """Read and mask tokens as another task does. Nothing is scored, and nobody replies."""

    name = "prompts"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.default_model, self.max_new_tokens = task.default_model, task.max_new_tokens
        self.chat_template = task.chat_template

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Return the task's tokenizer."""
        return self.task.tokenizer(model)

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return a reward of 0 without components."""
        return NoReward()

    def action_masks(
        self, input_ids: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray, steps: np.ndarray
    ) -> np.ndarray | None:
        """Return the task's masks."""
        return self.task.action_masks(input_ids, lengths, prompt_lengths, steps)

    def turn_masks(self, turns: Sequence[np.ndarray], rooms: np.ndarray) -> np.ndarray | None:
        """Return the task's masks."""
        return self.task.turn_masks(turns, rooms)


def open_prompts(
    source: Source,
    prompts: str | Sequence[Prompt | Mapping[str, Any]],
    env: Any = None,
    max_new_tokens: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    grows: bool = False,
) -> EpisodeBatch:
    """Return one row of episodes whose data are the prompts. A long prompt loses its beginning, with a warning.

    With an `env`, a reward among `env_kwargs`, or a source that keeps the best of several completions, the
    environment's task scores and replies. Otherwise only its tokens and masks count, so that data and reward of a run
    need not be there. Rows have further columns for the reward beside their `prompt`. Where a prompt `grows` from call
    to call, the room for it is a power of two, so that the KV cache, which has the length of a row, lasts over many.
    With a system prompt texts are what a user says, unless some prompts are conversations or `chat` is given.

    Raises:
        ValueError: there is no prompt, no room for one, or no environment to score with.
    """
    given = [prompts] if isinstance(prompts, str) else prompts
    rows = [{**(one if isinstance(one, Mapping) else {"prompt": one}), "split": "test"} for one in given]
    if not rows:
        raise ValueError("prompts is empty: give at least one")
    rows = [{**row, "prompt": read_prompt(row)} if row.keys() & set(SYSTEMS) else row for row in rows]
    asked = {**(env_kwargs or {}), **({} if max_new_tokens is None else {"max_new_tokens": max_new_tokens})}
    scored = env is not None or source.best_of > 1 or not asked.keys().isdisjoint(REWARDS)
    place = source.env if env is None else env
    task, model, own = _lent(source, place, asked)
    if not asked.keys().isdisjoint(REWARDS):
        own.pop("reward_fn", None)
    options = {**own, **asked}
    rows = _said_by_user(rows, options) if "chat" not in asked else rows
    data: dict[str, Any] = {"data": rows, "columns": None}
    data["max_prompt_tokens"] = _longest(source, task, model, rows, options, grows)
    if not scored:
        kept = {name: options[name] for name in KEPT if options.get(name) is not None}
        data["data"] = [{"prompt": row["prompt"], "split": "test"} for row in rows]
        return EpisodeBatch(1, Unscored(task), model=model, split="test", **{**data, **kept})
    if place is not None and not isinstance(place, str):
        return EpisodeBatch(1, task, model=model, split="test", **{**options, **data})
    if source.best_of > 1 and place is None and source.env_id is None:
        chooses = "pass env=, whose reward chooses"
        raise ValueError(f"{source.name} keeps the best of {source.best_of} completions: {chooses}")
    return source.open_episodes(place or source.own_environment or "rlhf/Prompts-v0", "test", {**asked, **data})


def _said_by_user(rows: list[dict[str, Any]], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows with texts as what a user says, where a system prompt begins conversations and all are texts.

    The data of a run with a system prompt has conversations, whether or not `chat` makes them of texts.
    """
    if options.get("system_prompt") is None or not all(isinstance(row["prompt"], str) for row in rows):
        return rows
    return [
        {**row, "prompt": [{"role": "user", "content": row["prompt"]}] if row["prompt"].strip() else row["prompt"]}
        for row in rows
    ]


def lent_template(source: Source, env_kwargs: Mapping[str, Any] | None = None) -> str | None:
    """Return the chat template that the task of a source has for models without one; None if it has none."""
    return _lent(source, source.env, env_kwargs or {})[0].chat_template


def _lent(source: Source, env: Any, given: Mapping[str, Any]) -> tuple[Task, str | None, dict[str, Any]]:
    """Return what an environment lends to prompts: its task, its model's name and its arguments.

    Without one it is the source's. Nothing is imported for an id that a file names, and what is `given` goes first.
    """
    if env is not None and not isinstance(env, str):
        batch = open_batch(env, 1)
        sizes = {"max_new_tokens": batch.max_new_tokens, **batch.mask_options, **batch.chat.options}
        return batch.task, batch.model_name, {"reward_fn": batch.reward_fn, **sizes}
    env_id = source.own_environment if env is None else check_environment(env)
    kwargs = source.kwargs_in(env_id)
    own, mixed = {name: kwargs[name] for name in CHAT_OPTIONS if name in kwargs}, {**kwargs, **given}.get("tasks")
    if mixed is not None:  # of these tasks the tokens count, and not what they are scored with
        kept = ("id", "name", "max_new_tokens")
        mixed = own["tasks"] = [{key: one[key] for key in kept if key in one} for one in read_tasks(mixed)]
    read_env_kwargs(own, "a run's file", given, follow_paths=not source.is_bundle)
    task = (task_of(env_id, tasks=mixed) if env_id in gym.registry else None) or Prompts()
    return task, source.tokenizer_name or task.default_model, kwargs


def _longest(
    source: Source,
    task: Task,
    model: str | None,
    rows: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    grows: bool,
) -> int:
    """Return the tokens of the longest prompt, or as many as the model has positions for beside the new ones.

    Where the prompt `grows`, it is the next power of two, and at least 256.
    """
    given, tokenizer = {name: options[name] for name in CHAT_OPTIONS if name in options}, task.tokenizer(model)
    given["chat_template"] = choose_template(tokenizer, given.get("chat_template"), task)
    chat = ChatFormat(tokenizer, **given)
    longest = max(1, *map(len, encode_prompts(chat, chat.read(rows, task.name), task.name)))
    longest = max(256, 1 << (longest - 1).bit_length()) if grows else longest
    room = options.get("max_new_tokens") or task.max_new_tokens
    positions = None if model is None else model_positions(model)
    if source.policy is not None:
        positions = getattr(source.policy.language_model.config, "max_position_embeddings", positions)
    if positions is None:
        return longest
    if room >= positions:
        raise ValueError(
            f"max_new_tokens={room} leaves no room for a prompt: {source.name} has {positions} positions in all"
        )
    return min(longest, positions - room)
