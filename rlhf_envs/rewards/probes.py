"""Probe what a reward can be fooled by: compare real completions with garbled ones, which should score lower.

Every probe spoils a completion in one way. A reward that prefers the spoiled one has a blind spot there, and an agent
that trains against it will find it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from rlhf_envs.rewards.base import evaluate_reward

__all__ = [
    "PRAISE",
    "PROBES",
    "ProbeReport",
    "ProbeResult",
    "praise_list",
    "probe_reward",
    "repeat_words",
    "shuffle_words",
]

PRAISE = (
    "great", "wonderful", "excellent", "perfect", "amazing", "superb", "brilliant", "beautiful", "fantastic",
    "outstanding", "best", "lovely", "delightful", "enjoyable", "terrific", "impressive",
)  # fmt: skip


class ProbeResult(NamedTuple):
    """Hold what one probe found.

    Attributes:
        preferred: the share of the completions that score higher than their spoiled version; a tie counts half.
        change: the mean change of the score by the spoiling, in standard deviations of the real completions' scores.
        n: the number of completions that the probe could spoil.
    """

    probe: str
    preferred: float
    change: float
    n: int


class ProbeReport(NamedTuple):
    """Hold the results of the probes, and the rank correlation of the real completions' scores with their length.

    The correlation is NaN if all are equally long or score the same.
    """

    results: list[ProbeResult]
    length_correlation: float


def shuffle_words(text: str, generator: random.Random) -> str:
    """Return the words in another order, after the same leading space; the same text if there is no other order."""
    words = text.split()
    shuffled = list(words)
    while len(set(words)) > 1 and shuffled == words:
        generator.shuffle(shuffled)
    return _leading_space(text) + " ".join(shuffled)


def praise_list(text: str, generator: random.Random, words: Sequence[str] = PRAISE, separator: str = " ") -> str:
    """Return as many praise words as the text has words, at least 3. No word comes twice before all came once."""
    n = max(3, len(text.split()))
    drawn = [word for _ in range(0, n, len(words)) for word in generator.sample(words, len(words))]
    return _leading_space(text) + separator.join(drawn[:n])


def repeat_words(text: str, generator: random.Random, longest: int = 4) -> str:
    """Return the first words, one to `longest`, again and again: as many words as the text has, at least 4."""
    words = text.split()
    n, start = max(4, len(words)), words[: generator.randint(1, longest)]
    return _leading_space(text) + " ".join((start * n)[:n])


PROBES: dict[str, Callable[[str, str, random.Random], str]] = {
    "words shuffled": lambda prompt, text, generator: shuffle_words(text, generator),
    "praise list": lambda prompt, text, generator: praise_list(text, generator),
    "start repeated": lambda prompt, text, generator: repeat_words(text, generator),
    "said twice": lambda prompt, text, generator: f"{text} {text.lstrip()}",
    "cut in half": lambda prompt, text, generator: _first_half(text),
    "empty": lambda prompt, text, generator: "",
    "prompt echoed": lambda prompt, text, generator: f" {prompt.strip()}" if prompt.strip() else text,
}


def probe_reward(
    reward: Callable[..., Any], prompts: Sequence[str], completions: Sequence[str], seed: int = 0
) -> ProbeReport:
    """Return how a reward scores real completions against each of `PROBES`.

    Args:
        reward: a reward function that needs no further columns.
        prompts: n prompts.
        completions: n completions that people wrote or prefer.
        seed: seeds the spoiling.

    Raises:
        ScoreError: the reward returned something else than one finite number per completion.
    """
    generator = random.Random(seed)
    real = evaluate_reward(reward, list(prompts), list(completions), {})[0]
    deviation = float(real.std()) or 1.0
    results = []
    for name, spoil in PROBES.items():
        spoiled = [spoil(*row, generator) for row in zip(prompts, completions, strict=True)]
        kept = [i for i, text in enumerate(spoiled) if text != completions[i]]
        if not kept:
            continue
        scores = evaluate_reward(reward, [prompts[i] for i in kept], [spoiled[i] for i in kept], {})[0]
        change = scores - real[kept]
        preferred = np.mean((change < 0) + 0.5 * (change == 0))
        results.append(ProbeResult(name, float(preferred), float(change.mean()) / deviation, len(kept)))
    return ProbeReport(results, _rank_correlation(real, np.array([len(text.split()) for text in completions])))


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _first_half(text: str) -> str:
    words = text.split()
    return _leading_space(text) + " ".join(words[: (len(words) + 1) // 2])


def _leading_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]
