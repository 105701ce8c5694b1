"""Make programming problems: families of small functions with parameters, their solutions and their tests.

A problem is put together from parts: a condition on numbers, an operation on numbers or texts, and what is made of a
list. Level 1 has one operation, level 2 a list or two operations, level 3 a list with two parts, level 4 with three.
The parts of held-out problems occur in training; their combination, or their parameter, does not.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

__all__ = ["LEVELS", "Problem", "make_problems", "make_rows"]

LEVELS = (1, 2, 3, 4)
PER_LEVEL = 240  # problems, of those that a level has
TESTS = 6  # hidden tests for the reward, and as many others for the metric
SHARES = {"test": 20, "validation": 10}  # percent
WORDS = (
    "apple", "banana", "cat", "dog", "eagle", "fig", "grape", "house", "ice", "jam", "kite", "lemon", "moon", "nest",
    "orange", "pear", "queen", "river", "stone", "tree", "under", "violet", "window", "yellow", "zebra", "tea", "sand",
)  # fmt: skip


class Problem(NamedTuple):
    """Hold a problem: what its function takes ("x", "xs", "s" or "ws"), what it does in words, and a solution."""

    family: str
    level: int
    argument: str
    task: str
    solution: str


def conditions() -> Iterator[tuple[str, str, str]]:
    """Yield conditions on a number: what numbers are called that meet it, what x is then, and an expression of x."""
    for name, expression in (
        ("even", "x % 2 == 0"),
        ("odd", "x % 2 == 1"),
        ("positive", "x > 0"),
        ("negative", "x < 0"),
    ):
        yield f"{name} numbers", name, expression
    for k in range(2, 10):
        yield f"numbers over {k}", f"over {k}", f"x > {k}"
        yield f"numbers under {k}", f"under {k}", f"x < {k}"
    for k in range(3, 8):
        yield f"multiples of {k}", f"a multiple of {k}", f"x % {k} == 0"


def operations() -> Iterator[tuple[str, str]]:
    """Yield operations on a number: in words and as an expression of x."""
    yield "squared", "x * x"
    for k in range(2, 10):
        yield f"plus {k}", f"x + {k}"
        yield f"minus {k}", f"x - {k}"
        yield f"times {k}", f"x * {k}"
        yield f"modulo {k}", f"x % {k}"


def text_operations() -> Iterator[tuple[str, str]]:
    """Yield operations on a text: in words with `{}` for the text, and as what follows the text in an expression."""
    yield "{} reversed", "[::-1]"
    yield "{} in upper case", ".upper()"
    for k in range(1, 6):
        yield f"the first {k} letters of {{}}", f"[:{k}]"
        yield f"{{}} without its first {k} letters", f"[{k}:]"
        yield f"{{}} {k + 1} times", f" * {k + 1}"
    for letter in "aeior":
        yield f"{{}} without {letter}", f'.replace("{letter}", "")'
        yield f"{{}} with x for {letter}", f'.replace("{letter}", "x")'


def _level_1() -> Iterator[Problem]:
    for words, expression in operations():
        yield Problem("arithmetic", 1, "x", f"x {words}", expression)
    for _, words, expression in conditions():
        yield Problem("condition", 1, "x", f"whether x is {words}", expression)
    for words, expression in text_operations():
        yield Problem("text", 1, "s", words.format("s"), f"s{expression}")
    for letter in "abcdefghilmnorstu":
        yield Problem("count letters", 1, "s", f"how many {letter} are in s", f's.count("{letter}")')


def _level_2() -> Iterator[Problem]:
    for words, _, expression in conditions():
        yield Problem("filter", 2, "xs", f"the {words}", f"[x for x in xs if {expression}]")
        yield Problem("count", 2, "xs", f"how many {words} there are", f"len([x for x in xs if {expression}])")
    for words, expression in operations():
        yield Problem("map", 2, "xs", f"each number {words}", f"[{expression} for x in xs]")
    for words, expression in operations():
        if "*" in expression or "%" in expression:
            for k in range(1, 10):
                yield Problem("arithmetic", 2, "x", f"x {words} plus {k}", f"{expression} + {k}")
    for words, expression in text_operations():
        if "*" not in expression:
            yield Problem("map texts", 2, "ws", words.format("each word"), f"[w{expression} for w in ws]")
    for k in range(3, 7):
        yield Problem("filter texts", 2, "ws", f"the words of {k} letters", f"[w for w in ws if len(w) == {k}]")


def _level_3() -> Iterator[Problem]:
    for words, _, condition in conditions():
        for then, operation in operations():
            task = f"the {words}, each {then}"
            yield Problem("filter and map", 3, "xs", task, f"[{operation} for x in xs if {condition}]")
        yield Problem("filter and sum", 3, "xs", f"the sum of the {words}", f"sum([x for x in xs if {condition}])")
    for words, operation in operations():
        yield Problem("map and sum", 3, "xs", f"the sum of each number {words}", f"sum([{operation} for x in xs])")
        yield Problem("map and max", 3, "xs", f"the largest of each number {words}", f"max([{operation} for x in xs])")


def _level_4() -> Iterator[Problem]:
    for words, _, condition in conditions():
        for then, operation in operations():
            task = f"the sum of the {words}, each {then}"
            yield Problem("filter, map and sum", 4, "xs", task, f"sum([{operation} for x in xs if {condition}])")


FAMILIES: dict[int, Callable[[], Iterator[Problem]]] = {1: _level_1, 2: _level_2, 3: _level_3, 4: _level_4}


def make_problems() -> list[Problem]:
    """Return the problems, at most 240 per level, in a fixed order."""
    found: list[Problem] = []
    for level in LEVELS:
        some = [*FAMILIES[level]()]
        found += random.Random(level).sample(some, min(PER_LEVEL, len(some)))
    return found


def split_of(problem: Problem) -> str:
    """Return the split of a problem, by a hash of its task."""
    place = int(hashlib.sha256(f"{problem.level} {problem.task}".encode()).hexdigest(), 16) % 100
    return "test" if place < SHARES["test"] else "validation" if place < sum(SHARES.values()) else "train"


def _number(rng: random.Random, low: int, high: int, parameters: Sequence[int]) -> int:
    """Return a number, sometimes one beside a parameter of the problem, where wrong solutions give themselves away."""
    if parameters and rng.random() < 0.3:
        return rng.choice(parameters) + rng.randint(-1, 1)
    return rng.randint(low, high)


def _input(problem: Problem, rng: random.Random) -> Any:
    """Return an argument for a problem's function."""
    parameters = [int(digits) for digits in re.findall(r"\d+", problem.solution)]
    if problem.argument == "x":
        return _number(rng, -12, 30, parameters)
    if problem.argument == "xs":
        return [_number(rng, -9, 20, parameters) for _ in range(rng.randint(3, 6))]
    if problem.argument == "s":
        return "".join(rng.sample(WORDS, 2)) if rng.random() < 0.5 else rng.choice(WORDS)
    return rng.sample(WORDS, rng.randint(2, 4))


def make_tests(problem: Problem, n: int) -> list[dict[str, Any]]:
    """Return n tests, `{"args", "expected"}`, of different arguments, whose results repeat as seldom as they can.

    All results that are the argument itself count as one. The first test is none of these, where there is another.
    """
    rng = random.Random(f"{problem.level} {problem.task}")
    solve = eval(f"lambda {problem.argument}: {problem.solution}")  # a solution of ours, above
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for _ in range(20 * n):
        value = _input(problem, rng)
        expected = solve(value)
        result = "" if expected == value else json.dumps(expected)
        found.setdefault(json.dumps(value), (result, {"args": [value], "expected": expected}))
        if len({result for result, _ in found.values()}) >= n:
            break
    seen: Counter[str] = Counter()
    ordered: list[tuple[int, dict[str, Any]]] = []
    for result, test in found.values():
        seen[result] += 1
        ordered.append((seen[result], test))
    chosen = [test for _, test in sorted(ordered, key=lambda pair: pair[0])[:n]]  # seldom results come first
    rng.shuffle(chosen)
    return sorted(chosen, key=lambda test: test is not next(filter(_changes, chosen), chosen[0]))


def _changes(test: dict[str, Any]) -> bool:
    """Return whether the result is another value than the argument."""
    return bool(test["args"] != [test["expected"]])


def write_prompt(problem: Problem, example: dict[str, Any]) -> str:
    """Return the signature and the docstring, which has the task and an example."""
    call = f"f({example['args'][0]!r})"
    return f'def f({problem.argument}):\n    """{problem.task}. {call} is {example["expected"]!r}"""\n'


def make_row(problem: Problem) -> dict[str, Any]:
    """Return the row of a problem: prompt, reference, both sets of tests, family, level."""
    example, *rest = make_tests(problem, 1 + 2 * TESTS)
    return {
        "prompt": write_prompt(problem, example),
        "reference": f"    return {problem.solution}",
        "entry_point": "f",
        "tests": rest[::2],
        "other_tests": rest[1::2],
        "family": problem.family,
        "level": problem.level,
    }


def varies(tests: Sequence[dict[str, Any]]) -> bool:
    """Return whether no constant passes more than two thirds of the tests."""
    return max(Counter(json.dumps(test["expected"]) for test in tests).values()) <= 2 * len(tests) / 3


@cache
def _rows() -> dict[str, Sequence[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for problem in make_problems():
        row = make_row(problem)
        if all(varies(row[name]) for name in ("tests", "other_tests")):
            found[split_of(problem)].append(row)
    return dict(found)


def make_rows(split: str) -> list[dict[str, Any]]:
    """Return the rows of a split. They are the same every time."""
    return [dict(row) for row in _rows()[split]]
