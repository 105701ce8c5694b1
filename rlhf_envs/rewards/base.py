"""Define what a reward is, compose rewards, and check scores in one place.

The signature is TRL's, called with keywords as TRL does, so a reward function written for either works in both: it is
given `completion_ids` if it declares them, and returns None for an episode that it does not apply to.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import numpy as np

from rlhf_envs.datasets.messages import Prompt, said, shown

__all__ = ["Composed", "FunctionReward", "Reward", "RewardFunction", "ScoreError", "evaluate_reward"]

Columns = Mapping[str, list[Any]]
# Columns that environments and evaluations add to the data's.
KNOWN = ("completion_ids", "finish_reasons", "whole_prompts")


class ScoreError(ValueError):
    """Raise when a reward function returned something else than one finite number per episode.

    Attributes:
        index: the completion whose score is wrong; None where the number or the kind of the scores is wrong.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class RewardFunction(Protocol):
    """Describe any callable that returns one float per episode; `columns` are the data's other columns, as lists.

    A prompt and its completion are strings, or for a conversation both are messages, as in TRL: `[{"role": "user",
    "content": ...}]` and `[{"role": "assistant", "content": ...}]`.

    A function with a parameter `completion_ids` is given the tokens of each completion too, as lists of ids with the
    EOS; one with `finish_reasons` is told how each episode ended, "eos" or "length", and one with
    `whole_prompts` the prompts before they were cut to `max_prompt_tokens`. None instead of a float says that
    the reward does not apply to an episode. It counts as 0 there, as in TRL, and the episode has no component of that
    name.
    """

    def __call__(
        self, prompts: list[Prompt], completions: list[Prompt], **columns: list[Any]
    ) -> Sequence[float | None]:
        """Score n completions and return n floats."""


class Reward(ABC):
    """Give a reward function a name and let it compose: `0.7 * helpful + 0.3 * polite - 2 * toxic`.

    A subclass implements `score`. The operands of `+`, `-` and `*` are rewards, plain reward functions or numbers.

    Attributes:
        name: the name of its component.
        reads_messages: whether `score` takes conversations as messages. Otherwise it gets the texts of `as_texts`.
    """

    name: str = "reward"
    reads_messages: bool = False

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
        return self.score(prompts, completions, **columns)  # type: ignore[arg-type]

    def as_texts(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> tuple[list[str], list[str]]:
        """Return the texts of prompts and completions: of messages what people read, a single question alone."""
        return [*map(shown, prompts)], [*map(said, completions)]

    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the checked scores, (n,) float64, and their components by name; a composition overrides it.

        It is given conversations as messages: a reward of texts that overrides it calls `as_texts` itself.
        NaN stands where the reward does not apply, which is where it returned None. `evaluate_reward` makes it 0.
        """
        scores = _checked(self, self.name, prompts, completions, columns)
        return scores, {self.name: scores}

    def parts(self) -> tuple[Reward, ...]:
        """Return the rewards that this one is made of; none by default."""
        return ()

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

    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the checked scores of the function, (n,) float64, and the same by name."""
        scores = _checked(self.function, self.name, prompts, completions, columns)
        return scores, {self.name: scores}


_OPERATORS: dict[str, np.ufunc] = {"+": np.add, "-": np.subtract, "*": np.multiply}


class Composed(Reward):
    """Join two operands by an operator; the components are the unweighted scores of the rewards at the leaves.

    A reward that stands in several places is scored once. Different rewards with one name are told apart by a suffix.
    """

    reads_messages = True

    def __init__(self, operator: str, left: Reward | float, right: Reward | float) -> None:
        self.operator, self.left, self.right = operator, left, right
        self.name = f"({_label(left)} {operator} {_label(right)})"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[Any]) -> np.ndarray:
        """Return the composed scores, (n,) float64."""
        return self.evaluate(prompts, completions, columns)[0]

    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the composed scores and the scores of every leaf, each checked under its own name."""
        components: dict[str, np.ndarray] = {}
        totals: dict[int, np.ndarray] = {}

        def value(operand: Reward | float) -> np.ndarray | float:
            if not isinstance(operand, Reward):
                return operand
            if isinstance(operand, Composed):
                return np.asarray(_OPERATORS[operand.operator](value(operand.left), value(operand.right)))
            if id(operand) not in totals:
                scores, found = operand.evaluate(prompts, completions, columns)
                totals[id(operand)] = _zero_where_none(scores)
                for name, scores in found.items():
                    components[_unused(name, components)] = scores
            return totals[id(operand)]

        with np.errstate(over="ignore", invalid="ignore"):  # _check_scores reports an overflow by name
            total = np.asarray(value(self))
        return _check_scores(total, self.name, prompts, completions), components

    def parts(self) -> tuple[Reward, ...]:
        """Return the operands that are rewards."""
        return tuple(operand for operand in (self.left, self.right) if isinstance(operand, Reward))

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
    reward_fn: Callable[..., Any], prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Score n completions and check the result; every reward of this package goes through here.

    Args:
        reward_fn: a `Reward` or any callable with its signature.
        prompts: n prompts.
        completions: n completions.
        columns: the data's other columns by name, n values each.

    Returns:
        The scores, (n,) float64, all finite, and its components by name, (n,) float64 each. A component has NaN where
        it does not apply.

    Raises:
        ScoreError: a ValueError: the reward returned something else than one finite number per episode. The message
            names the reward, the index, the prompt and the completion.
    """
    reward = reward_fn if isinstance(reward_fn, Reward) else FunctionReward(reward_fn)
    scores, components = reward.evaluate(prompts, completions, columns)
    return _zero_where_none(scores), components


def _checked(
    function: Callable[..., Any], name: str, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
) -> np.ndarray:
    return _check_scores(_call(function, name, prompts, completions, columns), name, prompts, completions)


def _call(
    function: Callable[..., Any], name: str, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
) -> Any:
    """Call a reward function, with what environments know of a completion only if it declares it."""
    declared = inspect.signature(function.score if isinstance(function, Reward) else function).parameters
    columns = {column: values for column, values in columns.items() if column not in KNOWN or column in declared}
    for column in KNOWN:
        if column in declared and column not in columns and declared[column].default is inspect.Parameter.empty:
            raise ValueError(
                f"reward {name!r} declares {column}, and only texts are scored here: environments and evaluations know "
                "more of a completion"
            )
    try:
        return function(prompts=prompts, completions=completions, **columns)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # raised by the call, not within
            given = ", ".join(["prompts", "completions", *columns])
            raise ScoreError(f"reward {name!r} cannot be called with {given} by keyword: {error}") from error
        raise


def _zero_where_none(scores: np.ndarray) -> np.ndarray:
    """Return the scores with 0 where the reward does not apply."""
    return np.where(np.isnan(scores), 0.0, scores)


def _check_scores(scores: Any, name: str, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> np.ndarray:
    """Return `scores` as (n,) float64 with NaN for None, or raise a ScoreError that names the error."""
    n = len(prompts)
    if hasattr(scores, "detach"):  # a torch tensor, of any float type, without importing torch
        scores = scores.detach().double().cpu().numpy()
    if isinstance(scores, np.ndarray):
        if scores.shape != (n,):
            raise ScoreError(
                f"reward {name!r} returned an array of shape {scores.shape} for {_completions(n)}: return one float "
                f"per completion, shape ({n},)" + ("; squeeze the last axis" if scores.shape == (n, 1) else "")
            )
    elif not isinstance(scores, Sequence) or isinstance(scores, str | bytes):
        wanted = "a list of one float per completion, such as [0.5]" if n == 1 else f"a list of {n} floats"
        raise ScoreError(f"reward {name!r} returned {scores!r} for {_completions(n)}: return {wanted}")
    elif len(scores) != n:
        raise ScoreError(f"reward {name!r} returned {len(scores)} scores for {_completions(n)}: return one for each")
    checked = np.empty(n, dtype=np.float64)
    for i, score in enumerate(scores):
        checked[i] = number = _as_number(score)
        if score is not None and not np.isfinite(number):
            shown = score.item() if isinstance(score, np.generic) else score
            raise ScoreError(
                f"reward {name!r} returned {shown!r} for completion {i} of {n}: a score must be a finite number. "
                f"Prompt: {prompts[i]!r}. Completion: {completions[i]!r}.",
                index=i,
            )
    return checked


def _completions(n: int) -> str:
    return "1 completion" if n == 1 else f"{n} completions"


def _as_number(score: Any) -> float:
    """Return the score as a float, NaN for None and for anything that is not one number (a string, a list)."""
    if isinstance(score, Real):  # also numpy's scalars
        return float(score)
    if getattr(score, "ndim", None) == 0 and hasattr(score, "item"):  # a scalar array or tensor
        return _as_number(score.item())
    return float("nan")


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


def _unused(name: str, taken: Mapping[str, object]) -> str:
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}#{number}", number + 1
    return unique
