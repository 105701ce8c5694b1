"""Shape rewards: clip them, whiten them around their mean, penalise length and repetition.

They compose as all rewards do: `Clipped(Whitened(RewardModel()), -3, 3) + 0.1 * LengthPenalty(longest=20)`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.base import FunctionReward, Reward, RewardOfRewards
from rlhf_envs.rewards.registry import get_reward, is_import
from rlhf_envs.rewards.scores import Columns
from rlhf_envs.rewards.state import is_frozen
from rlhf_envs.words import ngrams, split_words

__all__ = ["Clipped", "LengthPenalty", "Repetition", "RepetitionPenalty", "Whitened", "Wrapped", "as_reward"]


def as_reward(reward: str | Callable[..., Any]) -> Reward:
    """Return a `Reward` for a reward, a plain reward function, or a registered reward's name.

    Raises:
        ValueError: the name is unknown, or it is an address to import, which a name read from a file must not be.
    """
    if isinstance(reward, str):
        if is_import(reward):
            raise ValueError(f"{reward!r} is an address, not a registered reward: pass the reward function itself")
        reward = get_reward(reward)
    if not callable(reward):
        raise ValueError(f"expected a reward, a reward function or a registered reward's name, got {reward!r}")
    return reward if isinstance(reward, Reward) else FunctionReward(reward)


def whole_number(name: str, value: int, least: int = 1) -> int:
    """Return the value, or raise a ValueError that names it if it is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


class Wrapped(RewardOfRewards):
    """Transform the score of another reward, and report the components inside and itself.

    A subclass implements `transform`.

    Args:
        reward: a reward, a reward function or a registered reward's name.
    """

    prefix = "wrapped"

    def __init__(self, reward: str | Callable[..., Any]) -> None:
        self.reward = as_reward(reward)
        self.name = f"{self.prefix}_{self.reward.name}"

    @abstractmethod
    def transform(self, scores: np.ndarray) -> np.ndarray:
        """Return the transformed scores, (n,) float64."""

    def parts(self) -> tuple[Reward, ...]:
        """Return the reward inside."""
        return (self.reward,)

    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the transformed scores, the untransformed components inside, and itself as one more component."""
        scores, components = self.reward.evaluate(prompts, completions, columns)
        transformed, applies = np.array(scores), ~np.isnan(scores)
        transformed[applies] = self.transform(scores[applies])
        return transformed, {**components, self.name: transformed}


class Clipped(Wrapped):
    """Keep a reward within bounds, so that no single completion outweighs all others.

    Args:
        reward: the reward inside.
        low: the lowest score; None for no bound.
        high: the highest score; None for no bound.

    Raises:
        ValueError: there is no bound, or `low` is not below `high`.
    """

    prefix = "clipped"

    def __init__(self, reward: str | Callable[..., Any], low: float | None = None, high: float | None = None) -> None:
        super().__init__(reward)
        if low is None and high is None:
            raise ValueError("a clipped reward needs a bound: pass low, high or both")
        self.low, self.high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low={low!r} and high={high!r}")

    def transform(self, scores: np.ndarray) -> np.ndarray:
        """Return the scores, each moved to the nearest bound if it is beyond."""
        return np.clip(scores, self.low, self.high)


class Whitened(Wrapped):
    """Divide a reward by its running standard deviation and keep its running mean: `(r - m) / s + m`.

    The mean and the deviation are taken over all scores so far, including the present ones, by the update of Chan et
    al. 1979. They are part of an environment's state, so that a resumed run goes on exactly, and evaluations do not
    change them. The mean is kept because subtracting it would change the worth of an episode against one of another
    length; the advantages subtract a mean later.

    Args:
        reward: the reward inside.
        warm_up: scores that pass unchanged before whitening begins, since the deviation of a few scores says little.
            A call with one completion counts like any other.
    """

    prefix = "whitened"

    def __init__(self, reward: str | Callable[..., Any], warm_up: int = 32) -> None:
        super().__init__(reward)
        self.warm_up = whole_number("warm_up", warm_up, least=2)
        self.count, self.mean, self._squares = 0, 0.0, 0.0  # the sum of squared deviations from the mean

    @property
    def deviation(self) -> float:
        """Return the standard deviation of all scores so far."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def transform(self, scores: np.ndarray) -> np.ndarray:
        """Return the whitened scores, after learning their mean and deviation unless rewards are frozen."""
        if not is_frozen() and len(scores):
            self._learn(scores)
        if self.count < self.warm_up or self.deviation < 1e-8:
            return scores
        return (scores - self.mean) / self.deviation + self.mean

    def _learn(self, scores: np.ndarray) -> None:
        n, mean = len(scores), float(scores.mean())
        total, difference = self.count + n, mean - self.mean
        self._squares += float(((scores - mean) ** 2).sum()) + difference**2 * self.count * n / total
        self.mean += difference * n / total
        self.count = total

    def get_state(self) -> dict[str, Any]:
        """Return the running statistics."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from running statistics of `get_state`."""
        self.count, self.mean, self._squares = int(state["count"]), float(state["mean"]), float(state["squares"])


class LengthPenalty(Reward):
    """Score minus the number of words (or characters) by which a completion is too long or too short; 0 if neither.

    Args:
        longest: the greatest length that costs nothing; None for no limit.
        shortest: the smallest length that costs nothing.
        unit: "words" (see `rlhf_envs.words`), or "characters".

    Raises:
        ValueError: an argument is wrong.
    """

    name = "length-penalty"

    def __init__(self, longest: int | None = None, shortest: int = 0, unit: str = "words") -> None:
        if unit not in ("words", "characters"):
            raise ValueError(f"unit must be 'words' or 'characters', got {unit!r}")
        self.shortest = whole_number("shortest", shortest, least=0)
        self.longest = longest if longest is None else whole_number("longest", longest, least=self.shortest)
        if self.longest is None and self.shortest == 0:
            raise ValueError(
                "a length penalty needs a limit: pass longest, shortest or both; to one by its name as reward_kwargs, "
                "such as {'longest': 20}"
            )
        self.unit = unit

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> np.ndarray:
        """Return the penalties, (n,), at most 0."""
        return np.array([self._penalty(text) for text in completions], dtype=np.float64)

    def _penalty(self, text: str) -> float:
        length = len(split_words(text)) if self.unit == "words" else len(text.strip())
        over = 0 if self.longest is None else max(length - self.longest, 0)
        return -float(over + max(self.shortest - length, 0))


class RepetitionPenalty(Reward):
    """Score minus the share of a completion's word n-grams that repeat an earlier one: 0 for none, near -1 for all.

    Args:
        n: words per n-gram; 1 counts words.
    """

    name = "repetition-penalty"

    def __init__(self, n: int = 2) -> None:
        self.n = whole_number("n", n)

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> np.ndarray:
        """Return the penalties, (n,), from -1 to 0; 0 for a text of fewer than n words."""
        return np.array([self._penalty(ngrams(text, self.n)) for text in completions], dtype=np.float64)

    @staticmethod
    def _penalty(grams: Sequence[tuple[str, ...]]) -> float:
        return len(set(grams)) / len(grams) - 1.0 if grams else 0.0


class Repetition(RepetitionPenalty):
    """Score the share of a completion's word n-grams that repeat an earlier one, 0 to 1: a cost for `Constrained`."""

    name = "repetition"

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> np.ndarray:
        """Return the shares, (n,)."""
        return -super().score(prompts, completions, **columns)
