"""A project's own questions in the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf_envs.feedback import FeedbackStore, NewItem, Question
from rlhf_envs.feedback.terminal.label import label

HELPFUL = Question("helpful", "How helpful?", "rating", scale=(1, 7), ends=("not", "very"), each=True)
TRUER = Question("truer", "Which is truer?", "choice", grades=3)
HARM = Question("harm", "Harmful?", "labels", labels=("no", "yes"), help="Think of others.")
WHICH = Question("which", "Which harm?", "labels", labels=("lie", "insult"), multiple=True, when={"harm": ("yes",)})
FAULTS = Question("faults", "What is wrong?", "spans", labels=("untrue", "rude"), required=False, field="both")
WHY = Question("why", "Why?", "text", required=False)
PAIR = NewItem("pairwise", "a b", ("one two one", "four five"))


class Script:
    """A keyboard with its keys and lines typed beforehand."""

    def __init__(self, keys: Sequence[str], lines: Sequence[str]) -> None:
        self.keys, self.lines = list(keys), list(lines)

    def key(self) -> str:
        return self.keys.pop(0) if self.keys else "q"

    def line(self, prompt: str) -> str:
        return self.lines.pop(0)

    def edit(self, text: str) -> str | None:
        return None


@pytest.fixture
def store(empty_store: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(empty_store, seed=0) as store:
        store.update_settings(next_item="age")  # the tests know which item comes next
        yield store


def run(store: FeedbackStore, *keys: str, lines: Sequence[str] = ()) -> str:
    file = io.StringIO()
    console = Console(file=file, width=120, height=50, color_system=None, legacy_windows=False)
    label(store, "ada", keyboard=Script(keys, lines), console=console)
    return file.getvalue()


def asking(store: FeedbackStore, *questions: Question, item: NewItem = PAIR, **settings: Any) -> None:
    store.update_settings(questions=questions, **settings)
    store.add_items([item])


def test_all_types_are_asked_one_after_the_other(store: FeedbackStore) -> None:
    asking(store, HELPFUL, TRUER, HARM, WHICH, FAULTS, WHY, wording={"pairwise": "Which would you rather get?"})
    first = store.claim(store.add_annotator("ada").name)
    assert first is not None
    a, b = first.sides
    lines = ["prompt: b", "", f"A: {PAIR.completions[a].split()[0]}", "not so", "Because."]
    shown = run(store, "2", "7", "1", "3", "2", "2", "1", "\r", "1", "2", "\r", "e", lines=lines)
    for words in ("Which would you rather get?", "question 1 of 6: How helpful?", "A, from 1 not to 7 very"):
        assert words in shown
    [judgement] = store.judgements()
    assert judgement.value == {"choice": a, "strength": 2}
    ratings = [0, 0]
    ratings[a], ratings[b] = 7, 1
    word = PAIR.completions[a].split()[0]
    assert judgement.answers == {
        "helpful": ratings,
        "truer": {"choice": b, "strength": 1},
        "harm": "yes",
        "which": ["lie", "insult"],
        "faults": [
            {"completion": None, "start": 2, "end": 3, "label": "untrue"},
            {"completion": a, "start": 0, "end": len(word), "label": "rude", "note": "not so"},
        ],
        "why": "Because.",
    }


def test_optional_questions_can_be_passed_over_and_all_begun_again(store: FeedbackStore) -> None:
    asking(store, HARM, WHICH, WHY)
    run(store, "1", "2", "-", "7", "1", "+")
    [judgement] = store.judgements()
    assert judgement.value == {"choice": store_side(store), "strength": 3}
    assert judgement.answers == {"harm": "no"}


def store_side(store: FeedbackStore) -> int:
    return store.judgements()[0].sides[1]


def test_what_does_not_stand_in_the_text_is_not_marked(store: FeedbackStore) -> None:
    one = NewItem("questions", "p", ("one two one",))
    asking(store, Question("faults", "Wrong?", "spans", labels=("bad",), keys=("x",)), item=one)
    shown = run(store, "\r", "x", "x", "x", "x", "\x7f", "\r", lines=["three", "one", "", "one", "x", "two", ""])
    assert "mark a piece first" in shown and "'three' does not stand there" in shown
    [judgement] = store.judgements()
    assert judgement.answers["faults"] == [
        {"completion": 0, "start": 0, "end": 3, "label": "bad"},
        {"completion": 0, "start": 8, "end": 11, "label": "bad", "note": "x"},
    ]


def test_long_scales_and_label_sets_are_typed(store: FeedbackStore) -> None:
    score = Question("score", "Score?", "rating", scale=(-10, 10))
    many = Question("many", "Many?", "labels", labels=tuple(f"label {i}" for i in range(12)))
    asking(store, score, many, item=NewItem("thumbs", "p", ("c",)))
    shown = run(store, "1", "e", "e", "e", "e", lines=["11", "-7", "label 12", "label 11"])
    assert "'11' is no rating from -10 to 10" in shown and "unknown: label 12" in shown
    assert store.judgements()[0].answers == {"score": -7, "many": "label 11"}


def test_a_skip_needs_no_answers(store: FeedbackStore) -> None:
    asking(store, HARM)
    run(store, "1", "s")
    [judgement] = store.judgements(include_skips=True)
    assert (judgement.value, judgement.answers) == (None, {})
