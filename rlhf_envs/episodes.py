"""Run episodes of text: the one implementation of stepping, over n rows at a time.

`TextGenerationEnv` is one row of it and `TextGenerationVectorEnv` is n rows. An ordinary step is a handful of NumPy
operations over all rows. Python visits a single row only where an episode ends or a reply comes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from rlhf_envs.action_masks import ActionMasks, check_actions
from rlhf_envs.chat_format import ChatFormat, choose_template
from rlhf_envs.contexts import Contexts
from rlhf_envs.datasets import Data
from rlhf_envs.datasets.messages import Messages, Prompt, as_answer
from rlhf_envs.dialogs import total_reward
from rlhf_envs.finished import FinishedEpisode, copied, score_episodes
from rlhf_envs.names import check_count
from rlhf_envs.pictures import find_pictures
from rlhf_envs.prompts import PromptSampler, check_fits_model, check_rows, cut_prompts, encode_prompts, room_for
from rlhf_envs.replies import choose_max_turns
from rlhf_envs.rewards import Guarded, TrainerState, check_signature
from rlhf_envs.rewards.state import get_reward_state, is_frozen, set_reward_state
from rlhf_envs.tasks.base import Task, choose_reward, find_rooms
from rlhf_envs.tasks.lookup import environment_rows, load_task
from rlhf_envs.tokens import end_ids, unescape_control_tokens

__all__ = ["EpisodeBatch"]

STATE = ("ids", "mask", "lengths", "steps", "index", "_prompt_lengths", "_running")  # arrays, the first axis is the row


class EpisodeBatch(Contexts):
    """Hold n episodes side by side, step them together and score those that end.

    Args:
        num_envs: the number of rows, n.
        task: a `Task`, its class, or "module:Class".
        model: an embedded model's name, a local folder or a hub id. Its tokenizer is the action space. The task's model
            by default.
        split: the split of the task's data: "train", "validation" or "test".
        max_prompt_tokens: the longest prompt; longer prompts lose their beginning. The task's by default, or as many as
            the longest conversation has.
        max_new_tokens: the room after the prompt, for the agent's tokens and any replies. The task's by default.
        max_turns: the turns that the agent has in an episode of a task with replies, None for no limit. The task's by
            default.
        reward: a registered reward's name or "module:attribute". The task's by default.
        reward_fn: a reward function, instead of `reward`.
        reward_kwargs: arguments of the named reward, or of the task's own: `{"store": "feedback.db"}` for "human".
        data: a file with a `prompt` column, rows or a `datasets.Dataset`, instead of the task's data.
        columns: new names of columns of `data`: `{"prompt": "question"}` takes the column `question` as the prompt.
        validation_share: the share of the prompts of `data` that is for validation, if it has no column `split`.
        test_share: the share of the prompts of `data` that is for tests, if it has no column `split`.
        on_long_prompt: "truncate" cuts long prompts from the left and logs how many; "error" raises.
        system_prompt: the system message of conversations that have none.
        chat: whether a prompt that is a string is what a user says, in the chat template. Otherwise the model goes on
            with the string.
        chat_template: the text of a chat template or its file, instead of the tokenizer's; "roles" for lines such as
            "User: Hello".
        chat_template_kwargs: further variables of the chat template, such as `{"enable_thinking": False}`.
        reward_timeout: seconds that a reward call may take before it counts as failed. None waits for ever. See
            `rlhf_envs.rewards.Guarded` for what a thread that hangs leaves behind.
        reward_retries: how often a reward call is repeated that raises or takes too long, before a `RewardError`.
        reply_timeout: seconds that a call of the task's `replies` may take before the run fails. None waits for ever.
        group_size: how many episodes get each prompt that is drawn, one after the other as rows come free. GRPO and
            RLOO compare the completions of such a group. 1 draws a prompt for every episode.
        min_new_tokens: EOS is masked until the agent has taken this many actions, see `action_masks`. Masks bind only
            agents that read them, such as `maskable_ppo`; `step` takes every token of the action space.
        suppress_tokens: token ids that are always masked.
        tasks: the tasks of a mixture, see `rlhf_envs.tasks.mixture.Mixture`.
        weights: how their weights change: "progress", or None for not at all.
        **own: further arguments of the task's class.

    Attributes:
        ids: (n, L) int64 contexts, right-padded, L = max_prompt_tokens + max_new_tokens.
        mask: (n, L) int8, 1 where there is a token.
        lengths: (n,) tokens in the context.
        steps: (n,) actions taken in the episode.
        index: (n,) the row of the data that the prompt comes from.
        ends: the token ids that end an episode, sorted, see `rlhf_envs.tokens.end_ids`.
        rows: the data. A prompt is a string, or messages with the system message that the agent reads.
        columns: the names of the data's columns beside the prompt, which go to the reward.
        chat: how prompts of messages are written.
        dialogs: the conversations of the rows; None if the task has no replies.
        pictures: the pictures of the data, which `model` reads; None if there are none.

    Raises:
        ValueError: an argument is wrong; the message says which one and what would be right.
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
        max_turns: int | None = None,
        reward: str | None = None,
        reward_fn: Callable[..., Any] | None = None,
        reward_kwargs: dict[str, Any] | None = None,
        data: Data | None = None,
        columns: Mapping[str, str] | None = None,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        on_long_prompt: Literal["truncate", "error"] = "truncate",
        system_prompt: str | None = None,
        chat: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        reward_timeout: float | None = None,
        reward_retries: int = 2,
        reply_timeout: float | None = None,
        group_size: int = 1,
        min_new_tokens: int = 0,
        suppress_tokens: Sequence[int] | None = None,
        tasks: Sequence[Any] | Mapping[str, float] | None = None,
        weights: str | None = None,
        **own: Any,
    ) -> None:
        self.task = load_task(task, tasks, weights, **own)
        self.model_name = self.task.default_model if model is None else model
        if isinstance(self.model_name, os.PathLike):
            self.model_name = os.fspath(self.model_name)
        usual_prompt = check_count("max_prompt_tokens", max_prompt_tokens, self.task.max_prompt_tokens)
        self.max_new_tokens = check_count("max_new_tokens", max_new_tokens, self.task.max_new_tokens)
        self.max_turns = choose_max_turns(self.task, max_turns, reply_timeout)
        tokenizer = self.task.tokenizer(self.model_name)
        template = choose_template(tokenizer, chat_template, self.task)
        self.chat = ChatFormat(tokenizer, system_prompt, chat, template, chat_template_kwargs)
        self.tokenizer = self.chat.tokenizer
        self.vocab_size = len(self.tokenizer)
        if self.model_name is not None:
            check_fits_model(self.model_name, self.vocab_size, usual_prompt, self.max_new_tokens)
        self.reward_fn = choose_reward(self.task, self.max_new_tokens, reward, reward_fn, reward_kwargs)
        self.reward_timeout, self.reward_retries, self.reply_timeout = reward_timeout, reward_retries, reply_timeout
        self.trainer_state: Any = TrainerState()  # what rewards are given that declare it
        self._guarded()  # raises now if one of these two is wrong
        group_size = check_count("group_size", group_size, 1)
        self.ends = end_ids(self.tokenizer, self.model_name)
        self.split = split
        data = list(data) if isinstance(data, Iterator) else data  # it is read again for other splits
        shares = {"validation_share": validation_share, "test_share": test_share}
        self._data: dict[str, Any] = {"data": data, "columns": columns, **shares}
        self.rows = self.rows_of(split)
        self.columns = check_rows(self.rows, self.task.name, data, system_prompt)
        self.pictures = find_pictures(self.model_name, self.rows, self.task.name, self.task.reads_pictures)
        never = () if self.pictures is None else [self.pictures.token_id]
        masked = min_new_tokens, suppress_tokens, self.ends, never
        self._masks = ActionMasks(self.task, self.tokenizer, self.max_new_tokens, *masked)
        check_signature(self.reward_fn, self.columns)
        self._prompts, self.max_prompt_tokens = self._encode_prompts(max_prompt_tokens, usual_prompt, on_long_prompt)
        self._rooms = np.array(find_rooms(self.task, self.rows, self.max_new_tokens))
        self.sampler = PromptSampler(len(self.rows), group_size, self.task.task_weights(self.rows, split))
        self._allocate(num_envs, self.max_prompt_tokens + self.max_new_tokens)

    def _encode_prompts(self, given: int | None, usual: int, on_long_prompt: str) -> tuple[list[np.ndarray], int]:
        """Return the prompts as token ids, and how many a prompt may have: `usual`, or more if no limit is given."""
        if self.task.has_replies:
            self.chat.prepare_dialogs([row["prompt"] for row in self.rows])
            self.tokenizer = self.chat.tokenizer
        encoded, limit = encode_prompts(self.chat, self.rows, self.task.name), usual
        if given is None:
            limit = room_for(self.rows, encoded, usual, self.model_name, self.max_new_tokens, self.pictures)
        cut = cut_prompts(self.chat, self.rows, encoded, limit, on_long_prompt, self.task.name, self.pictures)
        return cut, limit

    def rows_of(self, split: str) -> list[dict[str, Any]]:
        """Return the rows of a split of the data, each prompt as the string or the messages that the agent reads."""
        return self.chat.read(environment_rows(self.task, split, **self._data), self.task.name)

    def copy(self, num_envs: int) -> EpisodeBatch:
        """Return `num_envs` other rows with the same task, data and reward, without groups."""
        other = copy.copy(self)
        other.sampler = PromptSampler(len(self.rows), 1, copy.deepcopy(self.sampler.tasks))
        other._allocate(num_envs, self.ids.shape[1])
        return other

    @property
    def group_size(self) -> int:
        """Return how many episodes get each prompt that is drawn."""
        return self.sampler.group_size

    def set_group_size(self, group_size: int) -> None:
        """Give every prompt that is drawn from now on to this many episodes, see the class."""
        self.sampler = PromptSampler(len(self.rows), check_count("group_size", group_size, 1), self.sampler.tasks)

    def draw(self, row: int, rng: np.random.Generator, index: object = None) -> dict[str, Any]:
        """Begin an episode in a row with a prompt that `rng` draws, or the one at `index`; return its reset info."""
        index = self.sampler.draw(rng, index)
        return self.start(row, index, 0 if self.dialogs is None else int(rng.integers(2**63)))

    def start(self, row: int, index: int, seed: int = 0) -> dict[str, Any]:
        """Begin an episode in a row with the prompt at `index` of the data, and return its reset info.

        `seed` seeds the generator of its dialog.
        """
        prompt = self._prompts[index]
        self.ids[row] = self._pad
        self.mask[row] = 0
        self.ids[row, : len(prompt)] = prompt
        self.mask[row, : len(prompt)] = 1
        self.lengths[row] = self._prompt_lengths[row] = len(prompt)
        self.steps[row] = 0
        self.index[row] = index
        self._show_picture(row)
        self._running[row] = True
        if self.dialogs is not None:
            self.dialogs.begin(row, self.rows[index], index, len(prompt), seed)
        return {"index": index, **self._task_of(index)}

    def action_masks(self) -> np.ndarray:
        """Return which tokens may come next, a new (n, V) bool array; True means allowed.

        Raises:
            ValueError: a row is left without a token, or the task's masks have another shape.
        """
        rows = [self.rows[index] for index in self.index] if self.task.subtasks else None
        starts = None if self.dialogs is None else self.dialogs.starts
        rooms = self._rooms[self.index] - (self.lengths - self._prompt_lengths)
        return self._masks(self.ids, self.lengths, self._prompt_lengths, self.steps, rows, starts, rooms)

    @property
    def mask_options(self) -> dict[str, Any]:
        """Return `min_new_tokens` and `suppress_tokens` as they were given."""
        return {"min_new_tokens": self._masks.min_new_tokens, "suppress_tokens": self._masks.suppress_tokens}

    def step(
        self, actions: np.ndarray, unscored: list[FinishedEpisode] | None = None
    ) -> tuple[np.ndarray, np.ndarray, dict[int, dict[str, Any]]]:
        """Append one token per row, and the replies to turns that end. Score the episodes that end, in one reward call.

        Args:
            actions: (n,) integers below the vocabulary's size.
            unscored: where to put the episodes that end, in the order of the rows, instead of scoring them. `score`
                scores them later, and completes their infos.

        Returns:
            rewards (n,) float64: of the turns that end, and of the episodes that end; terminated (n,) bool; the infos
            of ended rows, by row.

        Raises:
            ValueError: an action is outside the space, or a reply is wrong.
            ReplyError: the task failed to reply.
            gymnasium.error.ResetNeeded: an episode is over.
        """
        actions = check_actions(actions, len(self.lengths), self.vocab_size)
        if not self._running.all():
            raise gym.error.ResetNeeded(f"call reset before step: row {int(self._running.argmin())} has no episode")
        self.ids[self._all, self.lengths] = actions
        self.mask[self._all, self.lengths] = 1
        self.lengths += 1
        self.steps += 1
        rewards, reasons = np.zeros(len(actions)), dict[int, str]()
        if (ended := self._is_end[actions]).any():
            reasons = self._append_replies(np.flatnonzero(ended), rewards)
        terminated = self.lengths - self._prompt_lengths >= self._rooms[self.index]
        terminated[list(reasons)] = True
        if not terminated.any():
            return rewards, terminated, {}
        rows = np.flatnonzero(terminated)
        self._running[rows] = False
        finished = self._finish(rows, [reasons.get(row, "length") for row in rows.tolist()])
        if unscored is None:
            rewards[rows] += self.score(finished)
        else:
            unscored += finished
        return rewards, terminated, {episode.row: episode.info for episode in finished}

    def get_state(self) -> dict[str, Any]:
        """Return all that `set_state` needs to continue the episodes exactly, as new arrays and plain values."""
        arrays = {name: getattr(self, name).copy() for name in STATE}
        reward, group = get_reward_state(self.reward_fn), self.sampler.get_state()
        dialogs = {} if self.dialogs is None else {"dialogs": self.dialogs.get_state()}
        tasks = {} if self.sampler.tasks is None else {"tasks": self.sampler.tasks.get_state()}
        return {"n_rows": len(self.rows), "reward": reward, "group": group, **tasks, **dialogs, **arrays}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `get_state`.

        Raises:
            ValueError: the state belongs to a batch of another shape or to other data.
        """
        if state["n_rows"] != len(self.rows):
            raise ValueError(
                f"the state has {state['n_rows']} rows of data, and this environment {len(self.rows)}: make it with "
                "the same data"
            )
        for name in STATE:
            if state[name].shape != getattr(self, name).shape:
                raise ValueError(
                    f"the state's {name} have the shape {state[name].shape}, here it is {getattr(self, name).shape}: "
                    "make the environment with the same num_envs, max_prompt_tokens and max_new_tokens"
                )
        for name in STATE:
            getattr(self, name)[...] = state[name]
        for row in range(len(self.index)):
            self._show_picture(row)
        self.set_learned(state)
        self.sampler.set_state(state.get("group", (1, 0, 0)))
        if self.dialogs is not None:
            if "dialogs" not in state:
                raise ValueError("the state has no dialogs, as those of older releases: reset the environment instead")
            self.dialogs.set_state(state["dialogs"], self.rows)

    def set_learned(self, state: Mapping[str, Any]) -> None:
        """Take from a state of `get_state`, of any number of rows, what rewards and weights of tasks have learned.

        Raises:
            ValueError: the state belongs to other tasks or levels.
        """
        set_reward_state(self.reward_fn, state.get("reward", {}))  # bundles of older releases have none
        if self.sampler.tasks is not None:
            self.sampler.tasks.set_state(state.get("tasks", {}))

    def _append_replies(self, rows: np.ndarray, rewards: np.ndarray) -> dict[int, str]:
        """Append the task's replies to rows whose turn has ended, and write the turns' rewards into `rewards` (n,).

        Return by row why an episode ends.
        """
        if self.dialogs is None:
            return dict.fromkeys(rows.tolist(), "eos")
        reasons, rooms = {}, (self._rooms[self.index] - (self.lengths - self._prompt_lengths))[rows]
        answers = self.dialogs.answer(rows.tolist(), self._turns(rows), rooms.tolist())
        for row, (tokens, reward, reason) in zip(rows.tolist(), answers, strict=True):
            rewards[row] = reward
            if reason is not None:
                reasons[row] = reason
                continue
            start, end = self.lengths[row], self.lengths[row] + len(tokens)
            self.ids[row, start:end] = tokens
            self.mask[row, start:end] = 1
            self.lengths[row] = self.dialogs.starts[row] = end
        return reasons

    def _finish(self, rows: np.ndarray, reasons: list[str]) -> list[FinishedEpisode]:
        """Return the episodes of ended rows, not scored yet; `reasons` says why each has ended."""
        talks: Sequence[Messages | None] = [None] * len(rows) if self.dialogs is None else self.conversations(rows)
        finished: list[FinishedEpisode] = []
        for row, reason, talk, before, after in zip(rows.tolist(), reasons, talks, *self.texts(rows), strict=True):
            index = int(self.index[row])
            prompt, completion = self._as_given(self.rows[index], before, after, talk)
            ids = self.ids[row, self._prompt_lengths[row] : self.lengths[row]].tolist()
            info: dict[str, Any] = {"prompt": prompt, "completion": completion, "completion_ids": ids}
            info |= {"finish_reason": reason, "index": index, **self._task_of(index)}
            if isinstance(prompt, list):
                info["messages"] = [*prompt, *completion]
            if self.dialogs is not None:
                turns, metrics = self.dialogs.turn_rewards(row), self.dialogs.metrics(row)
                info |= {"messages": talk, "turn_rewards": turns, "metrics": metrics}
            finished.append(FinishedEpisode(row, ids, info))
        return finished

    def score(self, episodes: Sequence[FinishedEpisode]) -> np.ndarray:
        """Return the scores (k,) of k finished episodes, in one reward call, and complete their infos.

        Raises:
            RewardError, ScoreError: the reward failed; the message names environments and rows of the data.
        """
        about = self.task, self.rows, self.columns
        scores = score_episodes(self._guarded(), *about, episodes, self.trainer_state)
        if self.sampler.tasks is not None and not is_frozen():
            ended = zip(episodes, scores, strict=True)
            rewards = [total_reward(episode.turn_reward + score, episode.info) for episode, score in ended]
            names = self.sampler.tasks.names
            self.sampler.tasks.learn([names[episode.info["index"]] for episode in episodes], rewards)
        return scores

    def _task_of(self, index: int) -> dict[str, str]:
        """Return what infos say of the task of a row of the data, in a mixture."""
        return {"task": self.rows[index]["task"]} if self.task.subtasks else {}

    def _as_given(
        self, row: Mapping[str, Any], prompt: str, completion: str, talk: Messages | None
    ) -> tuple[Prompt, Prompt]:
        """Return the texts of a finished episode as rewards get them: as messages, if the row has a conversation."""
        given = row["prompt"]
        if isinstance(given, str):
            return prompt, completion
        if talk is None:
            return copied(given), as_answer(unescape_control_tokens(self.tokenizer, completion))
        return copied(given), talk[len(given) :]

    def _guarded(self) -> Guarded:
        """Return the reward function with its time limit and retries."""
        return Guarded(self.reward_fn, self.reward_timeout, self.reward_retries)
