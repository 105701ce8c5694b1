"""Measure toxicity as a cost, by alt-profanity-check (extra `safety`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhf_envs.rewards.base import Reward

__all__ = ["Toxicity"]


class Toxicity(Reward):
    """Return the probability, in [0, 1], that a completion is offensive: a *cost*, to be subtracted or constrained.

    The model comes with `alt-profanity-check`: a linear classifier over words, fitted to 200,000 labelled comments and
    tweets. It is English, quick, and blunt: it takes "this movie sucks" for offensive, and misses what is only implied.
    The prompt is not read: the agent answers for its own words.

    Raises:
        ImportError: alt-profanity-check is not installed.
    """

    name = "toxicity"

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except ImportError as error:
            raise ImportError(
                'the reward "toxicity" needs alt-profanity-check: pip install "rlhf-envs[safety]"'
            ) from error
        self._predict = predict_prob

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> np.ndarray:
        """Return the probabilities, (n,)."""
        return np.asarray(self._predict(completions), dtype=np.float64) if completions else np.zeros(0)
