"""Generate word problems of two steps, and hints about them of different quality."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rlhf_envs.datasets.splits import hash_share, prompt_key

__all__ = ["NUMBER_WORDS", "apply", "good_hint", "make_problems", "other_hints"]

PEOPLE = {
    "train": ("Mary", "John", "Jane", "David", "Peter", "Ann", "Robert", "Tom", "James", "Bill"),
    "validation": ("Sam", "Frank", "Michael"),
    "test": ("Jack", "Paul", "George", "Joe"),
}
THINGS = ("books", "cars", "pictures", "boxes", "dogs", "cats", "balls", "movies")
TELLING = {
    "add": ("{who} gets {n} more.", "{who} finds {n} more.", "{who} is given {n} more."),
    "subtract": ("{who} gives {n} away.", "{who} loses {n} of them.", "{who} sells {n} of them."),
    "times": ("Then {who} has {n} times as many.", "{who} makes it {n} times as many."),
}
HINTS = {"add": "Add {n}.", "subtract": "Take away {n}.", "times": "Do it {n} times."}
VAGUE = ("Think about it.", "Read it again.", "You can do it.", "Try to work it out.")
WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
NUMBER_WORDS = {word: number for number, word in enumerate([*WORDS.split(), "eighteen", "nineteen", "twenty"])}
MOST = 20
SEEDS = {"train": 0, "validation": 1, "test": 2}

Step = Sequence[Any]  # the operation and its number


def apply(step: Step, number: int) -> int:
    """Return what a step makes of a number."""
    kind, n = step
    return number + n if kind == "add" else number - n if kind == "subtract" else number * n


def make_problem(split: str, rng: random.Random) -> dict[str, Any] | None:
    """Return a problem as a row: `problem`, `start`, `steps` and `answer`; None if its numbers do not do.

    All numbers are 1 to 20, and the answer is none of those that the problem or its first step has: who says it tells.
    """
    who, things = rng.choice(PEOPLE[split]), rng.choice(THINGS)
    start = rng.randint(2, 9)
    number, seen, steps, lines = start, {start}, list[list[Any]](), list[str]()
    for _ in range(2):
        kind = rng.choice([one for one in TELLING if not steps or one != steps[-1][0]])
        n = rng.randint(2, 3 if kind == "times" else 9)
        steps.append([kind, n])
        lines.append(rng.choice(TELLING[kind]).format(who=who, n=n))
        before, number = number, apply([kind, n], number)
        seen |= {n, before}
    if number in seen or not 1 <= apply(steps[0], start) <= MOST or not 1 <= number <= MOST:
        return None
    problem = f"{who} has {start} {things}. {' '.join(lines)} How many {things} are there now?"
    return {"problem": problem, "start": start, "steps": steps, "answer": number}


def make_problems(split: str, n: int) -> list[dict[str, Any]]:
    """Return n different problems of a split, always the same ones.

    Their people are of the split alone. The numbers and steps of every tenth combination, by a hash, are kept for the
    test split, and it has no others.
    """
    rng, found = random.Random(SEEDS[split]), dict[str, dict[str, Any]]()
    while len(found) < n:
        row = make_problem(split, rng)
        if row is None:
            continue
        is_test = hash_share(prompt_key(f"{row['start']} {row['steps']}")) < 0.1
        if is_test == (split == "test"):
            found.setdefault(row["problem"], row)
    return [*found.values()]


def good_hint(step: Step) -> str:
    """Return a hint that names a step: the operation and its number."""
    return HINTS[step[0]].format(n=step[1])


def other_hints(row: dict[str, Any], step: Step, rng: random.Random) -> dict[str, str]:
    """Return worse hints by name: without the number, vague, of a wrong step, and the answer itself."""
    kind, n = step
    wrong = rng.choice([one for one in HINTS if one != kind])
    return {
        "no number": {"add": "Add them.", "subtract": "Take some away.", "times": "Do it many times."}[kind],
        "vague": rng.choice(VAGUE),
        "wrong": HINTS[wrong].format(n=n),
        "answer": f"It is {row['answer']}.",
    }
