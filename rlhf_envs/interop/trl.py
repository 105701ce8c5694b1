"""Give the tasks of this package to TRL's trainers: the prompts as a dataset, and the reward as a reward function.

    from rlhf_envs.interop import trl as tasks

    trainer = GRPOTrainer(
        model="tiny-folder",
        reward_funcs=tasks.reward("rlhf/Sentiment-v0"),
        train_dataset=tasks.dataset("rlhf/Sentiment-v0"),
        processing_class=tasks.tokenizer("rlhf/Sentiment-v0"),
        args=GRPOConfig(**tasks.settings("rlhf/Sentiment-v0"), ...),
    )

TRL draws the prompts evenly, each with its own groups, and one completion is an episode. So tasks with replies are
refused, and what an environment does while it samples (masks, the weights of a mixture, levels of a curriculum) does
not take place; a warning says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlhf_envs.datasets.messages import Prompt, said, shown
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.finished import copied
from rlhf_envs.rewards import Guarded, evaluate_reward
from rlhf_envs.tasks.base import Task, find_rooms, measure
from rlhf_envs.tasks.lookup import check_environment
from rlhf_envs.tokens import completion_texts

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped]
    from transformers import PreTrainedTokenizerBase

__all__ = ["TaskReward", "dataset", "reward", "settings", "tokenizer"]

logger = logging.getLogger(__name__)

# Columns that TRL takes for its own: it tells the kind of a dataset by some of them, and does not pass others on.
TAKEN = ("chosen", "completion", "image", "images", "messages", "rejected", "tools", "environments")
CARRIED = "row_{}"  # under which the dataset carries them
WHOLE = "whole_prompts"  # as reward functions of this package name them


def dataset(env_id: str, split: str = "train", **env_kwargs: Any) -> Dataset:
    """Return the prompts of an environment as a dataset for `GRPOTrainer`, `RLOOTrainer` or `OnlineDPOTrainer`.

    A row has the `prompt`, as the agent reads it: a string, or messages, which TRL writes in the chat template. A
    string is cut to `max_prompt_tokens`. The other columns are what the reward needs of the row.

    Args:
        env_id: a registered id, such as "rlhf/Sentiment-v0".
        split: "train", "validation" or "test".
        **env_kwargs: arguments of the environment: `model`, `data`, `chat`, `system_prompt`, ...

    Raises:
        ImportError: datasets is not installed.
        ValueError: there is no such environment, it has replies or pictures, or a value fits into no dataset.
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError(f"TRL's trainers need datasets ({error}): pip install 'rlhf-envs[train]'") from error
    episodes = _open(env_id, split, env_kwargs)
    _warn(env_id, episodes)
    rows = [_row(episodes, index) for index in range(len(episodes.rows))]
    if all(row[WHOLE] == row["prompt"] for row in rows):
        for row in rows:
            del row[WHOLE]
    made = Dataset.from_list(rows, on_mixed_types="use_json")
    for number, (given, kept) in enumerate(zip(rows, made, strict=True)):
        if changed := next((name for name in given if not _same(given[name], kept[name])), None):
            raise ValueError(
                f"{env_id}: the column {changed!r} of row {number} is {given[changed]!r}, which a datasets.Dataset "
                f"turns into {kept[changed]!r}: make it a text"
            )
    return made


def reward(env_id: str, split: str = "train", **env_kwargs: Any) -> TaskReward:
    """Return the reward of an environment as a reward function for TRL's trainers.

    Args:
        env_id: a registered id.
        split: the split of the dataset, whose columns the reward gets.
        **env_kwargs: arguments of the environment, the same as of `dataset`; `reward` and `reward_fn` among them.

    Raises:
        ValueError: there is no such environment, or it has replies or pictures.
    """
    return TaskReward(env_id, _open(env_id, split, env_kwargs))


def tokenizer(env_id: str, **env_kwargs: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of an environment, with the chat template that it has there, as `processing_class`."""
    return _open(env_id, env_kwargs.pop("split", "train"), env_kwargs).tokenizer


def settings(env_id: str, **env_kwargs: Any) -> dict[str, Any]:
    """Return what TRL's configurations need to sample as the environment does: the length, variables of the template.

    They are arguments of `GRPOConfig` and `RLOOConfig`. `OnlineDPOConfig` names the first `max_new_tokens`.
    """
    episodes = _open(env_id, env_kwargs.pop("split", "train"), env_kwargs)
    variables = {"chat_template_kwargs": episodes.chat.variables} if episodes.chat.variables else {}
    return {"max_completion_length": episodes.max_new_tokens, **variables}


class TaskReward:
    """Score completions as an environment does, with the signature of TRL's reward functions.

    It returns a float for each completion, or None where the reward does not apply. What the reward gives to
    `log_metric` and `log_extra` goes to TRL's; the task's metrics and, of a composed reward, the components stand in
    TRL's logs under the names that they have in our TensorBoard, `rlhf/<metric>` and `rlhf/reward_<component>`.

    Args:
        env_id: the environment's id, from which it has its name in TRL's logs.
        episodes: the environment's episodes.
    """

    def __init__(self, env_id: str, episodes: EpisodeBatch) -> None:
        self.__name__ = env_id
        self.task: Task = episodes.task
        self.columns = tuple(episodes.columns)
        self.tokenizer, self.ends = episodes.tokenizer, frozenset(episodes.ends)
        self._reward = _MaybeSilent(episodes.reward_fn, episodes.reward_timeout, episodes.reward_retries)
        self._is_warned = False

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return n scores of n completions.

        Args:
            prompts: n strings, or n conversations.
            completions: n strings, or n lists with a message of the assistant.
            completion_ids: their tokens, with the EOS that ended them.
            trainer_state: the state of TRL's trainer, for rewards that declare it.
            log_metric: TRL's logging of a number.
            log_extra: TRL's logging of a column.
            **columns: the columns of `dataset`, n values each. Others are left alone.

        Raises:
            ValueError: a column is missing, or the reward returned no finite number.
            RewardError: the reward failed.
        """
        n = len(completions)
        of_data = {name: [copied(value) for value in self._column(name, columns, n)] for name in self.columns}
        known = {WHOLE: list(columns.get(WHOLE, prompts))}
        if completion_ids is not None and (ids := self._read_ids(completion_ids, completions)) is not None:
            ended = ["eos" if one and one[-1] in self.ends else "length" for one in ids]
            known |= {"completion_ids": ids, "finish_reasons": ended}
            completions = [
                self._whole_characters(text, one) if reason == "length" else text
                for text, one, reason in zip(completions, ids, ended, strict=True)
            ]
        scores = evaluate_reward(self._reward, prompts, completions, {**of_data, **known}, trainer_state)
        if log_metric is not None:
            parts = scores.components.items() if len(scores.components) > 1 else ()
            metrics = measure(self.task, [*map(shown, prompts)], [*map(said, completions)], of_data)
            for name, values in [*((f"reward_{name}", part) for name, part in parts), *metrics.items()]:
                if len(found := [float(value) for value in values if not math.isnan(value)]):
                    log_metric(f"rlhf/{name}", float(np.mean(found)))
            for name, value in scores.metrics.items():
                log_metric(name, value)
        if log_extra is not None:
            for column, values in scores.extra.items():
                log_extra(column, list(values))
        return [None if math.isnan(total) else float(total) for total in scores.totals]

    def _column(self, name: str, columns: Mapping[str, Any], n: int) -> list[Any]:
        """Return the n values of a column of the data."""
        carried = CARRIED.format(name) if name in TAKEN else name
        if carried not in columns:
            raise ValueError(
                f"the reward of {self.__name__} needs the column {carried!r}, and the dataset has not: take the one "
                f"of rlhf_envs.interop.trl.dataset({self.__name__!r}) with the same arguments"
            )
        if not hasattr(columns[carried], "tolist"):
            return list(columns[carried])
        numbers: list[Any] = columns[carried].tolist()
        # TRL's Online DPO repeats lists alone for its second completions.
        return numbers * (n // len(numbers))

    def _read_ids(
        self, completion_ids: Sequence[Sequence[int]], completions: Sequence[Prompt]
    ) -> list[list[int]] | None:
        """Return the tokens of completions without padding; None, and a warning, if another tokenizer wrote them."""
        ids = [self._without_padding([int(token) for token in one]) for one in completion_ids]
        if all(self._is_written(*pair) for pair in zip(ids, completions, strict=True)):
            return ids
        if not self._is_warned:
            logger.warning(
                "%s: the trainer's tokens are not of the environment's tokenizer, so its reward is given no "
                "completion_ids and finish_reasons: give model=<the trainer's model> to reward(...)",
                self.__name__,
            )
        self._is_warned = True
        return None

    def _without_padding(self, ids: list[int]) -> list[int]:
        """Return the tokens up to the EOS that ends them, or without the padding after them."""
        pad = self.tokenizer.pad_token_id
        length = len(ids)
        while length and ids[length - 1] == pad and (pad not in self.ends or {*ids[: length - 1]} & self.ends):
            length -= 1
        return ids[:length]

    def _is_written(self, ids: list[int], completion: Prompt) -> bool:
        """Return whether a completion is what TRL reads in its tokens with the environment's tokenizer."""
        if any(not 0 <= token < len(self.tokenizer) for token in ids):
            return False
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return str(said(completion)).strip() == str(text).strip()

    def _whole_characters(self, completion: Prompt, ids: list[int]) -> Prompt:
        """Return a completion that the limit cut without a broken last character, as environments read it."""
        whole, kept = (completion_texts(self.tokenizer, [[]], [ids], [cut])[0] for cut in (False, True))
        if whole == kept:
            return completion
        if isinstance(completion, str):
            return completion[: len(completion) + len(kept) - len(whole)]
        last = completion[-1]
        return [*completion[:-1], {**last, "content": last["content"][: len(last["content"]) + len(kept) - len(whole)]}]


class _MaybeSilent(Guarded):
    """Guard a reward as environments do; TRL allows episodes to which it does not apply."""

    may_be_silent = True


def _open(env_id: str, split: str, env_kwargs: Mapping[str, Any]) -> EpisodeBatch:
    """Return the episodes of an environment, after checking that TRL can sample them."""
    env_id = check_environment(env_id)
    env = gym.make(env_id, disable_env_checker=True, split=split, **env_kwargs)
    episodes: EpisodeBatch = env.unwrapped.episodes  # type: ignore[attr-defined]
    if episodes.task.has_replies:
        raise ValueError(
            f"{env_id} has replies, and TRL's reward functions score single completions: train on it with rlhf train "
            f"--env {env_id}, or serve it (rlhf serve-env {env_id}) to GRPOTrainer(environment_factory=...)"
        )
    if episodes.pictures is not None:
        raise ValueError(f"{env_id} has pictures, which are not handed to TRL: train on it with rlhf train")
    return episodes


def _row(episodes: EpisodeBatch, index: int) -> dict[str, Any]:
    """Return a row of the dataset."""
    row = episodes.rows[index]
    own = {CARRIED.format(name) if name in TAKEN else name: row.get(name) for name in episodes.columns}
    prompt = episodes.read_prompt(index) if isinstance(row["prompt"], str) else row["prompt"]
    return {"prompt": prompt, **own, WHOLE: row["prompt"]}


def _warn(env_id: str, episodes: EpisodeBatch) -> None:
    """Say what of the environment does not take place in TRL's sampling."""
    lost = []
    if episodes.sampler.tasks is not None:
        lost.append("the weights of its tasks or levels (TRL draws all rows evenly)")
    if (episodes.task.masks_bind and episodes.task.has_masks) or any(episodes.mask_options.values()):
        lost.append("its action masks")
    if len({*find_rooms(episodes.task, episodes.rows, episodes.max_new_tokens)}) > 1:
        lost.append("the lengths of its tasks (TRL has one max_completion_length)")
    if lost:
        logger.warning("%s in TRL is without %s", env_id, " and ".join(lost))
    talks = [(i, row["prompt"]) for i, row in enumerate(episodes.rows) if not isinstance(row["prompt"], str)]
    if cut := sum(episodes.read_prompt(i) != episodes.chat.text(prompt) for i, prompt in talks):
        logger.warning(
            "%s: %d of %d conversations are longer than max_prompt_tokens=%d; TRL reads them whole",
            *(env_id, cut, len(episodes.rows), episodes.max_prompt_tokens),
        )


def _same(given: Any, kept: Any) -> bool:
    """Return whether a dataset has kept a value; tuples are lists there."""
    if isinstance(given, Mapping):
        return isinstance(kept, Mapping) and {*given} == {*kept} and all(_same(given[key], kept[key]) for key in given)
    if isinstance(given, list | tuple):
        return isinstance(kept, list) and len(given) == len(kept) and all(map(_same, given, kept))
    if isinstance(given, float) and math.isnan(given):
        return isinstance(kept, float) and math.isnan(kept)
    return bool(given == kept) and isinstance(given, bool) == isinstance(kept, bool)
