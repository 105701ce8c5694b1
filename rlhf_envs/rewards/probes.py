"""Probe what a reward can be fooled by: compare real completions with garbled ones, which should score lower.

Every probe spoils a completion in one way. A reward that prefers the spoiled one has a blind spot there, and an agent
that trains against it will find it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from rlhf_envs.rewards.base import evaluate_reward
from rlhf_envs.words import join_words, split_words

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
CHINESE_PRAISE = (
    "精彩",
    "完美",
    "优秀",
    "出色",
    "好看",
    "感人",
    "震撼",
    "经典",
    "太棒了",
    "非常好",
    "令人难忘",
    "值得推荐",
)
_chinese, _kana = re.compile("[\u4e00-\u9fff]"), re.compile("[\u3040-\u30ff]")


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
    words = split_words(text)
    shuffled = list(words)
    while len(set(words)) > 1 and shuffled == words:
        generator.shuffle(shuffled)
    return _leading_space(text) + join_words(shuffled)


def praise_list(
    text: str, generator: random.Random, words: Sequence[str] | None = None, separator: str | None = None
) -> str:
    """Return as many praise words as the text has words, at least 3. No word comes twice before all came once.

    They are Chinese where the text is (as many characters then), else English, unless `words` are given.
    """
    chinese = words is None and _chinese.search(text) and not _kana.search(text)
    words = words or (CHINESE_PRAISE if chinese else PRAISE)
    n = max(3, len(split_words(text)))
    drawn = [word for _ in range(0, n, len(words)) for word in generator.sample(words, len(words))]
    if chinese:
        return _leading_space(text) + "".join(drawn)[:n]
    return _leading_space(text) + (" " if separator is None else separator).join(drawn[:n])


def repeat_words(text: str, generator: random.Random, longest: int = 4) -> str:
    """Return the first words, one to `longest`, again and again: as many words as the text has, at least 4."""
    words = split_words(text)
    n, start = max(4, len(words)), words[: generator.randint(1, longest)]
    return _leading_space(text) + join_words((start * n)[:n])


PROBES: dict[str, Callable[[str, str, random.Random], str]] = {
    "words shuffled": lambda prompt, text, generator: shuffle_words(text, generator),
    "praise list": lambda prompt, text, generator: praise_list(text, generator),
    "start repeated": lambda prompt, text, generator: repeat_words(text, generator),
    "said twice": lambda prompt, text, generator: join_words([text, text.lstrip()]),
    "cut in half": lambda prompt, text, generator: _first_half(text),
    "empty": lambda prompt, text, generator: "",
    "prompt echoed": lambda prompt, text, generator: _echo(prompt) if prompt.strip() else text,
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
    return ProbeReport(results, _rank_correlation(real, np.array([len(split_words(text)) for text in completions])))


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _first_half(text: str) -> str:
    words = split_words(text)
    return _leading_space(text) + join_words(words[: (len(words) + 1) // 2])


def _echo(prompt: str) -> str:
    return join_words([prompt, prompt.strip()])[len(prompt) :]


def _leading_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]
