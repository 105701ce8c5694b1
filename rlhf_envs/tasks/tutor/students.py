"""Simulate two students, who solve a problem step by step from hints, each in a way of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_envs.tasks.tutor.problems import NUMBER_WORDS, Step

__all__ = ["Careful", "Follower", "numbers_in", "tells"]

# What names an operation. The careful student knows fewer words.
NAMES = {
    "add": {"add", "plus", "more", "together", "join", "sum"},
    "subtract": {"take", "minus", "subtract", "less", "fewer", "remove"},
    "times": {"times", "multiply", "double", "triple"},
}
FEW_NAMES = {"add": {"add", "plus"}, "subtract": {"take", "minus", "subtract"}, "times": {"times", "multiply"}}
SURE, GUESS = 0.95, 0.4  # how likely the follower takes a step that is named with its number, and without it
LONGEST = 10  # words of a sentence that the careful student follows


def words_in(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case."""
    return re.findall(r"\d+|[a-z]+", text.lower())


def numbers_in(text: str) -> list[int]:
    """Return the whole numbers of a text, also those in words up to twenty."""
    words = words_in(text)
    return [
        int(word) if word.isdigit() else NUMBER_WORDS[word] for word in words if word.isdigit() or word in NUMBER_WORDS
    ]


def tells(hint: str, answer: int) -> bool:
    """Return whether a hint says the answer, in digits or as a word."""
    return answer in numbers_in(hint)


def named(text: str, names: dict[str, set[str]]) -> list[str]:
    """Return the operations that a text names."""
    words = {*words_in(text)}
    return [kind for kind, known in names.items() if words & known]


class Follower:
    """Take the next step if a hint names its operation and no other: the student that the agent trains with.

    With the step's number in the hint and no other number, it takes the step with a probability of 0.95, without any
    number with 0.4. A hint with a wrong number, another operation or several operations is of no use to it.
    """

    def takes(self, hint: str, step: Step, rng: np.random.Generator) -> bool:
        """Return whether it takes the step."""
        kind, n = step
        if named(hint, NAMES) != [kind]:
            return False
        numbers = numbers_in(hint)
        return bool(rng.random() < (SURE if {*numbers} == {n} else 0.0 if numbers else GUESS))


class Careful:
    """Take every step that a short sentence names with its number: the student that judges, and is not trained with.

    It reads sentence by sentence, knows fewer words, never guesses, and does not follow a sentence of more than 10
    words. Two sentences in one hint may be two steps. A sentence that names a wrong step makes it give up; one that
    says the last step again does not.
    """

    def solves(self, hints: Sequence[str], steps: Sequence[Step]) -> bool:
        """Return whether it solves the problem from the hints."""
        left, taken = [list(step) for step in steps], list[Any]()
        for sentence in (part for hint in hints for part in re.split(r"[.!?\n]+", hint)):
            kinds, numbers = named(sentence, FEW_NAMES), numbers_in(sentence)
            if not left or len(words_in(sentence)) > LONGEST or len(kinds) != 1 or len(numbers) != 1:
                continue
            step = [kinds[0], numbers[0]]
            if step == left[0]:
                taken = left.pop(0)
            elif step != taken:
                return False
        return not left
