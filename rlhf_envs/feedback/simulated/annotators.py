"""Simulate annotators from a scorer. They answer the same items as people, through the same store.

A scorer is any callable `(prompts, completions) -> floats`, such as a reward function. As there, a prompt and its
completion are strings, or messages where the item has a conversation. Choices follow the Bradley-Terry
model (https://doi.org/10.2307/2334029). Rankings follow its extension to n completions by Plackett and Luce. Both arise
when Gumbel noise is added to the scores and the highest wins (https://doi.org/10.1016/0022-2496(77)90026-8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from ...datasets.messages import Prompt, answer_to, kept_prompt
from ..annotating import Response, work_once
from ..questions import Question
from .answers import answer_questions

if TYPE_CHECKING:
    from ..records import Assignment, Item
    from ..store.store import FeedbackStore

__all__ = ["Scorer", "SimulatedAnnotator", "annotate", "simulated_crowd"]

Scorer = Callable[..., Iterable[float]]


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Answer items of every kind by the scores that a scorer gives the completions.

    An answer depends on `seed` and the item alone, not on the order of the work. With a `bias` it also depends on which
    completion is shown first. If two scores are equal and there is no noise, the answer is a tie.

    Attributes:
        scorer: `(prompts, completions) -> floats`.
        name: the annotator's name in the store.
        temperature: the amount of noise. The better of two completions is chosen with probability
            `sigmoid(difference / temperature)`, and always at 0.
        bias: added to the score of the completion shown first. For a single completion it makes the annotator lenient.
        length_bias: added to a score for every 100 characters of the completion.
        clicks_at_random: makes a spammer, who answers without a look at the texts.
        skip_rate: the share of items that are skipped.
        tie_margin: scores (with their noise) that differ by less are a tie.
        strengths: the differences from which on a preference has strength 2 and 3.
        scale: the lowest and the highest rating, as in the store's settings.
        reference: scores whose quantiles divide the scale into equally frequent ratings, and whose median divides
            thumbs up from thumbs down. By default the scores are taken to be standard normal, as this package's rewards
            are.
        rewriter: `(prompt, completion) -> text`, for corrections. By default the correction is the best of the
            completion and the texts in `item.meta["alternatives"]`.
        flagger: `(prompt, completion) -> harms`, for flags. By default nothing is flagged.
        harms: the categories from which a spammer draws.
        questions: the project's own questions, which are answered as `answer_questions` says. `annotate` takes the
            store's where there are none.
        scorers: maps names of these questions to scorers, for those that go by another than `scorer`.
        references: maps names of these questions to scores, for ratings whose scale they divide instead of `reference`.
        seed: seeds every draw.
    """

    scorer: Scorer
    name: str = "simulated"
    temperature: float = 0.0
    bias: float = 0.0
    length_bias: float = 0.0
    clicks_at_random: bool = False
    skip_rate: float = 0.0
    tie_margin: float = 0.0
    strengths: tuple[float, float] = (1.0, 2.0)
    scale: tuple[int, int] = (1, 5)
    reference: Sequence[float] | None = field(default=None, repr=False)
    rewriter: Callable[[str, str], str] | None = None
    flagger: Callable[[str, str], Iterable[str]] | None = None
    harms: tuple[str, ...] = ()
    seed: int = 0
    questions: tuple[Question, ...] = ()
    scorers: Mapping[str, Scorer] = field(default_factory=dict, repr=False)
    references: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raise a ValueError if a setting is out of its range."""
        for name in ("temperature", "tie_margin"):
            if not getattr(self, name) >= 0 or math.isinf(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: give a number of at least 0")
        if not 0 <= self.skip_rate <= 1:
            raise ValueError(f"skip_rate={self.skip_rate}: give a share between 0 and 1")

    def __call__(self, assignment: Assignment) -> Response:
        """Answer an assignment."""
        item = assignment.item
        random = np.random.default_rng([self.seed, item.id])
        if random.random() < self.skip_rate:
            return Response(None)
        if self.clicks_at_random:
            return self._response(item, self._spam(item, random), None)
        first = assignment.sides[0] if assignment.sides else 0
        scores = self._scores(item, item.completions)
        scores[first] += self.bias

        def scores_for(question: Question) -> np.ndarray:
            if question.name not in self.scorers:
                return scores
            own = self._scores(item, item.completions, self.scorers[question.name])
            own[first] += self.bias
            return own

        return self._response(item, _ANSWERS[item.kind](self, item, scores, random), scores_for)

    def _response(
        self, item: Item, value: dict[str, Any] | None, scores: Callable[[Question], np.ndarray] | None
    ) -> Response:
        """Return a response with the answers to the project's questions. A skip has none."""
        if value is None or not self.questions:
            return Response(value)
        random = np.random.default_rng([self.seed, item.id, 1])  # so that questions change no other answer
        answers = answer_questions(
            self.questions,
            item,
            scores,
            lambda question, score, n_levels: self._level(score, n_levels, random, question.name),
            lambda pair: self._pairwise(item, np.asarray(pair), random),
            random,
        )
        return Response(None) if answers is None else Response(value, answers=answers)

    def _scores(self, item: Item, texts: Sequence[str], scorer: Scorer | None = None) -> np.ndarray:
        """Score texts that continue the item's prompt, with the length bias and without noise. Shape (n,), float64."""
        if not texts:
            return np.zeros(0)
        prompt = kept_prompt(item.prompt, item.meta)
        answers = [answer_to(prompt, text) for text in texts]
        scores = np.array([float(score) for score in (scorer or self.scorer)([prompt] * len(texts), answers)])
        if scores.shape != (len(texts),) or not np.isfinite(scores).all():
            raise ValueError(
                f"the scorer of annotator {self.name!r} gave {scores.tolist()} for {len(texts)} completions of item "
                f"{item.id}, prompt {item.prompt[:60]!r}: it must give one finite number each"
            )
        return scores + self.length_bias * np.array([len(text) / 100 for text in texts])

    def _level(self, score: float, n_levels: int, random: np.random.Generator, question: str = "") -> int:
        """Add noise to a score and return its level, from 0 to n_levels - 1. The levels are equally frequent."""
        shares = np.arange(1, n_levels) / n_levels
        reference = self.references.get(question, self.reference)
        if reference is None:
            bounds = np.array([NormalDist().inv_cdf(share) for share in shares])
        else:
            bounds = np.quantile(np.asarray(reference, dtype=float), shares)
        return int(np.searchsorted(bounds, score + self.temperature * random.logistic(), side="right"))

    # One method per kind: (item, scores (n,), random) -> value

    def _pairwise(self, item: Item, scores: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
        first, second = scores + self.temperature * random.gumbel(size=2)
        difference = abs(first - second)
        if difference == 0 or difference < self.tie_margin:
            return {"choice": None, "strength": 0}
        strength = 1 + sum(bool(difference >= bound) for bound in self.strengths)
        return {"choice": 0 if first > second else 1, "strength": strength}

    def _ranking(self, item: Item, scores: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
        noisy = scores + self.temperature * random.gumbel(size=len(scores))
        return {"order": np.argsort(-noisy, kind="stable").tolist()}

    def _rating(self, item: Item, scores: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
        low, high = self.scale
        return {"rating": low + self._level(float(scores[0]), high - low + 1, random)}

    def _thumbs(self, item: Item, scores: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
        return {"up": self._level(float(scores[0]), 2, random) == 1}

    def _correction(self, item: Item, scores: np.ndarray, random: np.random.Generator) -> dict[str, Any] | None:
        if self.rewriter is not None:
            text = self.rewriter(item.prompt, item.completions[0])
        else:
            texts = [item.completions[0], *item.meta.get("alternatives", ())]
            scores = np.append(scores, self._scores(item, texts[1:]))
            text = texts[int(np.argmax(scores + self.temperature * random.gumbel(size=len(texts))))]
        return {"text": text} if text.strip() else None  # skip a blank completion

    def _flags(self, item: Item, scores: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
        return {"harms": list(self.flagger(item.prompt, item.completions[0])) if self.flagger is not None else []}

    def _questions(self, item: Item, scores: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
        return {}

    def _spam(self, item: Item, random: np.random.Generator) -> dict[str, Any] | None:
        """Draw an answer uniformly, without a look at the texts."""
        if item.kind == "questions":
            return {}
        if item.kind == "pairwise":
            return {"choice": int(random.integers(2)), "strength": int(random.integers(1, 4))}
        if item.kind == "ranking":
            return {"order": random.permutation(len(item.completions)).tolist()}
        if item.kind == "rating":
            return {"rating": int(random.integers(self.scale[0], self.scale[1] + 1))}
        if item.kind == "thumbs":
            return {"up": bool(random.integers(2))}
        if item.kind == "flags":
            return {"harms": [harm for harm in self.harms if random.integers(2)]}
        return {"text": item.completions[0]} if item.completions[0].strip() else None


_ANSWERS: dict[str, Callable[[SimulatedAnnotator, Item, np.ndarray, np.random.Generator], dict[str, Any] | None]] = {
    "pairwise": SimulatedAnnotator._pairwise,
    "ranking": SimulatedAnnotator._ranking,
    "rating": SimulatedAnnotator._rating,
    "thumbs": SimulatedAnnotator._thumbs,
    "correction": SimulatedAnnotator._correction,
    "flags": SimulatedAnnotator._flags,
    "questions": SimulatedAnnotator._questions,
}


def simulated_crowd(
    scorer: Scorer, n: int, random_share: float = 0.1, *, name: str = "simulated", seed: int = 0, **settings: Any
) -> list[SimulatedAnnotator]:
    """Return several annotators with one scorer, some of them spammers, who answer at random.

    Args:
        scorer: scores texts for all of them. A text is scored once and its score kept.
        n: the number of annotators.
        random_share: the share of spammers. Their number is rounded, and who they are is drawn with the seed. A spammer
            has `clicks_at_random` set.
        name: the annotators are called `<name>-1` to `<name>-n`.
        seed: seeds the draws, and the seed of each annotator.
        **settings: further arguments for each `SimulatedAnnotator`.
    """
    if n < 1:
        raise ValueError(f"n={n}: a crowd has at least one annotator")
    if not 0 <= random_share <= 1:
        raise ValueError(f"random_share={random_share}: give a share between 0 and 1")
    random = np.random.default_rng(seed)
    spammers = set(random.permutation(n)[: math.floor(random_share * n + 0.5)].tolist())
    seeds = random.integers(2**31, size=n).tolist()
    remembered = _Remembered(scorer)
    settings["scorers"] = {question: _Remembered(other) for question, other in settings.get("scorers", {}).items()}
    return [
        SimulatedAnnotator(remembered, f"{name}-{i + 1}", clicks_at_random=i in spammers, seed=seeds[i], **settings)
        for i in range(n)
    ]


def annotate(store: FeedbackStore, annotators: Sequence[SimulatedAnnotator], limit: int | None = None) -> int:
    """Let annotators take turns, one item each, until nobody finds another or `limit` answers are in.

    Returns:
        How many answers were submitted, skips among them.
    """
    for annotator in annotators:
        store.add_annotator(annotator.name)
    questions = store.settings.questions
    annotators = [one if one.questions else replace(one, questions=questions) for one in annotators]
    done, idle = 0, 0
    while idle < len(annotators):  # somebody may find an item after all, when another has skipped it or given it back
        idle = 0
        for annotator in annotators:
            if limit is not None and done >= limit:
                return done
            answered = work_once(store, annotator.name, annotator)
            idle += answered is None
            done += bool(answered)
    return done


class _Remembered:
    """Score each text once and keep its score."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.scores: dict[str, float] = {}

    def __call__(self, prompts: list[Prompt], completions: list[Prompt]) -> list[float]:
        texts = {repr(both): both for both in zip(prompts, completions, strict=True)}  # messages are lists
        if new := {key: both for key, both in texts.items() if key not in self.scores}:
            scores = self.scorer([prompt for prompt, _ in new.values()], [done for _, done in new.values()])
            self.scores.update(zip(new, (float(score) for score in scores), strict=True))
        return [self.scores[repr(both)] for both in zip(prompts, completions, strict=True)]
