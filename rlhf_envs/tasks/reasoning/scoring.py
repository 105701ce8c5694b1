"""Score answers to generated questions: exactly, or as reasoning-gym does."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.tasks.reasoning.items import find_entry, get_dataset

__all__ = ["UNSOUND", "PackageScore", "StrictScore", "normal", "strict_score"]

logger = logging.getLogger(__name__)

# Verifiers of reasoning-gym 0.1.25 that answers which know nothing beat:
# `python -m scripts.checks.reasoning_gym_verifiers`.
UNSOUND = {
    "coin_flip": "gives '0' 0.97 on average",
    "game_of_life": "gives the most common board 0.96 on average",
    "game_of_life_halting": "gives any text 1",
    "puzzle24": "gives the answers of other questions 1",
}
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def normal(text: str) -> str:
    """Return an answer in the form in which answers are compared.

    Case, spaces at the ends of lines, runs of spaces, empty lines, quotes around it and a final full stop do not count.
    A plain number loses zeros that say nothing, so that "3.0" is "3"; its sign counts.
    """
    lines = (" ".join(line.split()) for line in text.strip().strip("\"'`").removesuffix(".").casefold().splitlines())
    answer = "\n".join(line for line in lines if line)
    if not NUMBER.fullmatch(answer):
        return answer
    try:
        number = Decimal(answer).normalize()
    except InvalidOperation:  # more digits than Decimal's context has
        return answer
    return f"{number:f}" if number else "0"


def strict_score(completion: str, answer: str) -> float:
    """Return 1 if a completion is the answer and nothing else, in the form of `normal`; else 0."""
    return float(normal(completion) == normal(answer) != "")


class StrictScore:
    """Score 1 for the exact answer, as `strict_score` has it, and 0 for anything else."""

    def __call__(self, completions: Sequence[Prompt], answer: Sequence[str], **columns: Any) -> list[float]:
        """Return one score per completion."""
        return [strict_score(said(text), right) for text, right in zip(completions, answer, strict=True)]


class PackageScore:
    """Score answers with the package's own verifier, 0 to 1. An answer on which the verifier fails gets 0.

    Args:
        config: the configuration of the dataset.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self._failed: set[str] = set()

    def __call__(
        self,
        completions: Sequence[Prompt],
        dataset: Sequence[str],
        level: Sequence[int | None],
        item: Sequence[str],
        **columns: Any,
    ) -> list[float]:
        """Return one score per completion."""
        rows = zip(completions, dataset, level, item, strict=True)
        return [self._score(said(text).strip(), name, number, place) for text, name, number, place in rows]

    def _score(self, text: str, dataset: str, level: int | None, item: str) -> float:
        entry = find_entry(dataset, level, self.config, item)
        verify: Callable[..., Any] = get_dataset(dataset, level, self.config, item).score_answer
        try:
            return float(verify(text, entry))
        except Exception as error:  # of whatever type: verifiers parse what the agent wrote
            if dataset not in self._failed:
                self._failed.add(dataset)
                logger.warning("the verifier of %r fails on %r, which gets 0: %s", dataset, text[:40], error)
            return 0.0
