"""Judge pairs and single texts by a language model, and reward by it.

Sources: Zheng et al., 2023 (https://arxiv.org/abs/2306.05685), for judges that are asked in both orders; Bai et al.,
2022 (https://arxiv.org/abs/2212.08073), for feedback by principles. The prompts are our own.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from rlhf_envs.feedback.records import MODEL_MARK
from rlhf_envs.rewards.base import Reward

from .asking import Asker, Question, Usage
from .backends import Backend
from .prompts import (
    LETTERS,
    TEMPLATE,
    VERDICTS,
    critique_messages,
    harm_messages,
    pair_messages,
    ranking_messages,
    rating_messages,
    read_numbers,
    read_ranking,
    read_rating,
    read_revision,
    read_verdict,
    revision_messages,
)
from .settings import JudgeSettings, read_judge_settings

__all__ = ["AIJudge", "AIJudgeReward", "Comparison", "Flags", "Ranking", "Rating", "Revision"]

T = TypeVar("T")
MOST_CHOSEN = 4  # texts whose orders a local model chooses among; of more it writes one

WORTH: dict[int | None, float] = {0: 1.0, 1: 0.0}  # what a choice is worth to the first text
ORDERS: dict[tuple[str | None, str | None], int] = {("A", "B"): 0, ("B", "A"): 1}  # verdicts that agree, and the choice


class Comparison(NamedTuple):
    """Hold what a judge says of a pair, asked in both orders.

    Attributes:
        choice: 0 or 1, the better text; None for a tie, which is also what two orders give that disagree.
        verdicts: of the pair as it is, and swapped: "A" (the one shown first), "B", "tie", or None without a verdict.
        reasons: the judge's answers in words, in the same order.
    """

    choice: int | None
    verdicts: tuple[str | None, str | None]
    reasons: tuple[str, str]

    @property
    def failed(self) -> bool:
        """Return whether an order has no verdict, so that nothing is known."""
        return None in self.verdicts

    @property
    def is_consistent(self) -> bool:
        """Return whether both orders say the same."""
        return self.verdicts in (("A", "B"), ("B", "A"), ("tie", "tie"))


class Rating(NamedTuple):
    """Hold a judge's rating on its scale, None without one, and its answer in words."""

    rating: int | None
    reason: str


class Ranking(NamedTuple):
    """Hold a judge's order of some texts, asked in two orders of showing them, one the reverse of the other.

    Attributes:
        order: the places of the texts, the best first: by the mean of both answers, equal ones by lot. None where an
            answer has no ranking.
        is_consistent: whether both answers have the same order.
        reasons: the judge's answers in words.
    """

    order: tuple[int, ...] | None
    is_consistent: bool
    reasons: tuple[str, str]


class Flags(NamedTuple):
    """Hold the places of the harms that a judge finds in a text, None without a verdict, and its answer in words."""

    harms: tuple[int, ...] | None
    reason: str


class Revision(NamedTuple):
    """Hold a judge's own version of a text, None without one, and its critique of the text."""

    text: str | None
    critique: str


class AIJudge:
    """Judge texts by a language model. Every pair is asked in both orders.

    Args:
        settings: the judge, or its YAML file.
        backend: who answers; by default the server or the local model of the settings.

    Raises:
        ValueError: the file is wrong.
    """

    def __init__(self, settings: JudgeSettings | str | os.PathLike[str], backend: Backend | None = None) -> None:
        self.settings = settings if isinstance(settings, JudgeSettings) else read_judge_settings(os.fspath(settings))
        self._asker = Asker(self.settings, backend)

    @property
    def usage(self) -> Usage:
        """Return what the judge has cost so far."""
        return self._asker.usage

    @property
    def version(self) -> str:
        """Return 12 digits that change with the model, the standard, the scale and the prompts."""
        known = self.settings
        parts = [TEMPLATE, self._asker.fingerprint, known.standard, known.scale, known.temperature, known.max_tokens]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def annotator(self) -> str:
        """Return the judge's name in a feedback store, which marks a model: "ai:NAME@VERSION"."""
        return f"{MODEL_MARK}{self.settings.called}@{self.version}"

    def compare(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[Comparison]:
        """Compare n pairs of texts.

        Raises:
            JudgeError: the judge cannot be asked, its limit is reached, or too many answers have no verdict.
        """
        standard, options = self.settings.standard, tuple(f"Verdict: {verdict}" for verdict in VERDICTS)
        questions = []
        for prompt, one, other in zip(prompts, first, second, strict=True):
            questions += [
                Question(pair_messages(standard, prompt, *pair), options) for pair in ((one, other), (other, one))
            ]
        answers = self._asker.ask(questions, lambda _, answer: read_verdict(answer) is not None)
        return [_comparison(*answers[i : i + 2]) for i in range(0, len(answers), 2)]

    def rate(
        self, prompts: Sequence[str], completions: Sequence[str], scale: tuple[int, int] | None = None
    ) -> list[Rating]:
        """Rate n texts on the judge's scale, or another one.

        Raises:
            JudgeError: see `compare`.
        """
        low, high = scale or self.settings.scale
        options = tuple(f"Rating: {rating}" for rating in range(low, high + 1))
        questions = [
            Question(rating_messages(self.settings.standard, prompt, text, (low, high)), options)
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        answers = self._asker.ask(questions, lambda _, answer: read_rating(answer, (low, high)) is not None)
        return [Rating(None if text is None else read_rating(text, (low, high)), text or "") for text in answers]

    def rank(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> list[Ranking]:
        """Order n lists of 2 to 26 texts. Each is asked in an order that is drawn by the texts, and in its reverse.

        Raises:
            JudgeError: see `compare`.
        """
        questions, asked = [], []
        for prompt, texts in zip(prompts, completions, strict=True):
            shown = list(range(len(texts)))
            random.Random(hashlib.sha256(json.dumps([prompt, *texts]).encode()).hexdigest()).shuffle(shown)
            letters = LETTERS[: len(texts)]
            orders = permutations(letters) if len(texts) <= MOST_CHOSEN else ()
            options = tuple(f"Ranking: {' > '.join(order)}" for order in orders)
            for order in (shown, shown[::-1]):
                messages = ranking_messages(self.settings.standard, prompt, [texts[i] for i in order])
                questions.append(Question(messages, options))
                asked.append((order, len(texts)))
        answers = self.answer(questions, [partial(read_ranking, n=n) for _, n in asked])
        found = []
        for i in range(0, len(answers), 2):
            both = [
                None if places is None else [order[place] for place in places]
                for (places, _), (order, _) in zip(answers[i : i + 2], asked[i : i + 2], strict=True)
            ]
            found.append(_ranking(both, asked[i][0], (answers[i][1], answers[i + 1][1])))
        return found

    def flag(self, prompts: Sequence[str], completions: Sequence[str], harms: Sequence[str]) -> list[Flags]:
        """Say of n texts which of some harms they have. A local model names one at most.

        Raises:
            JudgeError: see `compare`.
        """
        options = ("Harms: none", *(f"Harms: {i}" for i in range(1, len(harms) + 1)))
        questions = [
            Question(harm_messages(self.settings.standard, prompt, text, harms), options)
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        answers = self.answer(questions, [lambda said: read_numbers(said, len(harms))] * len(questions))
        return [Flags(*one) for one in answers]

    def answer(
        self, questions: Sequence[Question], read: Sequence[Callable[[str], T | None]]
    ) -> list[tuple[T | None, str]]:
        """Ask n questions. Return what each reader makes of its answer, None without a verdict, and the words.

        Raises:
            JudgeError: see `compare`.
        """
        readers = dict(zip(map(_told, questions), read, strict=True))
        found: list[tuple[T | None, str]] = []
        answers = self._asker.ask(questions, lambda question, said: readers[_told(question)](said) is not None)
        for said, reader in zip(answers, read, strict=True):
            found.append((None if said is None else reader(said), said or ""))
        return found

    def revise(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Revision]:
        """Criticise n texts by the standard, and rewrite them, two requests each (Bai et al., 2022, section 3).

        Raises:
            JudgeError: see `compare`.
        """
        standard, texts = self.settings.standard, [*zip(prompts, completions, strict=True)]
        asked = [Question(critique_messages(standard, *both), ()) for both in texts]
        critiques = [words or "" for words in self._asker.ask(asked, lambda _, answer: bool(answer.strip()))]
        known = [i for i, words in enumerate(critiques) if words]
        again = [Question(revision_messages(standard, *texts[i], critiques[i]), ()) for i in known]
        answers = dict(
            zip(known, self._asker.ask(again, lambda _, answer: read_revision(answer) is not None), strict=True)
        )
        found = [None if (text := answers.get(i)) is None else read_revision(text) for i in range(len(texts))]
        return [Revision(*both) for both in zip(found, critiques, strict=True)]


class AIJudgeReward(Reward):
    """Reward by a judge: its rating from 0 (worst) to 1 (best), or a win, tie or loss against a column's texts.

    A completion whose answer has no verdict gets `failure_score`, by default no score. The share of these, and of pairs
    that the judge decides by their order, is logged under "judge_failures" and "judge_inconsistent".

    Args:
        file: the judge's YAML file, see `JudgeSettings`; the registry's "ai_judge:FILE.yml".
    """

    def __init__(self, file: str | os.PathLike[str] | JudgeSettings, backend: Backend | None = None) -> None:
        self.judge = AIJudge(file, backend)
        self.name = f"ai_judge_{self.judge.settings.called}"

    @classmethod
    def of(cls, judge: AIJudge) -> Self:
        """Return the reward of a judge that is there already."""
        reward = cls.__new__(cls)
        reward.judge, reward.name = judge, f"ai_judge_{judge.settings.called}"
        return reward

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        log_metric: Any = None,
        **columns: list[Any],
    ) -> list[float | None]:
        """Score the completions, n numbers from 0 to 1; None where there is no verdict.

        Raises:
            ValueError: the column `against` is missing, or has no text in a row.
            JudgeError: the judge cannot be asked, its limit is reached, or too many answers have no verdict.
        """
        settings = self.judge.settings
        if settings.against is None:
            low, high = settings.scale
            rated = [one.rating for one in self.judge.rate(prompts, completions)]
            scores = [None if rating is None else (rating - low) / (high - low) for rating in rated]
        else:
            found = self._compare(prompts, completions, columns)
            # a tie's choice is None
            scores = [None if one.failed else WORTH.get(one.choice, 0.5) for one in found]
            decided = [not one.is_consistent for one in found if not one.failed]
            if log_metric is not None and decided:
                log_metric("judge_inconsistent", float(np.mean(decided)))
        if log_metric is not None and scores:
            log_metric("judge_failures", float(np.mean([score is None for score in scores])))
        return [settings.failure_score if score is None else score for score in scores]

    def _compare(
        self, prompts: Sequence[str], completions: Sequence[str], columns: dict[str, list[Any]]
    ) -> list[Comparison]:
        """Compare completions with the texts of the column `against`."""
        against = str(self.judge.settings.against)
        if against not in columns:
            raise ValueError(f"reward {self.name}: against={against!r} is no column of the data: {', '.join(columns)}")
        if wrong := [text for text in columns[against] if not isinstance(text, str)]:
            raise ValueError(
                f"reward {self.name}: against={against!r}: expected a text in every row, got {wrong[0]!r:.80}"
            )
        return self.judge.compare(prompts, completions, columns[against])


def _comparison(straight: str | None, swapped: str | None) -> Comparison:
    verdicts = (_verdict(straight), _verdict(swapped))
    return Comparison(ORDERS.get(verdicts), verdicts, (straight or "", swapped or ""))


def _told(question: Question) -> str:
    """Return what tells a question from others."""
    return json.dumps(question)


def _ranking(both: list[list[int] | None], drawn: list[int], reasons: tuple[str, str]) -> Ranking:
    one, other = both
    if one is None or other is None:
        return Ranking(None, False, reasons)
    # `drawn` is an order by lot, and the sort keeps it among equals
    order = sorted(drawn, key=lambda text: one.index(text) + other.index(text))
    return Ranking(tuple(order), one == other, reasons)


def _verdict(answer: str | None) -> str | None:
    return None if answer is None else read_verdict(answer)
