"""List the keyword arguments that all text environments take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from rlhf_envs.datasets import Data

__all__ = ["EpisodeOptions"]


class EpisodeOptions(TypedDict, total=False):
    """List the keyword arguments that all text environments take. `rlhf_envs.episodes.EpisodeBatch` documents them.

    A task's class may take more, see `rlhf_envs.tasks.base.Task`.
    """

    model: str | None
    split: str
    max_prompt_tokens: int | None
    max_new_tokens: int | None
    max_turns: int | None
    reward: str | None
    reward_fn: Callable[..., Any] | None
    reward_kwargs: dict[str, Any] | None
    data: Data | None
    columns: Mapping[str, str] | None
    validation_share: float
    test_share: float
    on_long_prompt: Literal["truncate", "error"]
    system_prompt: str | None
    chat: bool
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    reward_timeout: float | None
    reward_retries: int
    reply_timeout: float | None
    group_size: int
    min_new_tokens: int
    suppress_tokens: Sequence[int] | None
    tasks: Sequence[Any] | Mapping[str, float] | None
    weights: str | None
