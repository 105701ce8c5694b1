"""Define what a reward is, compose rewards, and check scores in one place.

The signature is TRL's, called with keywords as TRL does, so a reward function written for TRL serves here: it is given
`completion_ids` if it declares them, and returns None for an episode that it does not apply to. Unlike in TRL, an
episode to which no reward applies is an error.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import numpy as np

from rlhf_envs.datasets.messages import Prompt, said, shown
from rlhf_envs.rewards.calling import call_reward, open_calls
from rlhf_envs.rewards.scores import (
    Columns,
    ScoreError,
    Scores,
    add_component,
    as_scores,
    check_finite,
    check_scores,
    combine,
)
from rlhf_envs.rewards.waiting import Background, is_async, run_async

__all__ = ["Composed", "FunctionReward", "Reward", "RewardFunction", "RewardOfRewards", "evaluate_reward"]


class RewardFunction(Protocol):
    """Describe any callable that returns one score per episode; `columns` are the data's other columns, as lists.

    A prompt and its completion are strings, or for a conversation both are messages, as in TRL: `[{"role": "user",
    "content": ...}]` and `[{"role": "assistant", "content": ...}]`.

    A function with a parameter `completion_ids` is given the tokens of each completion too, as lists of ids with the
    EOS; one with `finish_reasons` is told how each episode ended ("eos" or "length", and with replies also "turns" or
    "task"), and one with `whole_prompts` the prompts before they were cut to `max_prompt_tokens`.

    A score is a float; or a list, an array or a tensor with a float for every token of `completion_ids`, which sum to
    the score; or None, which says that the reward does not apply to the episode. Then a composition leaves it out, as
    TRL's sum of rewards does, and the episode has no component of that name; an episode to which nothing applies is an
    error. `(score, {"name": float})` adds components.
    """

    def __call__(self, prompts: list[Prompt], completions: list[Prompt], **columns: list[Any]) -> Any:
        """Score n completions and return n scores."""


class Reward(ABC):
    """Give a reward function a name and let it compose: `0.7 * helpful + 0.3 * polite - 2 * toxic`.

    A subclass implements `score`. The operands of `+`, `-` and `*` are rewards, plain reward functions or numbers.

    Attributes:
        name: the name of its component.
        reads_messages: whether `score` takes conversations as messages. Otherwise it gets the texts of `as_texts`.
        may_be_silent: whether there may be episodes to which no part of it applies, as of the judges of a mixture.
    """

    name: str = "reward"
    reads_messages: bool = False
    may_be_silent: bool = False

    @property
    def __name__(self) -> str:
        """Return the name, with which TRL labels the scores of a reward function."""
        return self.name

    @abstractmethod
    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> Any:
        """Score n completions and return (n,) floats."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[Any]) -> Any:
        """Return the same as `score`, of messages and of texts."""
        if not self.reads_messages:
            prompts, completions = self.as_texts(prompts, completions)
        scores = self.score(prompts, completions, **columns)  # type: ignore[arg-type]
        return run_async(scores) if inspect.isawaitable(scores) else scores

    def as_texts(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> tuple[list[str], list[str]]:
        """Return the texts of prompts and completions: of messages what people read, a single question alone."""
        return [*map(shown, prompts)], [*map(said, completions)]

    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the checked scores, (n,) float64, and their components by name; a composition overrides it.

        It is given conversations as messages: a reward of texts that overrides it calls `as_texts` itself.
        NaN stands where the reward does not apply, which is where it returned None. What it returns may be `Scores`,
        which hold rewards of tokens too.
        """
        return _checked(self, self.name, prompts, completions, columns)

    def _checked_scores(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns) -> Scores:
        """Return what `evaluate` returns as `Scores`, after checking that they are finite."""
        found = as_scores(self.evaluate(prompts, completions, columns))
        return check_finite(found, self.name, prompts, completions)

    def parts(self) -> tuple[Reward, ...]:
        """Return the rewards that this one is made of; none by default."""
        return ()

    def part_columns(self, columns: Sequence[str]) -> Sequence[Sequence[str]]:
        """Return for each of its parts the names of the data's columns that it is given, all by default."""
        return [columns] * len(self.parts())

    def get_state(self) -> dict[str, Any]:
        """Return what it has learned from the texts so far, as plain values and arrays; nothing by default."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `get_state`; a reward that keeps one overrides both."""
        if state:
            raise NotImplementedError(f"reward {self.name!r} keeps no state, and was given {', '.join(sorted(state))}")

    def __add__(self, other: object) -> Reward:
        return _compose("+", self, other)

    def __radd__(self, other: object) -> Reward:
        return self if _is_zero(other) else _compose("+", other, self)  # so that sum(rewards) works

    def __sub__(self, other: object) -> Reward:
        return _compose("-", self, other)

    def __rsub__(self, other: object) -> Reward:
        return _compose("-", other, self)

    def __mul__(self, other: object) -> Reward:
        return _compose("*", self, other)

    def __rmul__(self, other: object) -> Reward:
        return _compose("*", other, self)

    def __neg__(self) -> Reward:
        return _compose("*", -1, self)


class FunctionReward(Reward):
    """Wrap a plain reward function as an operand of a composition."""

    reads_messages = True

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        self.name = name or _name_of(function)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[Any]) -> Any:
        """Return what the function returns."""
        return _call(self.function, self.name, prompts, completions, columns)

    def evaluate(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns) -> Scores:
        """Return the checked scores of the function, (n,) float64, and the same by name."""
        return _checked(self.function, self.name, prompts, completions, columns)


class RewardOfRewards(Reward):
    """Score by what other rewards say. A subclass implements `parts` and `evaluate`, and is given messages as such."""

    reads_messages = True

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[Any]) -> np.ndarray:
        """Return the scores of `evaluate`, (n,) float64."""
        return self.evaluate(prompts, completions, columns)[0]

    @abstractmethod
    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the checked scores, (n,) float64, and their components by name."""


class Composed(RewardOfRewards):
    """Join two operands by an operator; the components are the unweighted scores of the rewards at the leaves.

    A reward that stands in several places is scored once. Different rewards with one name are told apart by a suffix.
    """

    def __init__(self, operator: str, left: Reward | float, right: Reward | float) -> None:
        self.operator, self.left, self.right = operator, left, right
        self.name = f"({_label(left)} {operator} {_label(right)})"

    def evaluate(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns) -> Scores:
        """Return the composed scores and the scores of every leaf, each checked under its own name."""
        components: dict[str, np.ndarray] = {}
        found: dict[int, Scores] = {}

        def value(operand: Reward | float) -> Scores | float:
            if not isinstance(operand, Reward):
                return operand
            if isinstance(operand, Composed):
                combined = combine(operand.operator, value(operand.left), value(operand.right))
                return check_finite(combined, self.name, prompts, completions)
            if id(operand) not in found:
                waiting = background.get(id(operand))
                scores = waiting.result() if waiting else operand._checked_scores(prompts, completions, columns)
                found[id(operand)] = scores
                for name, values in scores.components.items():
                    add_component(components, name, values)
            return found[id(operand)]

        asked = {id(leaf): leaf for leaf in self._leaves() if _runs_async(leaf)}
        background = {
            key: Background(f"reward {leaf.name}", leaf._checked_scores, prompts, completions, columns)
            for key, leaf in asked.items()
        }
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # check_finite reports an overflow by name
                total = value(self)
        finally:
            for waiting in background.values():
                waiting.abandon()
        assert isinstance(total, Scores)
        return Scores(total.totals, components, total.tokens)

    def parts(self) -> tuple[Reward, ...]:
        """Return the operands that are rewards."""
        return tuple(operand for operand in (self.left, self.right) if isinstance(operand, Reward))

    def _leaves(self) -> Iterator[Reward]:
        for operand in self.parts():
            yield from operand._leaves() if isinstance(operand, Composed) else (operand,)

    def map_leaves(self, function: Callable[[Reward], Reward]) -> Composed:
        """Return the same composition of what `function` makes of every leaf; it is called once per leaf."""
        made: dict[int, Reward] = {}

        def mapped(operand: Reward | float) -> Reward | float:
            if not isinstance(operand, Reward):
                return operand
            if isinstance(operand, Composed):
                return Composed(operand.operator, mapped(operand.left), mapped(operand.right))
            if id(operand) not in made:
                made[id(operand)] = function(operand)
            return made[id(operand)]

        return Composed(self.operator, mapped(self.left), mapped(self.right))


def evaluate_reward(
    reward_fn: Callable[..., Any],
    prompts: Sequence[Prompt],
    completions: Sequence[Prompt],
    columns: Columns,
    trainer_state: Any = None,
) -> Scores:
    """Score n completions and check the result; every reward of this package goes through here.

    Args:
        reward_fn: a `Reward` or any callable with its signature.
        prompts: n prompts.
        completions: n completions.
        columns: the data's other columns by name, n values each.
        trainer_state: what functions are given that declare it; a `TrainerState` at 0 by default.

    Returns:
        The scores, (n,) float64, all finite (NaN only of a reward that `may_be_silent`), and their components by name,
        (n,) float64 each. A component has NaN where it does not apply. `tokens` has what the reward gave to single
        tokens, `metrics` and `extra` what it logged.

    Raises:
        ScoreError: a ValueError: the reward returned something else than one finite score per episode, or None for an
            episode to which no other part applies. The message names the reward, the index, the prompt and the
            completion.
    """
    reward = reward_fn if isinstance(reward_fn, Reward) else FunctionReward(reward_fn)
    with open_calls(len(prompts), trainer_state) as calls:
        scores = reward._checked_scores(prompts, completions, columns)
    silent = np.flatnonzero(np.isnan(scores.totals))
    if len(silent) and not reward.may_be_silent:
        i = int(silent[0])
        raise ScoreError(
            f"reward {reward.name!r} applies not at all to completion {i + 1} of {len(prompts)}: {_who(scores)} "
            "returned None for it. Return a number, or add a reward that applies to every episode. "
            f"Prompt: {prompts[i]!r}. Completion: {completions[i]!r}.",
            index=i,
        )
    return Scores(scores.totals, scores.components, scores.tokens, calls.means(), calls.extra)


def _who(scores: Scores) -> str:
    names = " and ".join(map(repr, scores.components))
    return f"all of {names}" if len(scores.components) > 1 else names


def _checked(
    function: Callable[..., Any], name: str, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
) -> Scores:
    returned = _call(function, name, prompts, completions, columns)
    return check_scores(returned, name, prompts, completions, columns.get("completion_ids"))


def _call(
    function: Callable[..., Any], name: str, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
) -> Any:
    method = function.score if isinstance(function, Reward) else None
    return call_reward(function, name, prompts, completions, columns, method)


def _runs_async(reward: Reward) -> bool:
    """Return whether a reward or a part of it is an `async def`."""
    parts = reward.parts()
    function = reward.function if isinstance(reward, FunctionReward) else reward.score
    return any(map(_runs_async, parts)) if parts else is_async(function)


def _compose(operator: str, left: object, right: object) -> Composed:
    operands: list[Reward | float] = []
    for operand in (left, right):
        if isinstance(operand, Reward):
            operands.append(operand)
        elif isinstance(operand, Real) and not isinstance(operand, bool):
            operands.append(float(operand))
        elif callable(operand):
            operands.append(FunctionReward(operand))
        else:
            return NotImplemented  # Python then raises its TypeError, which names both operands
    return Composed(operator, *operands)


def _is_zero(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and value == 0


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "name", None) or getattr(function, "__name__", None) or type(function).__name__)


def _label(operand: Reward | float) -> str:
    return operand.name if isinstance(operand, Reward) else f"{operand:g}"
