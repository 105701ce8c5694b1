"""Check what a reward function returned, and do arithmetic with scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NoReturn

import numpy as np

from rlhf_envs.datasets.messages import Prompt

__all__ = [
    "Columns",
    "EpisodeError",
    "RewardError",
    "ScoreError",
    "Scores",
    "add_component",
    "as_scores",
    "check_finite",
    "check_scores",
    "combine",
]

Columns = Mapping[str, list[Any]]
Tokens = list[np.ndarray | None]
_OPERATORS: dict[str, tuple[np.ufunc, float]] = {  # with the number that leaves the other operand as it is
    "+": (np.add, 0.0),
    "-": (np.subtract, 0.0),
    "*": (np.multiply, 1.0),
}


class ScoreError(ValueError):
    """Raise when a reward function returned something else than one finite score per episode.

    Attributes:
        index: the completion whose score is wrong, from 0, where messages count from 1; None where the number or the
            kind of the scores is wrong.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class EpisodeError(RuntimeError):
    """Raise when a reward function returned an exception as the score of an episode: it failed for this one.

    Attributes:
        index: the completion it failed for.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class RewardError(RuntimeError):
    """Raise when a reward function failed or took too long at every attempt; the cause is the last of these errors.

    Attributes:
        index: the completion that it failed for, where that is known.
    """

    index: int | None = None


class Scores(tuple[np.ndarray, dict[str, np.ndarray]]):
    """Hold the scores of n episodes. It unpacks to the totals and their components.

    Attributes:
        totals: (n,) float64; NaN where the reward does not apply.
        components: (n,) float64 each, by name; NaN where one does not apply.
        tokens: for each episode one number per token of its completion, (tokens,) float64 with the total as their sum,
            or None where its total belongs to the last token. None if it is None for all.
        metrics: the means of what was logged with `log_metric`, by name.
        extra: n values for each column of `log_extra`.
    """

    tokens: Tokens | None
    metrics: dict[str, float]
    extra: dict[str, list[Any]]

    def __new__(
        cls,
        totals: np.ndarray,
        components: dict[str, np.ndarray],
        tokens: Tokens | None = None,
        metrics: dict[str, float] | None = None,
        extra: dict[str, list[Any]] | None = None,
    ) -> Scores:
        """Make scores; tokens that are None for every episode become None."""
        scores = super().__new__(cls, (totals, components))
        scores.tokens = tokens if tokens and any(one is not None for one in tokens) else None
        scores.metrics, scores.extra = metrics or {}, extra or {}
        return scores

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Return the arguments of `__new__`, for pickle and copy."""
        return self.totals, self.components, self.tokens, self.metrics, self.extra

    @property
    def totals(self) -> np.ndarray:
        """Return the scores, (n,)."""
        return self[0]

    @property
    def components(self) -> dict[str, np.ndarray]:
        """Return the parts of the scores by name, (n,) each."""
        return self[1]


def as_scores(found: tuple[np.ndarray, dict[str, np.ndarray]]) -> Scores:
    """Return totals and components as `Scores`; what are scores already stay as they are."""
    return found if isinstance(found, Scores) else Scores(*found)


def check_scores(
    scores: Any,
    name: str,
    prompts: Sequence[Prompt],
    completions: Sequence[Prompt],
    completion_ids: Sequence[Sequence[int]] | None = None,
) -> Scores:
    """Return what the reward `name` returned as `Scores`.

    For an episode it may be a number, None, a number for each token, or one of these with a dict of components.

    Raises:
        EpisodeError: it is an exception, as `asyncio.gather(..., return_exceptions=True)` gives them.
        ScoreError: it is anything else, or not finite. The message names the reward, the episode and its texts.
    """
    n = len(prompts)
    totals = np.full(n, np.nan)
    tokens: Tokens = [None] * n
    components = {name: totals}
    for i, score in enumerate(_as_list(scores, name, n)):
        if isinstance(score, BaseException):
            raise EpisodeError(f"for completion {i + 1} of {n} it returned {score!r}", i) from score
        has_parts = isinstance(score, tuple) and len(score) == 2 and isinstance(score[1], Mapping)
        value, parts = score if has_parts else (score, {})
        try:
            tokens[i] = per_token = _as_tokens(value, None if completion_ids is None else len(completion_ids[i]))
            if per_token is not None:
                totals[i] = _as_finite(sum(per_token.tolist()))
            elif value is not None:
                totals[i] = _as_finite(value)
            for part, number in parts.items():
                _set_part(components, name, part, number, i, n)
        except _WrongError as error:
            _refuse(name, score, i, str(error), prompts, completions)
    return Scores(totals, components, tokens)


def combine(operator: str, left: Scores | float, right: Scores | float) -> Scores:
    """Return the totals and tokens of two operands under `+`, `-` or `*`, of which one at least is scores.

    Where one of two scores does not apply, the other stands alone. Token rewards go through sums, and through products
    with a number or with scores that have none; what has no tokens lands on the last one.
    """
    function, neutral = _OPERATORS[operator]
    (a, a_tokens), (b, b_tokens) = (_totals_and_tokens(operand) for operand in (left, right))
    if isinstance(left, Scores) and isinstance(right, Scores):
        silent = np.isnan(a) & np.isnan(b)
        a, b = (np.where(np.isnan(totals), neutral, totals) for totals in (a, b))
        totals = np.where(silent, np.nan, function(a, b))
    else:
        totals = np.asarray(function(a, b))
    if a_tokens is b_tokens is None:
        return Scores(totals, {})
    tokens: Tokens = []
    for i, (a_total, b_total) in enumerate(np.broadcast(a, b)):
        one, other = (None if found is None else found[i] for found in (a_tokens, b_tokens))
        if (one is None and other is None) or (operator == "*" and one is not None and other is not None):
            tokens.append(None)
            continue
        if operator != "*":
            one, other = _on_last(one, a_total, other), _on_last(other, b_total, one)
        tokens.append(function(a_total if one is None else one, b_total if other is None else other))
    return Scores(totals, {}, tokens)


def check_finite(scores: Scores, name: str, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> Scores:
    """Return the scores, or raise a ScoreError that names the first that is infinite."""
    if len(wrong := np.flatnonzero(np.isinf(scores.totals))):
        i = int(wrong[0])
        _refuse(name, scores.totals[i], i, "a score must be a finite number", prompts, completions)
    return scores


def add_component(components: dict[str, np.ndarray], name: str, scores: np.ndarray) -> None:
    """Add scores under their name, or with a number after it where another reward has it: "length#2"."""
    number, unique = 2, name
    while unique in components:
        unique, number = f"{name}#{number}", number + 1
    components[unique] = scores


def _totals_and_tokens(operand: Scores | float) -> tuple[np.ndarray, Tokens | None]:
    return (operand.totals, operand.tokens) if isinstance(operand, Scores) else (np.asarray(operand), None)


def _on_last(tokens: np.ndarray | None, total: float, like: np.ndarray | None) -> np.ndarray:
    """Return the tokens, or without any as many as in `like`, the total on the last and 0 on the others."""
    if tokens is None:
        assert like is not None
        tokens = np.zeros(len(like))
        tokens[-1] = total
    return tokens


class _WrongError(Exception):
    """Say what is wrong with the score of one episode."""


def _refuse(
    name: str, score: Any, i: int, reason: str, prompts: Sequence[Prompt], completions: Sequence[Prompt]
) -> NoReturn:
    shown = score.item() if isinstance(score, np.generic) else score
    raise ScoreError(
        f"reward {name!r} returned {shown!r} for completion {i + 1} of {len(prompts)}: {reason}. "
        f"Prompt: {prompts[i]!r}. Completion: {completions[i]!r}.",
        index=i,
    ) from None


def _as_list(scores: Any, name: str, n: int) -> Sequence[Any]:
    """Return the scores of n episodes as a sequence of n."""
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
    return scores


def _as_tokens(score: Any, n_tokens: int | None) -> np.ndarray | None:
    """Return a score as (n_tokens,) float64 if it is a list, an array or a tensor of numbers; None if it is not."""
    if hasattr(score, "detach"):
        score = score.detach().double().cpu().numpy()
    if isinstance(score, str | bytes) or not (isinstance(score, Sequence) or getattr(score, "ndim", 0) == 1):
        return None
    if n_tokens is not None and len(score) != n_tokens:
        raise _WrongError(
            f"{len(score)} token rewards for a completion of {n_tokens} tokens, return one for each of its "
            "completion_ids"
        )
    if not len(score):
        return None
    tokens = np.empty(len(score))
    for place, number in enumerate(score):
        try:
            tokens[place] = _as_finite(number)
        except _WrongError:
            raise _WrongError(f"the reward of token {place + 1} must be a finite number, got {number!r}") from None
    return tokens


def _as_finite(score: Any) -> float:
    """Return one number, also an array or a tensor of one, as a float."""
    if getattr(score, "ndim", None) == 0 and hasattr(score, "item"):
        score = score.item()
    if not isinstance(score, Real) or not np.isfinite(float(score)):
        raise _WrongError("a score must be a finite number")
    return float(score)


def _set_part(components: dict[str, np.ndarray], name: str, part: Any, number: Any, i: int, n: int) -> None:
    """Write a component that the reward `name` returned beside the score of episode `i` of `n`."""
    if not isinstance(part, str) or not part or part == name:
        raise _WrongError(f"a component needs a name other than {name!r}, got {part!r}")
    values = components.setdefault(part, np.full(n, np.nan))
    try:
        values[i] = np.nan if number is None else _as_finite(number)
    except _WrongError:
        raise _WrongError(f"the component {part!r} must be a finite number or None, got {number!r}") from None


def _completions(n: int) -> str:
    return "1 completion" if n == 1 else f"{n} completions"
