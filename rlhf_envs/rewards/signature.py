"""Check that a reward function can be called with the data's columns, before anything is sampled for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlhf_envs.rewards.base import FunctionReward, Reward
from rlhf_envs.rewards.calling import KNOWN
from rlhf_envs.rewards.scores import ScoreError

__all__ = ["MissingColumnError", "check_signature"]


class MissingColumnError(ScoreError):
    """Raise where a reward needs a column that the data has not."""


def check_signature(reward_fn: Callable[..., Any], columns: Sequence[str]) -> None:
    """Check that every part of a reward can be called with prompts, completions and these columns, by keyword.

    Functions whose signature Python does not know pass.

    Raises:
        MissingColumnError: a part needs a column that is not there.
        ScoreError: a part has another signature; the message has the right one.
    """
    for reward, known in _leaves(reward_fn, columns):
        name = getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__
        function = reward.function if isinstance(reward, FunctionReward) else reward
        try:
            signature = inspect.signature(function.score if isinstance(function, Reward) else function)
        except (ValueError, TypeError):  # some are written in C
            continue
        _check(str(name), signature.parameters, known)


def _leaves(reward: Any, columns: Sequence[str]) -> Iterator[tuple[Any, Sequence[str]]]:
    """Yield the rewards that a reward is made of, or the reward itself, each with the columns that it is given."""
    parts = reward.parts() if isinstance(reward, Reward) else ()
    for part, known in zip(parts, reward.part_columns(columns) if parts else (), strict=True):
        yield from _leaves(part, known)
    if not parts:
        yield reward, columns


def _check(name: str, parameters: Any, columns: Sequence[str]) -> None:
    kinds = inspect.Parameter
    named = [p for p in parameters.values() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    takes = {p.name for p in named}
    takes_all = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    own = {"prompts", "completions"}
    unnamed = any(p.kind is kinds.POSITIONAL_ONLY and p.default is p.empty for p in parameters.values())
    needed = [p.name for p in named if p.default is p.empty and p.name not in {*own, *KNOWN, *columns}]
    if unnamed or not (takes_all or own <= takes) or (needed and not own & takes):
        raise ScoreError(
            f"reward {name!r} is {_shown(name, parameters)}, and is called with keywords and lists: write "
            f"def {_identifier(name)}(prompts, completions, **columns), which returns one float per completion"
        )
    if needed:
        there = ", ".join(columns) or "no columns but the prompt"
        raise MissingColumnError(f"reward {name!r} needs the column {needed[0]!r}; the data has: {there}")
    if not takes_all and (refused := [column for column in columns if column not in takes]):
        raise ScoreError(
            f"reward {name!r} does not take the column {refused[0]!r} of the data: end its parameters with **columns"
        )


def _shown(name: str, parameters: Any) -> str:
    return f"{_identifier(name)}({', '.join(map(str, parameters.values()))})"


def _identifier(name: str) -> str:
    return name if name.isidentifier() else "score"
