"""Let a judge answer a project's own questions about items of a feedback store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from rlhf_envs.feedback.questions import Question, asked_about, is_due
from rlhf_envs.feedback.records import Item

from . import asking
from .judge import AIJudge
from .prompts import VERDICTS, listed, question_messages, read_marks, read_numbers, read_rating, read_verdict

__all__ = ["OwnAnswers", "answer_own"]

CHOICES: dict[tuple[Any, Any], dict[str, Any]] = {  # verdicts on a pair as it is and swapped, and the answer
    ("A", "B"): {"choice": 0, "strength": 1},
    ("B", "A"): {"choice": 1, "strength": 1},
}
TIE = {"choice": None, "strength": 0}
REASON = "Give the reason in at most three sentences. Then write one last line: "


@dataclass
class OwnAnswers:
    """Hold a judge's answers to the project's questions about one item.

    Attributes:
        answers: by the names of the questions, as of a judgement.
        words: what the judge said, a text per question.
        missing: names of required questions without a verdict.
        left_out: names of optional ones.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class _Asked(NamedTuple):
    """Hold one request of a question: what is asked, how the answer is read, and of which text."""

    question: asking.Question
    read: Callable[[str], Any]
    place: int | None = None  # of the completion; None for all of them, or for the prompt of spans


def answer_own(
    judge: AIJudge, items: Sequence[Item], prompts: Sequence[str], questions: Sequence[Question]
) -> dict[int, OwnAnswers]:
    """Return by item id what a judge answers to the project's questions, each asked where it is due.

    A choice is asked in both orders, and is a tie where they disagree; its grade is always the lowest. With `each`, and
    for spans, every text is asked about alone.

    Args:
        judge: who answers.
        items: what is asked about.
        prompts: the items' prompts as people read them.
        questions: the project's questions.

    Raises:
        JudgeError: see `AIJudge.compare`.
    """
    found = {item.id: OwnAnswers() for item in items}
    for question in questions:  # one after the other, since the next may depend on the answers
        due = [
            (item, _requests(judge, question, item, prompt))
            for item, prompt in zip(items, prompts, strict=True)
            if question in asked_about(questions, item.kind, len(item.completions))
            and is_due(question, found[item.id].answers)
        ]
        asked = [one for _, requests in due for one in requests]
        answers = iter(judge.answer([one.question for one in asked], [one.read for one in asked]))
        for item, requests in due:
            _take(found[item.id], question, [(one, *next(answers)) for one in requests])
    return found


def _take(own: OwnAnswers, question: Question, said: Sequence[tuple[_Asked, Any, str]]) -> None:
    """Add the answer that the requests of a question make together."""
    own.words += [f"{question.name}: {words}" for _, _, words in said if words]
    values = [value for _, value, _ in said]
    if any(value is None for value in values):
        answer: Any = None
    elif question.type == "choice":
        answer = CHOICES.get((values[0], values[1]), TIE)
    elif question.type == "spans":
        answer = [
            {"completion": one.place, "start": start, "end": end, "label": question.labels[label]}
            for one, marks, _ in said
            for label, start, end in marks
        ]
    elif question.type == "labels":
        names = [question.labels[place] for place in values[0]]
        answer = names if question.multiple else names[0]
    else:
        answer = values if question.each else values[0]
    if answer not in (None, []):
        own.answers[question.name] = answer
    elif question.required:
        own.missing.append(question.name)
    elif answer is None:  # no label or mark at all is an answer to an optional question
        own.left_out.append(question.name)


def _requests(judge: AIJudge, question: Question, item: Item, prompt: str) -> list[_Asked]:
    """Return what a judge is asked about an item, for one question."""
    texts = item.completions
    ask = partial(_ask, judge, question)
    if question.type == "choice":
        options = tuple(f"Verdict: {verdict}" for verdict in VERDICTS)
        form = f'{REASON}"Verdict: A", "Verdict: B", or "Verdict: tie" if neither.'
        return [ask(prompt, order, form, options, read_verdict) for order in (texts, texts[::-1])]
    if question.type == "rating":
        low, high = question.scale
        ends = [f" ({end})" if end else "" for end in question.ends]
        form = f'{REASON}"Rating: " and a whole number from {low}{ends[0]} to {high}{ends[1]}.'
        options = tuple(f"Rating: {rating}" for rating in range(low, high + 1))
        groups = [(text,) for text in texts] if question.each else [texts]
        return [ask(prompt, group, form, options, partial(read_rating, scale=(low, high))) for group in groups]
    if question.type == "labels":
        return [ask(prompt, texts, *_labels(question))]
    if question.type == "text":
        return [ask(prompt, texts, "Write the answer, and nothing else.", (), _text)]
    places: list[int | None] = [None] if question.field != "completion" else []
    places += range(len(texts)) if question.field != "prompt" else []
    return [_marks(judge, question, item, prompt, place) for place in places]


def _ask(
    judge: AIJudge,
    question: Question,
    prompt: str,
    texts: Sequence[str],
    form: str,
    options: tuple[str, ...],
    read: Callable[[str], Any],
    place: int | None = None,
) -> _Asked:
    words = "\n\n".join(filter(None, [question.text, question.help]))
    messages = question_messages(judge.settings.standard, prompt, texts, words, form)
    return _Asked(asking.Question(messages, options), read, place)


def _labels(question: Question) -> tuple[str, tuple[str, ...], Callable[[str], Any]]:
    """Return the form, the options and the reader of a question for labels."""
    n, numbers = len(question.labels), [f"Answer: {i}" for i in range(1, len(question.labels) + 1)]
    form = f'{listed(question.labels)}\n\n{REASON}"Answer: " and the number of the one that applies.'
    if question.multiple:
        form = (
            f'{listed(question.labels)}\n\n{REASON}"Answer: " and the numbers of all that apply, with commas between '
            'them, or "Answer: none".'
        )
        return form, ("Answer: none", *numbers), partial(read_numbers, n=n)

    def one(said: str) -> tuple[int, ...] | None:
        found = read_numbers(said, n)
        return found if found and len(found) == 1 else None

    return form, tuple(numbers), one


def _marks(judge: AIJudge, question: Question, item: Item, prompt: str, place: int | None) -> _Asked:
    """Return the question which pieces of one text have which of the labels."""
    text, where = (prompt, "prompt") if place is None else (item.completions[place], "response")
    form = (
        f'{listed(question.labels)}\n\nMark pieces of the {where} alone. Write a line for each: "Mark 1: " with the '
        f'number of its label, and the words exactly as they stand in the {where}. If there are none: "Marks: none".'
    )
    read = partial(read_marks, text=item.prompt if place is None else text, n=len(question.labels))
    texts = item.completions if place is None else (text,)
    return _ask(judge, question, prompt, texts, form, (), read, place)


def _text(said: str) -> str | None:
    return said.strip()[:100_000] or None
