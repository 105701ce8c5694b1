"""Check what people answer to the questions of a project, and bring it into its one form.

| type | answer |
|---|---|
| choice | as for "pairwise": `{"choice": 0, "strength": 2}`, `{"choice": null, "strength": 0}` for a tie |
| rating | a whole number; with `each` a list with one for each completion |
| labels | a label; with `multiple` a list of labels |
| text | a text |
| spans | a list of `{"completion": 0, "start": 3, "end": 9, "label": "untrue"}`, perhaps with a `"note"` |

Indices count the item's completions as they are stored, never sides of the page. A span's `completion` is None in the
prompt; `start` and `end` count characters (code points), as slices in Python do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..names import nearest
from .kinds import check_value
from .questions import Question, asked_about, is_due

if TYPE_CHECKING:
    from .records import Item, NewItem

__all__ = ["Answers", "check_answers", "check_expected", "expected_now", "matches", "span_place"]

Answers = dict[str, Any]

MAX_SPANS = 1000


def check_answers(
    item: Item | NewItem,
    value: Mapping[str, Any] | None,
    answers: Mapping[str, Any] | None,
    questions: Sequence[Question],
) -> Answers:
    """Check the answers to a project's questions about an item, and return them in their one form.

    Args:
        item: what was asked about.
        value: the answer to the question of the item's kind. With None, a skip, there are no answers.
        answers: maps names of questions to answers. None, "" and [] are no answers.
        questions: the questions of the project, in the version that was asked.

    Returns:
        The answers that were given, in the order of the questions.

    Raises:
        ValueError: a question is unknown or was not asked, an answer is none of its question, or a required one is
            missing. The message names the question and the value.
    """
    given = {name: answer for name, answer in (answers or {}).items() if answer not in (None, "", [])}
    if value is None:
        if given:
            raise ValueError(
                f"a skip has no answers, got one to {next(iter(given))!r}: send a value too, or no answers"
            )
        return {}
    asked = {question.name: question for question in asked_about(questions, item.kind, len(item.completions))}
    for name in given:
        if name not in asked:
            hint = nearest(name, asked) if asked else "the project has none for it"
            raise ValueError(f"no question {name!r} is asked about an item of kind {item.kind!r}; {hint}")
    checked: Answers = {}
    for name, question in asked.items():
        if not is_due(question, checked):
            if name in given:
                wanted = ", ".join(f"{other} is {' or '.join(map(str, of))}" for other, of in question.when.items())
                raise ValueError(f"question {name!r} is asked only if {wanted}: leave its answer out")
        elif name in given:
            try:
                checked[name] = _CHECKS[question.type](question, given[name], item)
            except ValueError as error:
                raise ValueError(f"question {name!r}: {error}") from None
        elif question.required:
            raise ValueError(f"question {name!r} needs an answer ({question.text[:80]!r})")
    return checked


def check_expected(item: NewItem, questions: Sequence[Question]) -> None:
    """Check what a gold question expects of the project's own questions (`gold["answers"]`), which need not be all.

    Raises:
        ValueError: a question is unknown or not asked about the item, or an answer is none of its question, or nobody
            could be expected to give just this one: a free text, or spans.
    """
    expected = (item.gold or {}).get("answers", {})
    if not isinstance(expected, Mapping):
        raise ValueError(f"gold: answers must map names of questions to answers, got {_shown(expected)}")
    asked = {question.name: question for question in asked_about(questions, item.kind, len(item.completions))}
    for name, answer in expected.items():
        if name not in asked:
            hint = nearest(name, asked) if asked else "the project has none for it"
            raise ValueError(f"gold: no question {name!r} is asked about an item of kind {item.kind!r}; {hint}")
        _check_one_expected(asked[name], answer, item)


def _check_one_expected(question: Question, answer: Any, item: Item | NewItem) -> Any:
    if question.type in ("text", "spans"):
        raise ValueError(f"gold: question {question.name!r} is of type {question.type!r}: it has no expected answer")
    try:
        return _CHECKS[question.type](question, answer, item)
    except ValueError as error:
        raise ValueError(f"gold: question {question.name!r}: {error}") from None


def expected_now(item: Item, questions: Sequence[Question]) -> Answers:
    """Return what a gold question expects of questions as they are asked now, without what is no answer any more."""
    asked = {question.name: question for question in asked_about(questions, item.kind, len(item.completions))}
    expected: Answers = {}
    for name, answer in (item.gold or {}).get("answers", {}).items():
        if name in asked:
            with suppress(ValueError):
                expected[name] = _check_one_expected(asked[name], answer, item)
    return expected


def matches(expected: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Return whether all expected answers to the project's questions were given. How much better does not count."""
    return all(name in given and _side(answer) == _side(given[name]) for name, answer in expected.items())


def _side(answer: Any) -> Any:
    return answer["choice"] if isinstance(answer, dict) else answer


def _check_choice(question: Question, answer: Any, item: Item | NewItem) -> dict[str, Any]:
    checked = check_value("pairwise", answer, len(item.completions))
    assert checked is not None
    if question.grades == 3 and checked["strength"] > 1:
        raise ValueError(f"strength must be 1 where there are 3 grades, got {checked['strength']}")
    return checked


def _check_rating(question: Question, answer: Any, item: Item | NewItem) -> int | list[int]:
    low, high = question.scale
    n = len(item.completions)
    ratings = answer if question.each else [answer]
    if not isinstance(ratings, list) or (question.each and len(ratings) != n):
        raise ValueError(f"write a list with a rating for each of the {n} completions, got {_shown(answer)}")
    for rating in ratings:
        if type(rating) is not int or not low <= rating <= high:
            raise ValueError(f"a rating must be a whole number from {low} to {high}, got {_shown(rating)}")
    return list(ratings) if question.each else ratings[0]


def _check_labels(question: Question, answer: Any, item: Item | NewItem) -> str | list[str]:
    labels = answer if question.multiple else [answer]
    if not isinstance(labels, list):
        raise ValueError(f"write a list of labels, got {_shown(answer)}")
    for label in labels:
        _check_label(question, label)
    return [label for label in question.labels if label in labels] if question.multiple else labels[0]


def _check_label(question: Question, label: Any) -> None:
    if label not in question.labels:
        raise ValueError(f"unknown label {_shown(label)}; there are {', '.join(question.labels)}")


def _check_text(question: Question, answer: Any, item: Item | NewItem) -> str:
    if not isinstance(answer, str) or not answer.strip() or len(answer) > 100_000:
        raise ValueError(f"write a text of at most 100,000 characters that is not blank, got {_shown(answer)}")
    return answer


def _check_spans(question: Question, answer: Any, item: Item | NewItem) -> list[dict[str, Any]]:
    if not isinstance(answer, list) or len(answer) > MAX_SPANS:
        raise ValueError(f"write a list of at most {MAX_SPANS} spans, got {_shown(answer)}")
    checked = [_check_span(question, span, item) for span in answer]
    places = {(span["completion"], span["start"], span["end"], span["label"]) for span in checked}
    if len(places) < len(checked):
        raise ValueError("a piece is marked twice with the same label: leave one out")
    return sorted(checked, key=span_place)


def span_place(span: Mapping[str, Any]) -> tuple[int, int]:
    """Return what orders spans: the prompt first, then the completions, each from its beginning."""
    return -1 if span["completion"] is None else span["completion"], span["start"]


def _check_span(question: Question, span: Any, item: Item | NewItem) -> dict[str, Any]:
    if not isinstance(span, dict) or not {"start", "end", "label"} <= span.keys() <= _SPAN_KEYS:
        raise ValueError(f"a span has completion, start, end, label and perhaps a note, got {_shown(span)}")
    _check_label(question, span["label"])
    where, n = span.get("completion"), len(item.completions)
    if where is None and question.field == "completion" and n == 1:
        where = 0
    if (where is None) != (question.field == "prompt") and question.field != "both":
        raise ValueError(f"only the {question.field} is marked here, got {_shown(span)}")
    if where is not None and not (type(where) is int and 0 <= where < n):
        raise ValueError(f"a span's completion must be from 0 to {n - 1}, got {_shown(where)}")
    length = len(item.prompt if where is None else item.completions[where])
    start, end = span["start"], span["end"]
    if not (type(start) is int and type(end) is int and 0 <= start < end <= length):
        raise ValueError(f"a span must lie within the {length} characters of its text, got {_shown([start, end])}")
    note = span.get("note") or ""
    if not isinstance(note, str) or len(note) > 2000:
        raise ValueError(f"a note must be a text of at most 2,000 characters, got {_shown(note)}")
    checked = {"completion": where, "start": start, "end": end, "label": span["label"]}
    return {**checked, "note": note} if note.strip() else checked


_SPAN_KEYS = {"completion", "start", "end", "label", "note"}
_CHECKS: dict[str, Callable[[Question, Any, Any], Any]] = {
    "choice": _check_choice,
    "rating": _check_rating,
    "labels": _check_labels,
    "text": _check_text,
    "spans": _check_spans,
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}… ({len(text)} characters)"
