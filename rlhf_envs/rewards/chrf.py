"""Score translations by chrF and BLEU, with the package sacrebleu."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.rewards.base import Reward

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

__all__ = ["ChrF", "bleu", "fold", "sentence_chrf"]

_INSTALL = "pip install 'rlhf-envs[translate]'"


def fold(text: str) -> str:
    """Return a text as uncased tokenizers write it: in Unicode's form NFKC, in lower case, without outer space."""
    return unicodedata.normalize("NFKC", text).lower().strip()


class ChrF(Reward):
    """Score a completion by chrF against the column `reference` (Popović, 2015), in [0, 1].

    It is the F-score, with recall weighing twice, of the character n-grams of up to 6 characters, as sacrebleu computes
    it for sentences. Case and full-width forms do not count, since the tokenizers of small models cannot write them.

    Raises:
        ModuleNotFoundError: sacrebleu is not installed. The message has the command.
        ValueError: the data has no column `reference`.
    """

    name = "chrf"

    def __init__(self) -> None:
        load_chrf()

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        reference: Sequence[str] | None = None,
        **columns: object,
    ) -> NDArray[np.float64]:
        """Score the completions, (n,) float64."""
        if reference is None:
            raise ValueError(
                "reward 'chrf' compares with the column 'reference', which the data lacks: add it, or rename one with "
                "columns={'reference': 'translation'}"
            )
        return np.array([sentence_chrf(text, other) for text, other in zip(completions, reference, strict=True)])


def sentence_chrf(text: str, reference: str) -> float:
    """Return the chrF of a text, in [0, 1], as `ChrF` has it.

    Raises:
        ModuleNotFoundError: sacrebleu is not installed. The message has the command.
    """
    return float(load_chrf().sentence_score(fold(text), [fold(reference)]).score / 100)


def bleu(completions: Sequence[str], references: Sequence[str]) -> float:
    """Return the BLEU of texts together (Papineni et al., 2002), 0 to 100, as sacrebleu has it with `tokenize="zh"`.

    That tokenizer makes a word of each Chinese character, and of other texts what its usual one makes. Case and
    full-width forms do not count.

    Raises:
        ModuleNotFoundError: sacrebleu is not installed. The message has the command.
    """
    counts = sum(count_ngrams(fold(given), fold(wanted)) for given, wanted in zip(completions, references, strict=True))
    if isinstance(counts, int):
        return 0.0  # there are no texts
    metric = load_bleu()
    given_words, wanted_words, *found = counts.tolist()
    right, given = found[: metric.max_ngram_order], found[metric.max_ngram_order :]
    return float(metric.compute_bleu(right, given, given_words, wanted_words, smooth_method="exp").score)


@lru_cache(maxsize=8192)  # bootstrap samples have the same texts again
def count_ngrams(completion: str, reference: str) -> NDArray[np.int64]:
    """Return what BLEU sums up: the words of both texts, the n-grams that both have, those of the completion."""
    found = load_bleu().sentence_score(completion, [reference])
    return np.array([found.sys_len, found.ref_len, *found.counts, *found.totals], dtype=np.int64)


@lru_cache
def load_chrf() -> CHRF:
    """Return sacrebleu's chrF."""
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the reward 'chrf' needs the package sacrebleu: {_INSTALL}") from error
    return CHRF()


@lru_cache
def load_bleu() -> BLEU:
    """Return sacrebleu's BLEU with its Chinese tokenizer."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the metric 'bleu' needs the package sacrebleu: {_INSTALL}") from error
    return BLEU(tokenize="zh", effective_order=True)  # of sentences alone: it changes no count
