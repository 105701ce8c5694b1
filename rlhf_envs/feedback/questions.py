"""Define the questions that a project asks of its own, beside the question of an item's kind.

The types are Argilla's (RatingQuestion, LabelQuestion and MultiLabelQuestion, TextQuestion, SpanQuestion), and a
comparison of an item's two completions, "choice".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "KIND_NAMES",
    "TAKEN_KEYS",
    "Question",
    "asked_about",
    "check_questions",
    "check_wording",
    "is_due",
    "same_meaning",
]

KIND_NAMES = ("pairwise", "ranking", "rating", "thumbs", "correction", "flags", "questions")
# Keys of the page and of the terminal. A label cannot have one of them.
TAKEN_KEYS = frozenset("cdeglmnoqrsuvw?[]+- ")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")
_OF_TYPE = {  # the fields that one type has and others do not
    "scale": ("rating",),
    "ends": ("rating",),
    "each": ("rating",),
    "grades": ("choice",),
    "labels": ("labels", "spans"),
    "keys": ("labels", "spans"),
    "multiple": ("labels",),
    "field": ("spans",),
}


@dataclass(frozen=True)
class Question:
    """Hold a question of the project. It is asked together with the question of the item's kind.

    Attributes:
        name: names the criterion, in answers, exports and `--criterion`: letters, digits, "_" and "-".
        text: the wording that annotators read.
        type: "choice" (which of two completions is better), "rating" (a number on `scale`), "labels" (one of `labels`,
            or several with `multiple`), "text" (free text), or "spans" (pieces of a text, each with one of `labels`).
        required: whether an answer needs it.
        kinds: the kinds of items with which it is asked; empty for all. A "choice" is asked about two completions only.
        help: what it means, in a sentence or two below the question.
        when: asks it only after certain answers to earlier questions of the types "rating" and "labels":
            `{"harmless": ["no"]}`.
        scale: the lowest and the highest rating.
        ends: the words at the two ends of the scale.
        each: rate each completion of an item, instead of the item as a whole.
        grades: 7 from "much better" to "much better" with a tie, or 3: better, tie, better.
        labels: the labels to choose from.
        keys: a key for each label. Without them labels have the digits.
        multiple: allow several labels.
        field: where spans are marked: in the "completion" (or completions), the "prompt", or "both".
    """

    name: str
    text: str
    type: Literal["choice", "rating", "labels", "text", "spans"]
    required: bool = True
    kinds: tuple[str, ...] = ()
    help: str = ""
    when: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    scale: tuple[int, int] = (1, 5)
    ends: tuple[str, str] = ("", "")
    each: bool = False
    grades: Literal[3, 7] = 7
    labels: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    multiple: bool = False
    field: Literal["completion", "prompt", "both"] = "completion"

    def __post_init__(self) -> None:
        """Raise a ValueError that names the question and its field unless all fields suit each other."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r}: write at most 60 letters, digits, '_' or '-', the first of them a letter"
            )
        where = f"question {self.name!r}:"
        if not self.text.strip() or len(self.text) > 1000 or len(self.help) > 2000:
            raise ValueError(f"{where} text must have 1 to 1,000 characters, and help at most 2,000")
        for name, types in _OF_TYPE.items():
            if self.type not in types and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{where} {name} is for the type {' and '.join(types)}, not for {self.type!r}")
        if unknown := [kind for kind in self.kinds if kind not in KIND_NAMES]:
            raise ValueError(f"{where} kinds: unknown kind {unknown[0]!r}; there are {', '.join(KIND_NAMES)}")
        low, high = self.scale
        if not low < high or low < -1000 or high > 1000 or high - low > 100:
            raise ValueError(
                f"{where} scale must be the lowest and the highest rating, within -1000 to 1000 and at most 100 apart, "
                f"got {list(self.scale)}"
            )
        if max(map(len, self.ends)) > 60:
            raise ValueError(f"{where} ends must have at most 60 characters each")
        self._check_labels(where)

    def _check_labels(self, where: str) -> None:
        if (self.type == "spans" and not self.labels) or (self.type == "labels" and len(self.labels) < 2):
            raise ValueError(f"{where} labels: write {'one' if self.type == 'spans' else 'two'} or more")
        if any(not label.strip() or len(label) > 60 for label in self.labels):
            raise ValueError(f"{where} labels must have 1 to 60 characters each")
        if len(set(self.labels)) < len(self.labels) or len(self.labels) > 100:
            raise ValueError(f"{where} labels must differ from each other, and be at most 100")
        if not self.keys:
            return
        if len(self.keys) != len(self.labels):
            raise ValueError(f"{where} keys: write one for each of the {len(self.labels)} labels, or none")
        for key in self.keys:
            if len(key) != 1 or not key.isprintable() or key.lower() in TAKEN_KEYS or self.keys.count(key) > 1:
                free = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in TAKEN_KEYS]
                raise ValueError(
                    f"{where} keys: {key!r} is no key for a label: take a digit or one of {' '.join(free)}, each once"
                )


def check_questions(questions: Sequence[Question]) -> None:
    """Raise a ValueError unless the questions of a project suit each other."""
    if len(questions) > 30:
        raise ValueError(f"questions: at most 30, got {len(questions)}")
    earlier: dict[str, Question] = {}
    for question in questions:
        if question.name in earlier:
            raise ValueError(f"questions: two have the name {question.name!r}")
        for name, values in question.when.items():
            other = earlier.get(name)
            if other is None:
                raise ValueError(f"question {question.name!r}: when: there is no question {name!r} before it")
            known = _answers_that_decide(other)
            if not values or any(value not in known for value in values):
                raise ValueError(
                    f"question {question.name!r}: when: {list(values)} are no answers to {name!r}; there are "
                    f"{', '.join(map(str, known)) or 'none that a question can depend on'}"
                )
        earlier[question.name] = question


def _answers_that_decide(question: Question) -> Sequence[int | str]:
    """Return the answers to a question on which another may depend."""
    if question.type == "rating" and not question.each:
        return range(question.scale[0], question.scale[1] + 1)
    return question.labels if question.type == "labels" else ()


def check_wording(wording: Mapping[str, str]) -> None:
    """Raise a ValueError unless the wording is text for kinds of items."""
    for kind, text in wording.items():
        if kind not in KIND_NAMES:
            raise ValueError(f"wording: unknown kind {kind!r}; there are {', '.join(KIND_NAMES)}")
        if not text.strip() or len(text) > 1000:
            raise ValueError(f"wording: the text of {kind!r} must have 1 to 1,000 characters")


def asked_about(questions: Sequence[Question], kind: str, n_completions: int) -> list[Question]:
    """Return the questions that are asked with items of a kind and so many completions."""
    return [
        question
        for question in questions
        if (not question.kinds or kind in question.kinds) and (question.type != "choice" or n_completions == 2)
    ]


def is_due(question: Question, answers: Mapping[str, Any]) -> bool:
    """Return whether the answers to earlier questions are such that this one is asked."""
    for name, wanted in question.when.items():
        given = answers.get(name)
        if not any(value in wanted for value in (given if isinstance(given, list) else [given])):
            return False
    return True


def same_meaning(old: Question, new: Question) -> bool:
    """Return whether answers to the old question are answers to the new one too.

    They are not if the type, the scale or the grades differ, if it went from the item to `each` completion or back,
    from one label to several or back, from one text to another, or if a label is gone. Other words and further labels
    are no other meaning.
    """
    fixed = ("type", "scale", "grades", "each", "multiple", "field")
    return all(getattr(old, name) == getattr(new, name) for name in fixed) and {*old.labels} <= {*new.labels}
