"""Call a reward function with what it declares, and collect what it logs, as TRL's trainers do."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.scores import Columns, ScoreError
from rlhf_envs.rewards.waiting import run_async

__all__ = ["KNOWN", "Calls", "TrainerState", "call_reward", "open_calls", "pass_on"]

# What a reward may declare beside the data's columns. TRL passes some of it in **kwargs too; here **columns are lists.
KNOWN = ("completion_ids", "finish_reasons", "whole_prompts", "trainer_state", "log_metric", "log_extra")


@dataclass
class TrainerState:
    """Say how far a training is. The names are those of `transformers.TrainerState`, which TRL passes.

    Attributes:
        global_step: the rollouts that have been learned from; for Q-learners, which learn between tokens, the tokens.
        max_steps: how many there will be. Outside of a training it is step 0 of 1, so that their ratio is 0.
        num_input_tokens_seen: the tokens that the agent has written in this training.
    """

    global_step: int = 0
    max_steps: int = 1
    num_input_tokens_seen: int = 0


@dataclass
class Calls:
    """Collect what reward functions log while they score `n` completions.

    Attributes:
        n: the number of completions.
        trainer_state: what a function is given that declares it.
        metrics: the values of each name of `log_metric`.
        extra: n values for each column of `log_extra`.
    """

    n: int
    trainer_state: Any
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, log: _Log) -> None:
        """Take over what one call has logged."""
        for name, value in log.metrics:
            self.metrics.setdefault(name, []).append(value)
        if log.n == self.n:  # a reward may have asked another one about some of the completions only
            self.extra.update(log.extra)

    def means(self) -> dict[str, float]:
        """Return the mean of each metric."""
        return {name: float(np.mean(values)) for name, values in self.metrics.items()}


_calls: ContextVar[Calls | None] = ContextVar("_calls", default=None)


def pass_on(metrics: Mapping[str, float], extra: Mapping[str, list[Any]], n: int) -> None:
    """Log in the block around what an inner block collected about `n` completions, whatever reward lies between.

    Raises:
        ValueError: the block around scores another number of completions, so that columns of `extra` fit no row there.
    """
    if (calls := _calls.get()) is None:
        return
    if extra and n != calls.n:
        raise ValueError(
            f"log_extra({', '.join(map(repr, extra))}) was given {n} values, and {calls.n} completions are scored: a "
            "reward that asks a mixture's rewards has to ask about all of its completions"
        )
    for name, value in metrics.items():
        calls.metrics.setdefault(name, []).append(value)
    calls.extra.update(extra)


@contextmanager
def open_calls(n: int, trainer_state: Any = None) -> Iterator[Calls]:
    """Collect what is logged in this block; the state is that of the block around it if none is given."""
    if trainer_state is None:
        around = _calls.get()
        trainer_state = TrainerState() if around is None else around.trainer_state
    calls = Calls(n, trainer_state)
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def call_reward(
    function: Callable[..., Any],
    name: str,
    prompts: Sequence[Prompt],
    completions: Sequence[Prompt],
    columns: Columns,
    method: Callable[..., Any] | None = None,
) -> Any:
    """Call a reward function by keyword, wait for it if it is async, and return what it returns.

    Of `KNOWN` it is given what it declares by name.

    Args:
        function: the function.
        name: its name, for messages.
        prompts: n prompts.
        completions: n completions.
        columns: the data's other columns, and what is known of the episodes.
        method: what declares the parameters in place of the function: the `score` of a `Reward`.

    Raises:
        ValueError: it declares something that is not known here.
        ScoreError: it cannot be called so, or logs something wrong.
    """
    declared = inspect.signature(function if method is None else method).parameters
    calls, log = _calls.get(), _Log(name, len(prompts))
    state = TrainerState() if calls is None else calls.trainer_state
    offered = {"trainer_state": state, "log_metric": log.log_metric, "log_extra": log.log_extra, **columns}
    given = {key: values for key, values in offered.items() if key not in KNOWN or key in declared}
    for column in KNOWN:
        if column in declared and column not in given and declared[column].default is inspect.Parameter.empty:
            raise ValueError(
                f"reward {name!r} declares {column}, and only texts are scored here: environments and evaluations know "
                "more of a completion"
            )
    try:
        scores = function(prompts=prompts, completions=completions, **given)
        if inspect.isawaitable(scores):
            scores = run_async(scores)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # raised by the call, not within
            named = ", ".join(["prompts", "completions", *given])
            raise ScoreError(f"reward {name!r} cannot be called with {named} by keyword: {error}") from error
        raise
    except KeyError as error:
        if (missing := "".join(map(str, error.args))) in KNOWN and missing not in declared:
            raise ScoreError(
                f"reward {name!r} looks for {missing!r} among its keyword arguments: make it a parameter, "
                f"(prompts, completions, {missing}, **columns)"
            ) from error
        raise
    if calls is not None:
        calls.add(log)
    return scores


class _Log:
    """Take what one call of the reward `name` logs about its `n` completions."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n
        self.metrics: list[tuple[str, float]] = []
        self.extra: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: float) -> None:
        """Log a number under a name. Its mean is shown."""
        self._check_name("log_metric", name)
        try:
            self.metrics.append((name, float(value)))
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
            raise ScoreError(f"reward {self.name!r}: log_metric({name!r}, ...) takes a number, got {value!r}") from None

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Log one value for every completion. What JSON cannot hold becomes its `repr`, since infos are saved."""
        self._check_name("log_extra", column)
        if isinstance(values, str | bytes) or not hasattr(values, "__len__") or len(values) != self.n:
            raise ScoreError(
                f"reward {self.name!r}: log_extra({column!r}, ...) takes a list with one value for each of "
                f"{self.n} completions, got {values!r}"
            )
        self.extra[column] = [*map(_plain, values)]

    def _check_name(self, method: str, name: object) -> None:
        if not isinstance(name, str) or not name:
            raise ScoreError(f"reward {self.name!r}: {method} takes a name first, got {name!r}")


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold as it is, a scalar array or tensor as a number, and any other as its `repr`."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value
