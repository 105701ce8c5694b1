"""What the single and the batched environment have in common beside their spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf_envs.episodes import EpisodeBatch
    from rlhf_envs.tasks.base import Task

__all__ = ["HasEpisodes"]


class HasEpisodes:
    """What the single and the batched environment show of their `EpisodeBatch`."""

    episodes: EpisodeBatch

    @property
    def task(self) -> Task:
        """The task."""
        return self.episodes.task

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer whose vocabulary is the action space."""
        return self.episodes.tokenizer

    @property
    def model_name(self) -> str | None:
        """The name of the model that the tokenizer belongs to; None where the task brings its own."""
        return self.episodes.model_name

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt."""
        return self.episodes.max_prompt_tokens

    @property
    def max_new_tokens(self) -> int:
        """The room after the prompt."""
        return self.episodes.max_new_tokens

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The data: dicts with a `prompt`."""
        return self.episodes.rows

    def set_group_size(self, group_size: int) -> None:
        """Give every prompt that is drawn from now on to so many episodes, one after the other as rows come free."""
        self.episodes.set_group_size(group_size)

    @property
    def group_size(self) -> int:
        """Episodes that a prompt which is drawn is given to."""
        return self.episodes.group_size

    @property
    def reward_fn(self) -> Callable[..., Any]:
        """The reward function; setting it counts from the next finished episode on."""
        return self.episodes.reward_fn

    @reward_fn.setter
    def reward_fn(self, reward_fn: Callable[..., Any]) -> None:
        self.set_reward_fn(reward_fn)

    def set_reward_fn(self, reward_fn: Callable[..., Any]) -> None:
        """Set the reward function; a method, since SB3's `env_method` reaches through wrappers."""
        if not callable(reward_fn):
            raise ValueError(f"reward_fn must be callable, got {reward_fn!r}")
        self.episodes.reward_fn = reward_fn
