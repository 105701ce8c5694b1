"""The one implementation of an episode of text, over n rows at a time.

`TextGenerationEnv` is one row of it and `TextGenerationVectorEnv` n. An ordinary step is a handful of numpy operations
over all rows; Python visits a row only where an episode ends or a reply comes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import gymnasium as gym
import numpy as np

from rlhf_envs.action_masks import ActionMasks
from rlhf_envs.models import vocabulary_fingerprint
from rlhf_envs.prompts import check_fits_model, check_rows, tokenize_prompts
from rlhf_envs.rewards import Guarded, RewardError, ScoreError, get_reward
from rlhf_envs.rewards.state import get_reward_state, set_reward_state

if TYPE_CHECKING:
    from rlhf_envs.tasks.base import Task

__all__ = ["EpisodeBatch", "EpisodeOptions"]

STATE = ("ids", "mask", "lengths", "steps", "index", "_prompt_lengths", "_running")  # arrays, the first axis is the row

MAX_NAMED = 8  # environments that an error lists one by one


class EpisodeOptions(TypedDict, total=False):
    """The keyword arguments that all text environments take; `EpisodeBatch` documents them."""

    model: str | None
    split: str
    max_prompt_tokens: int | None
    max_new_tokens: int | None
    reward: str | None
    reward_fn: Callable[..., Any] | None
    reward_kwargs: dict[str, Any] | None
    data: str | Path | Sequence[Mapping[str, Any]] | None
    on_long_prompt: Literal["truncate", "error"]
    reward_timeout: float | None
    reward_retries: int
    group_size: int
    min_new_tokens: int
    suppress_tokens: Sequence[int] | None


class EpisodeBatch:
    """n episodes side by side.

    Args:
        num_envs: the number of rows, n.
        task: a `Task`, its class, or "module:Class".
        model: an embedded model's name, a local folder or a hub id, whose tokenizer is the action space; the task's by
            default.
        split: of the task's data, "train", "validation" or "test".
        max_prompt_tokens: longer prompts lose their beginning; the task's by default.
        max_new_tokens: the room after the prompt, for the agent's tokens and any replies; the task's by default.
        reward: a registered reward's name or "module:attribute"; the task's by default.
        reward_fn: a reward function, instead of `reward`.
        reward_kwargs: arguments of the named reward, or of the task's own: `{"store": "feedback.db"}` for "human".
        data: a file with a `prompt` column (or rows), instead of the task's.
        on_long_prompt: "truncate" long prompts from the left and log how many, or raise an "error".
        reward_timeout: seconds that a reward call may take before it counts as failed; None waits for ever. See
            `rlhf_envs.rewards.Guarded` for what a thread that hangs leaves behind.
        reward_retries: times that a reward call which raises or takes too long is repeated, before a `RewardError`.
        group_size: episodes that a prompt which is drawn is given to, one after the other as rows come free: the groups
            of completions that GRPO and RLOO compare. 1 draws a prompt for every episode.
        min_new_tokens: EOS is masked until the agent has taken so many actions, see `action_masks`. Masks bind agents
            that read them, such as `maskable_ppo`; `step` takes every token of the action space.
        suppress_tokens: token ids that are masked always.

    Attributes:
        ids: (n, L) int64 contexts, right-padded, L = max_prompt_tokens + max_new_tokens.
        mask: (n, L) int8, 1 where there is a token.
        lengths: (n,) tokens in the context.
        steps: (n,) actions taken in the episode.
        index: (n,) the row of the data that the prompt comes from.

    Raises:
        ValueError: an argument is wrong; the message says which and what would be right.
    """

    def __init__(
        self,
        num_envs: int,
        task: str | type[Task] | Task,
        *,
        model: str | None = None,
        split: str = "train",
        max_prompt_tokens: int | None = None,
        max_new_tokens: int | None = None,
        reward: str | None = None,
        reward_fn: Callable[..., Any] | None = None,
        reward_kwargs: dict[str, Any] | None = None,
        data: str | Path | Sequence[Mapping[str, Any]] | None = None,
        on_long_prompt: Literal["truncate", "error"] = "truncate",
        reward_timeout: float | None = None,
        reward_retries: int = 2,
        group_size: int = 1,
        min_new_tokens: int = 0,
        suppress_tokens: Sequence[int] | None = None,
    ) -> None:
        self.task = load_task(task)
        self.model_name = model if model is not None else self.task.default_model
        self.max_prompt_tokens = _positive("max_prompt_tokens", max_prompt_tokens, self.task.max_prompt_tokens)
        self.max_new_tokens = _positive("max_new_tokens", max_new_tokens, self.task.max_new_tokens)
        self.tokenizer = self.task.tokenizer(self.model_name)
        self.vocab_size = len(self.tokenizer)
        if self.model_name is not None:
            check_fits_model(self.model_name, self.vocab_size, self.max_prompt_tokens, self.max_new_tokens)
        if reward is not None and reward_fn is not None:
            raise ValueError(f"reward={reward!r} and reward_fn are two rewards: give one (they compose with + and *)")
        if reward_kwargs and reward_fn is not None:
            raise ValueError(
                f"reward_kwargs={reward_kwargs!r} are for a reward given by name, and reward_fn is one made"
            )
        self.reward_fn = reward_fn or self._named_reward(reward, reward_kwargs)
        if not callable(self.reward_fn):
            raise ValueError(f"reward_fn must be callable, got {self.reward_fn!r}")
        self.reward_timeout, self.reward_retries = reward_timeout, reward_retries
        self._guarded()  # says now what is wrong with these two
        self.set_group_size(group_size)
        self._masks = ActionMasks(self.task, self.tokenizer, self.max_new_tokens, min_new_tokens, suppress_tokens)

        self.rows = self.task.rows(split, data)
        self._columns = check_rows(self.rows, self.task.name, data)
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        self._eos = -1 if eos is None else int(eos)
        self._pad = 0 if pad is None else int(pad)  # the mask says what is padding, whatever the id
        self._prompts = tokenize_prompts(
            self.tokenizer, self.rows, self.max_prompt_tokens, on_long_prompt, self.task.name
        )

        n, length = num_envs, self.max_prompt_tokens + self.max_new_tokens
        self.ids = np.full((n, length), self._pad, dtype=np.int64)
        self.mask = np.zeros((n, length), dtype=np.int8)
        self.lengths = np.zeros(n, dtype=np.int64)
        self.steps = np.zeros(n, dtype=np.int64)
        self.index = np.zeros(n, dtype=np.int64)
        self._prompt_lengths = np.zeros(n, dtype=np.int64)
        self._running = np.zeros(n, dtype=np.bool_)
        self._all = np.arange(n)
        self.observation_space = gym.spaces.Dict(
            input_ids=gym.spaces.Box(0, self.vocab_size - 1, (length,), np.int64),
            attention_mask=gym.spaces.Box(0, 1, (length,), np.int8),
        )
        self.action_space = gym.spaces.Discrete(self.vocab_size)
        # What tells a policy, which sees no more than the spaces, whether these token ids are its model's.
        self.action_space.vocabulary = vocabulary_fingerprint(self.tokenizer)  # type: ignore[attr-defined]

    def _named_reward(self, name: str | None, kwargs: dict[str, Any] | None) -> Callable[..., Any]:
        if name is None and not kwargs:
            return self.task.reward(self.max_new_tokens)
        return get_reward(name or self.task.default_reward, **(kwargs or {}))

    def set_group_size(self, group_size: int) -> None:
        """Give every prompt that is drawn from now on to so many episodes, see the class."""
        self.group_size = _positive("group_size", group_size, 1)
        self.begin_group()

    def begin_group(self) -> None:
        """Draw a new prompt for the next episode, even if the last one has not been given to a whole group."""
        self._group_index, self._group_left = 0, 0

    def draw(self, rng: np.random.Generator, index: object = None) -> int:
        """The row of the data for the next episode: `index` if it is given, the group's, or one drawn uniformly.

        Raises:
            ValueError: `index` is no row of the data.
        """
        n = len(self.rows)
        if index is None:
            if self._group_left == 0:
                self._group_index, self._group_left = int(rng.integers(n)), self.group_size
            self._group_left -= 1
            return self._group_index
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < n:
            raise ValueError(f"options['index'] must be a row of the data, 0 to {n - 1}, got {index!r}")
        return int(index)

    def start(self, row: int, index: int) -> dict[str, Any]:
        """Begin an episode in a row with the prompt at `index` of the data; returns its reset info."""
        prompt = self._prompts[index]
        self.ids[row] = self._pad
        self.mask[row] = 0
        self.ids[row, : len(prompt)] = prompt
        self.mask[row, : len(prompt)] = 1
        self.lengths[row] = self._prompt_lengths[row] = len(prompt)
        self.steps[row] = 0
        self.index[row] = index
        self._running[row] = True
        return {"index": index}

    def observe(self) -> dict[str, np.ndarray]:
        """Copies of all contexts: `input_ids` (n, L) int64 and `attention_mask` (n, L) int8."""
        return {"attention_mask": self.mask.copy(), "input_ids": self.ids.copy()}

    def observe_row(self, row: int) -> dict[str, np.ndarray]:
        """A copy of one context, (L,) each."""
        return {"attention_mask": self.mask[row].copy(), "input_ids": self.ids[row].copy()}

    def action_masks(self) -> np.ndarray:
        """The tokens that may come next, (n, V) bool, a new array; True is allowed.

        Raises:
            ValueError: a row is left without a token, or the task's masks have another shape.
        """
        return self._masks(self.ids, self.lengths, self._prompt_lengths, self.steps)

    @property
    def mask_options(self) -> dict[str, Any]:
        """`min_new_tokens` and `suppress_tokens`, as they were given."""
        return {"min_new_tokens": self._masks.min_new_tokens, "suppress_tokens": self._masks.suppress_tokens}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, dict[str, Any]]]:
        """Append one token a row and score the episodes that it ends, all in one reward call.

        Args:
            actions: (n,) integers below the vocabulary's size.

        Returns:
            Rewards (n,) float64, 0 where the episode goes on; terminated (n,) bool; the infos of the ended rows by row.

        Raises:
            ValueError: an action is outside the space.
            gymnasium.error.ResetNeeded: an episode is over.
        """
        actions = self._check_actions(actions)
        self.ids[self._all, self.lengths] = actions
        self.mask[self._all, self.lengths] = 1
        self.lengths += 1
        self.steps += 1
        ended = actions == self._eos
        if ended.any():
            self._append_replies(ended)
        terminated = ended | (self.lengths - self._prompt_lengths >= self.max_new_tokens)
        rewards = np.zeros(len(terminated))
        if not terminated.any():
            return rewards, terminated, {}
        rows = np.flatnonzero(terminated)
        self._running[rows] = False
        rewards[rows], infos = self._finish(rows, ended)
        return rewards, terminated, infos

    def texts(self, rows: Sequence[int] | np.ndarray) -> tuple[list[str], list[str]]:
        """The prompts and the completions so far of some rows, special tokens left out."""
        prompts = [self.ids[row, : self._prompt_lengths[row]] for row in rows]
        contexts = [self.ids[row, : self.lengths[row]] for row in rows]
        texts = self.tokenizer.batch_decode(
            [ids.tolist() for ids in prompts + contexts], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        prompt_texts, context_texts = texts[: len(prompts)], texts[len(prompts) :]
        completions = [text[len(prompt) :] for prompt, text in zip(prompt_texts, context_texts, strict=True)]
        return prompt_texts, completions

    def get_state(self) -> dict[str, Any]:
        """Where the episodes stand, as new arrays and plain values: what `set_state` needs to go on exactly."""
        arrays = {name: getattr(self, name).copy() for name in STATE}
        group = [self.group_size, self._group_index, self._group_left]
        return {"n_rows": len(self.rows), "reward": get_reward_state(self.reward_fn), "group": group, **arrays}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `get_state`.

        Raises:
            ValueError: the state is of a batch of another shape or of other data.
        """
        if state["n_rows"] != len(self.rows):
            raise ValueError(
                f"the state is of a task with {state['n_rows']} rows of data and this one has {len(self.rows)}: make "
                "the environment with the same data"
            )
        for name in STATE:
            if state[name].shape != getattr(self, name).shape:
                raise ValueError(
                    f"the state's {name} have the shape {state[name].shape}, here it is {getattr(self, name).shape}: "
                    "make the environment with the same num_envs, max_prompt_tokens and max_new_tokens"
                )
        for name in STATE:
            getattr(self, name)[...] = state[name]
        set_reward_state(self.reward_fn, state.get("reward", {}))  # bundles of older releases have none
        self.group_size, self._group_index, self._group_left = state.get("group", (1, 0, 0))

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != self.lengths.shape or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be {len(self.lengths)} token ids (integers), got shape {actions.shape} of "
                f"{actions.dtype}: {actions!r}"
            )
        outside = (actions < 0) | (actions >= self.vocab_size)
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"action {actions[row]} (row {row}) is outside the space Discrete({self.vocab_size}): an action is a "
                f"token id from 0 to {self.vocab_size - 1}"
            )
        if not self._running.all():
            raise gym.error.ResetNeeded(f"call reset before step: row {int(self._running.argmin())} has no episode")
        return actions

    def _append_replies(self, ended: np.ndarray) -> None:
        """Append what the task answers to an EOS, where it does and room remains, and clear `ended` (n,) there."""
        rows = np.flatnonzero(ended)
        for row, prompt, completion in zip(rows, *self.texts(rows), strict=True):
            reply = self.task.reply(prompt, completion, self.rows[self.index[row]])
            if not reply:
                continue
            tokens = self.tokenizer(reply, add_special_tokens=False)["input_ids"]
            start, end = self.lengths[row], self.lengths[row] + len(tokens)
            if end - self._prompt_lengths[row] < self.max_new_tokens:  # else the agent could not take another action
                self.ids[row, start:end] = tokens
                self.mask[row, start:end] = 1
                self.lengths[row] = end
                ended[row] = False

    def _finish(self, rows: np.ndarray, ended: np.ndarray) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
        """The scores of ended rows, (k,), and their infos by row."""
        prompts, completions = self.texts(rows)
        data = [self.rows[index] for index in self.index[rows]]
        columns = {name: [row.get(name) for row in data] for name in self._columns}
        scores, components = self._score(rows, prompts, completions, columns)
        metrics = self.task.metrics(prompts, completions, columns)
        infos: dict[int, dict[str, Any]] = {}
        for i, row in enumerate(rows.tolist()):
            infos[row] = {
                "prompt": prompts[i],
                "completion": completions[i],
                "finish_reason": "eos" if ended[row] else "length",
                "reward_components": {name: float(values[i]) for name, values in components.items()},
                "index": int(self.index[row]),
            }
            if metrics:
                infos[row]["metrics"] = {name: float(values[i]) for name, values in metrics.items()}
        return scores, infos

    def _guarded(self) -> Guarded:
        return Guarded(self.reward_fn, self.reward_timeout, self.reward_retries)

    def _score(
        self, rows: np.ndarray, prompts: list[str], completions: list[str], columns: dict[str, list[Any]]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The scores of ended rows and their components; an error says which rows it is about."""
        try:
            return self._guarded().evaluate(prompts, completions, columns)
        except (RewardError, ScoreError) as error:
            at = getattr(error, "index", None)
            about = rows if at is None else rows[[at]]
            named = ", ".join(f"{row} (row {self.index[row]} of the data)" for row in about[:MAX_NAMED])
            more = f" and {len(about) - MAX_NAMED} more" if len(about) > MAX_NAMED else ""
            error.args = (f"{str(error).rstrip('.')}. In environment {named}{more}.",)
            raise


def load_task(task: str | type[Task] | Task) -> Task:
    """The task object of a task, its class, or "module:Class"."""
    if isinstance(task, str):
        module, _, attribute = task.partition(":")
        try:
            task = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            known = sorted(str(s.kwargs["task"]) for s in gym.registry.values() if "task" in s.kwargs)
            raise ValueError(
                f"unknown task {task!r} ({error}): give 'module:Class', such as {', '.join(known)}"
            ) from error
    return task() if isinstance(task, type) else task  # type: ignore[return-value]


def _positive(name: str, value: int | None, default: int) -> int:
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)
