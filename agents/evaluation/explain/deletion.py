"""Test an attribution: deleting the tokens that it names lowers the score more than deleting tokens at random.

This is the deletion test of DeYoung et al. 2020 (comprehensiveness, https://arxiv.org/abs/1911.03429), on the score
itself and beside random deletions of as many tokens. What is left is scored as a text, so it may read badly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_envs.rewards.state import frozen_rewards

from ..statistics import Estimate, bootstrap_mean
from .attribution import Method, Text, attribute, score_all
from .leaves import TOTAL

__all__ = ["Deletion", "deletion_test"]


@dataclass(frozen=True)
class Deletion:
    """Hold how much the scores of n texts fall, `(n,)` each.

    Attributes:
        named: by deleting the tokens with the largest values.
        at_random: by deleting as many at random: the mean over several draws.
    """

    named: np.ndarray
    at_random: np.ndarray

    @property
    def gain(self) -> Estimate:
        """Return how much more the named tokens cost, paired by text."""
        return bootstrap_mean(self.named - self.at_random)

    @property
    def errors(self) -> float:
        """Return the gain in standard errors; infinite if it is the same for every text, 0 if there is none."""
        gain = self.gain
        if not gain.mean:
            return 0.0
        return gain.mean / gain.sem if gain.sem else float(np.copysign(np.inf, gain.mean))


def deletion_test(
    reward: Callable[..., Any],
    texts: Sequence[Text],
    method: Method,
    share: float = 0.1,
    draws: int = 8,
    seed: int = 0,
) -> Deletion:
    """Delete a share of each text's tokens, at least one: those with the largest values, and as many at random.

    Args:
        reward: the reward that is explained.
        texts: n texts of at least one token.
        method: how values are found, see `attribute`.
        share: the share of tokens that is deleted.
        draws: random deletions per text.
        seed: seeds them.

    Raises:
        ValueError: `share` is not in (0, 1], or a text has no token.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: expected a share above 0 and at most 1")
    generator = np.random.default_rng(seed)
    changed: list[Text] = []
    for i, text in enumerate(texts):
        units, components, _ = attribute(reward, text, method)
        if not units:
            raise ValueError(f"text {i} has no token to delete")
        k = max(1, round(share * len(units)))
        order = np.argsort(-components[TOTAL].values, kind="stable")[:k]
        chosen = [order, *(generator.choice(len(units), k, replace=False) for _ in range(draws))]
        changed += [text, *(text.without([units[j] for j in picked]) for picked in chosen)]
    with frozen_rewards():
        scores = score_all(reward, changed).totals.reshape(len(texts), draws + 2)
    return Deletion(scores[:, 0] - scores[:, 1], scores[:, 0] - scores[:, 2:].mean(axis=1))
