"""Answer a project's own questions as simulated annotators do: by scores, or at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..questions import Question, asked_about, is_due

if TYPE_CHECKING:
    from ..records import Item

__all__ = ["answer_questions"]

Level = Callable[[Question, float, int], int]  # (question, score, number of levels) -> level
Compare = Callable[[Sequence[float]], dict[str, Any]]  # scores of two completions -> answer to a comparison


def answer_questions(
    questions: Sequence[Question],
    item: Item,
    scores: Callable[[Question], np.ndarray] | None,
    level: Level,
    compare: Compare,
    random: np.random.Generator,
) -> dict[str, Any] | None:
    """Return the answers to the questions that are asked about an item; None if a required one cannot be answered.

    A comparison and a rating go by the scores, a rating of several completions as a whole by their mean. Labels are
    drawn. A text is "simulated" and a span the whole of a text, both only where they are required.

    Args:
        questions: the project's questions.
        item: what is asked about.
        scores: returns the scores of the completions for a question, shape (n,). None draws every answer.
        level: turns a score into a level of a scale, with the annotator's noise.
        compare: answers a comparison by two scores, with the annotator's noise.
        random: draws.
    """
    answers: dict[str, Any] = {}
    for question in asked_about(questions, item.kind, len(item.completions)):
        if not is_due(question, answers):
            continue
        if question.type in ("choice", "rating"):
            answers[question.name] = (
                _drawn(question, len(item.completions), random)
                if scores is None
                else _scored(question, scores(question), level, compare)
            )
        elif question.type == "labels":
            answers[question.name] = _labels(question, random)
        elif question.required:
            answers[question.name] = _required(question, item)
            if answers[question.name] is None:
                return None
    return answers


def _scored(question: Question, scores: np.ndarray, level: Level, compare: Compare) -> Any:
    if question.type == "choice":
        answer = compare(scores.tolist())
        return {**answer, "strength": min(1, answer["strength"])} if question.grades == 3 else answer
    low, high = question.scale
    n_levels = high - low + 1
    if question.each:
        return [low + level(question, float(score), n_levels) for score in scores]
    return low + level(question, float(scores.mean()), n_levels)


def _drawn(question: Question, n: int, random: np.random.Generator) -> Any:
    if question.type == "choice":
        strengths = 3 if question.grades == 7 else 1
        return {"choice": int(random.integers(2)), "strength": int(random.integers(1, strengths + 1))}
    low, high = question.scale
    ratings = random.integers(low, high + 1, size=n if question.each else 1).tolist()
    return ratings if question.each else ratings[0]


def _labels(question: Question, random: np.random.Generator) -> str | list[str]:
    if not question.multiple:
        return question.labels[int(random.integers(len(question.labels)))]
    drawn = [label for label in question.labels if random.integers(2)]
    return drawn or [question.labels[int(random.integers(len(question.labels)))]]


def _required(question: Question, item: Item) -> Any:
    """Return an answer to a question that needs one, though a simulated annotator has none. None if there is none."""
    if question.type == "text":
        return "simulated"
    texts: list[tuple[int | None, str]] = [] if question.field == "prompt" else list(enumerate(item.completions))
    texts += [] if question.field == "completion" else [(None, item.prompt)]
    for completion, text in texts:
        if text:
            return [{"completion": completion, "start": 0, "end": len(text), "label": question.labels[0]}]
    return None
