"""What is an answer to each type of question, and what its meaning rests on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlhf_envs.feedback import NewItem, Question
from rlhf_envs.feedback.answers import check_answers
from rlhf_envs.feedback.questions import asked_about, same_meaning

PAIR = NewItem("pairwise", "Say 🙂", ("first", "second"))
ONE = NewItem("rating", "Say 🙂", ("first",))
LABELS = Question("q", "Q?", "labels", labels=("a", "b", "c"))
SPANS = Question("q", "Q?", "spans", labels=("a", "b"))


def check(question: Question, answer: Any, item: NewItem = PAIR) -> Any:
    return check_answers(item, {}, {question.name: answer}, [question]).get(question.name)


@pytest.mark.parametrize(
    ("question", "item", "answer", "kept"),
    [
        (Question("q", "Q?", "choice"), PAIR, {"choice": 1, "strength": 3}, {"choice": 1, "strength": 3}),
        (Question("q", "Q?", "choice", grades=3), PAIR, {"choice": None}, {"choice": None, "strength": 0}),
        (Question("q", "Q?", "rating"), PAIR, 5, 5),
        (Question("q", "Q?", "rating", scale=(-3, 3)), PAIR, 0, 0),
        (Question("q", "Q?", "rating", each=True), PAIR, [5, 1], [5, 1]),
        (Question("q", "Q?", "rating", each=True), ONE, [5], [5]),
        (LABELS, PAIR, "b", "b"),
        (replace(LABELS, multiple=True), PAIR, ["c", "a", "c"], ["a", "c"]),
        (Question("q", "Q?", "text"), PAIR, " because\n", " because\n"),
        (
            SPANS,
            PAIR,
            [
                {"completion": 1, "start": 0, "end": 6, "label": "b", "note": "why"},
                {"completion": 0, "start": 0, "end": 1, "label": "a", "note": ""},
            ],
            [
                {"completion": 0, "start": 0, "end": 1, "label": "a"},
                {"completion": 1, "start": 0, "end": 6, "label": "b", "note": "why"},
            ],
        ),
        (SPANS, ONE, [{"start": 1, "end": 2, "label": "a"}], [{"completion": 0, "start": 1, "end": 2, "label": "a"}]),
        (
            replace(SPANS, field="prompt"),
            PAIR,
            [{"start": 4, "end": 5, "label": "a"}],
            [{"completion": None, "start": 4, "end": 5, "label": "a"}],
        ),
    ],
)  # fmt: skip
def test_an_answer_is_kept_in_its_one_form(question: Question, item: NewItem, answer: Any, kept: Any) -> None:
    assert check(question, answer, item) == kept


@pytest.mark.parametrize(
    ("question", "answer", "words"),
    [
        (Question("q", "Q?", "choice"), {"choice": 2}, "choice: Input should be less than or equal to 1"),
        (Question("q", "Q?", "choice", grades=3), {"choice": 1, "strength": 2}, "strength must be 1 where there are 3"),
        (Question("q", "Q?", "rating"), 6, "whole number from 1 to 5, got 6"),
        (Question("q", "Q?", "rating"), True, "whole number from 1 to 5, got True"),
        (Question("q", "Q?", "rating"), "5", "whole number from 1 to 5, got '5'"),
        (Question("q", "Q?", "rating", each=True), [5], r"a rating for each of the 2 completions, got \[5\]"),
        (Question("q", "Q?", "rating", each=True), 5, "for each of the 2 completions, got 5"),
        (LABELS, ["a"], r"unknown label \['a'\]; there are a, b, c"),
        (LABELS, "z", "unknown label 'z'; there are a, b, c"),
        (replace(LABELS, multiple=True), "a", "write a list of labels, got 'a'"),
        (Question("q", "Q?", "text"), "  ", "a text of at most 100,000 characters that is not blank"),
        (SPANS, [{"completion": 0, "start": 0, "end": 6, "label": "a"}], r"within the 5 characters.*\[0, 6\]"),
        (SPANS, [{"completion": 0, "start": 2, "end": 2, "label": "a"}], "within the 5 characters"),
        (SPANS, [{"completion": 2, "start": 0, "end": 1, "label": "a"}], "completion must be from 0 to 1, got 2"),
        (SPANS, [{"completion": None, "start": 0, "end": 1, "label": "a"}], "only the completion is marked here"),
        (replace(SPANS, field="prompt"), [{"completion": 0, "start": 0, "end": 1, "label": "a"}], "only the prompt is"),
        (SPANS, [{"completion": 0, "start": 0, "end": 1}], "a span has completion, start, end, label"),
        (SPANS, [{"completion": 0, "start": 0, "end": 1, "label": "z"}], "unknown label 'z'; there are a, b"),
        (SPANS, 2 * [{"completion": 0, "start": 0, "end": 1, "label": "a"}], "marked twice with the same label"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_by_question_and_value(question: Question, answer: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"question 'q': .*{words}"):
        check(question, answer)


def test_what_is_empty_is_no_answer() -> None:
    for question in (LABELS, replace(LABELS, multiple=True), Question("q", "Q?", "text"), SPANS):
        for empty in (None, "", []):
            with pytest.raises(ValueError, match="question 'q' needs an answer"):
                check(question, empty)
            assert check(replace(question, required=False), empty) is None


def test_questions_go_by_kind_and_number_of_completions() -> None:
    questions = [
        Question("rating", "R?", "rating", kinds=("rating",)),
        Question("choice", "C?", "choice"),
        Question("always", "A?", "text"),
    ]
    assert [question.name for question in asked_about(questions, "pairwise", 2)] == ["choice", "always"]
    assert [question.name for question in asked_about(questions, "rating", 1)] == ["rating", "always"]
    with pytest.raises(ValueError, match="no question 'choice' is asked about an item of kind 'rating'"):
        check_answers(ONE, {}, {"choice": {"choice": 0}}, questions)


def test_a_question_that_depends_on_another_is_asked_only_then() -> None:
    harmless = Question("harmless", "Harmless?", "labels", labels=("yes", "no"), required=False)
    why = Question("why", "Why?", "text", when={"harmless": ("no",)})
    both = [harmless, why]
    assert check_answers(PAIR, {}, {"harmless": "yes"}, both) == {"harmless": "yes"}
    assert check_answers(PAIR, {}, {}, both) == {}
    assert check_answers(PAIR, {}, {"why": "x", "harmless": "no"}, both) == {"harmless": "no", "why": "x"}
    with pytest.raises(ValueError, match="question 'why' needs an answer"):
        check_answers(PAIR, {}, {"harmless": "no"}, both)
    with pytest.raises(ValueError, match="question 'why' is asked only if harmless is no: leave its answer out"):
        check_answers(PAIR, {}, {"harmless": "yes", "why": "x"}, both)
    several = replace(harmless, multiple=True)
    assert check_answers(PAIR, {}, {"harmless": ["yes", "no"], "why": "x"}, [several, why])["why"] == "x"


def test_meaning_rests_on_what_can_be_answered_and_not_on_the_words() -> None:
    one = Question("q", "Q?", "rating")
    assert same_meaning(one, replace(one, text="Other words?", help="h", required=False, ends=("no", "yes")))
    assert not same_meaning(one, replace(one, scale=(1, 7)))
    assert not same_meaning(one, replace(one, each=True))
    assert same_meaning(LABELS, replace(LABELS, labels=("c", "b", "a", "d")))
    assert not same_meaning(replace(LABELS, labels=("c", "b", "a", "d")), LABELS)
    assert not same_meaning(LABELS, replace(LABELS, multiple=True))
    assert not same_meaning(SPANS, replace(SPANS, field="both"))
    assert not same_meaning(Question("q", "Q?", "choice"), Question("q", "Q?", "choice", grades=3))
