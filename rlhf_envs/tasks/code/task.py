"""Define the task of completing small Python functions."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_envs.curriculum import curriculum_of
from rlhf_envs.datasets import check_split
from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.task_weights import TaskWeights
from rlhf_envs.tasks.base import Task

from .problems import LEVELS, make_rows
from .sandbox import Limits, Outcome, Program, run_programs

__all__ = ["Code", "CodeReward", "Runner"]

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
REMEMBERED = 8192  # programs


def program_of(stub: str, completion: Prompt, entry_point: str) -> str:
    """Return the program that a completion makes.

    That is the stub and the completion; in a reply with a fenced block of code the block counts, which may hold the
    whole function or the rest of the stub.
    """
    text = said(completion)
    if block := FENCE.search(text):
        text = block[1]
    return text if re.search(rf"^\s*def {re.escape(entry_point)}\b", text, re.MULTILINE) else stub + text


def same(value: Any, expected: Any) -> bool:
    """Return whether two values of JSON are equal: 1 is 1.0 and not true; floats may differ by 1e-9 of their size."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, int | float) and isinstance(expected, int | float):
        return value == expected or close(value, expected)
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(same(value[name], expected[name]) for name in expected)
    return type(value) is type(expected) and bool(value == expected)


def close(value: float, expected: float) -> bool:
    """Return whether two numbers, one of them a float, differ by at most 1e-9 of their size."""
    if isinstance(value, int) and isinstance(expected, int):
        return False
    try:
        return math.isclose(value, expected, rel_tol=1e-9)
    except OverflowError:  # an integer that no float can be
        return False


class Runner:
    """Run completions against tests, in the sandbox, each different program once.

    Args:
        limits: what each program may use.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._known: OrderedDict[str, list[Outcome]] = OrderedDict()

    def run(self, completions: Sequence[Prompt], columns: Mapping[str, list[Any]]) -> list[list[Outcome]]:
        """Return the outcomes of each completion's program: of the row's `tests`, then of its `other_tests`."""
        rows = zip(
            completions,
            columns["stub"],
            columns["entry_point"],
            columns["tests"],
            columns["other_tests"],
            strict=True,
        )
        programs = [
            Program(program_of(stub, completion, name), name, [test["args"] for test in (*tests, *others)])
            for completion, stub, name, tests, others in rows
        ]
        keys = [json.dumps(program) for program in programs]
        new = {key: program for key, program in zip(keys, programs, strict=True) if key not in self._known}
        found = dict(zip(new, run_programs([*new.values()], self.limits), strict=True))
        outcomes = [found[key] if key in found else self._known[key] for key in keys]
        self._known.update(found)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return outcomes

    def passed(self, completions: Sequence[Prompt], columns: Mapping[str, list[Any]], kind: str) -> list[list[bool]]:
        """Return for each completion which of the row's tests it passes; `kind` is "tests" or "other_tests"."""
        found = []
        for i, outcomes in enumerate(self.run(completions, columns)):
            n, tests = len(columns["tests"][i]), columns[kind][i]
            part = outcomes[:n] if kind == "tests" else outcomes[n:]
            pairs = zip(part, tests, strict=True)
            found.append([one.error is None and same(one.value, test["expected"]) for one, test in pairs])
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is remembered."""
        return {**self.__dict__, "_known": OrderedDict()}


class CodeReward:
    """Score a completion by the share of the row's hidden `tests` that it passes, less what a constant passes.

    With n tests, c of which expect the most frequent value, k passed tests give (k - c) / (n - c), at least 0. So a
    function that returns the same for every input earns nothing. Where all tests expect one value the share counts.

    Args:
        runner: what runs the programs.
    """

    def __init__(self, runner: Runner | None = None) -> None:
        self.runner = runner or Runner()

    def __call__(self, completions: Sequence[Prompt], **columns: Any) -> list[float]:
        """Return one score per completion, from 0 to 1."""
        passed = self.runner.passed(completions, columns, "tests")
        return [above_constant(one, tests) for one, tests in zip(passed, columns["tests"], strict=True)]


def above_constant(passed: Sequence[bool], tests: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of passed tests, measured from what the best constant passes (0) to all (1)."""
    n = len(tests)
    constant = max(Counter(json.dumps(test["expected"], sort_keys=True) for test in tests).values())
    if constant == n:
        return sum(passed) / n
    return max(0.0, (sum(passed) - constant) / (n - constant))


class Code(Task):
    """Complete a small Python function from its docstring, so that it passes hidden tests.

    ## Description
    The prompts are the signature and the docstring of 815 functions (577 train, 72 validation, 166 test) over numbers,
    lists, texts and words, with one example. They are put together by rules, on four levels: one operation; a list or
    two operations; a list with two parts, such as a condition and an operation; a sum over such a list. The operations
    and conditions of held-out problems occur in training, their combinations and parameters do not. The agent writes
    the body. `rlhf sft rlhf/Code-v0 start --epochs 4 --learning-rate 1.5e-3` teaches a model the form from solutions,
    and `rlhf train --env rlhf/Code-v0 --algo rloo --model start` goes on from there.

    ## Observation space
    `input_ids` and `attention_mask`, (120,) each: a prompt of up to 80 tokens and up to 40 new ones.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny", which writes lower case alone: no
    solution needs another.

    ## Reward
    At the end of an episode the share of 6 hidden tests that the function passes, less what the best constant passes:
    from 0 to 1. Each program runs in a process of its own in a sandbox; `rlhf_envs.tasks.code.sandbox` says which
    limits it has, why results cannot be forged, and what it does not stop. Evaluations report `solved` beside it,
    whether the function passes all of 6 other tests, the share of these that it passes (`other_tests`), and the share
    of functions that return a value for all inputs (`runs`).

    ## Episode end
    EOS, or 40 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/Code-v0")` needs none. `levels`, some of 1 to 4, are the levels of these problems, all by
    default. With `curriculum=True` training begins with the lowest and opens the next as the agent succeeds, as
    `rlhf_envs.curriculum.Curriculum` says; held-out problems are of all levels. `data` takes problems of your own:
    `prompt` (what the function begins with, or a conversation that asks for it; a reply may put it into a fenced
    block), `tests`, a list of `{"args": [...], "expected": value}` or its JSON, and perhaps `entry_point` (by default
    the last function of the prompt), `other_tests` (by default every second test) and `level`. Values are those of
    JSON: a tuple is no list. For other limits than half a second of CPU and 256 MiB pass
    `reward_fn=CodeReward(Runner(Limits(...)))`.

    ## Version history
    v0: the first version.
    """

    name = "code"
    start = "--epochs 4 --learning-rate 1.5e-3"
    max_prompt_tokens = 80
    max_new_tokens = 40

    def __init__(self, levels: Sequence[int] = LEVELS, curriculum: bool = False) -> None:
        if unknown := [level for level in levels if level not in LEVELS]:
            raise ValueError(f"levels={[*levels]}: there is no level {unknown[0]!r}, there are {[*LEVELS]}")
        if not levels:
            raise ValueError(f"levels={levels!r} is empty: give some of {[*LEVELS]}")
        self.levels, self.curriculum = tuple(levels), curriculum
        self.runner = Runner()

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows, each with `stub` (the prompt's text), `entry_point`, `tests` and `other_tests`.

        Raises:
            ValueError: a row of `data` has no tests, or malformed ones, or no name of a function.
        """
        if data is not None:
            return [read_row(dict(row), i) for i, row in enumerate(data)]
        return [
            read_row(row, i)
            for i, row in enumerate(make_rows(check_split(split, self.name)))
            if row["level"] in self.levels
        ]

    def task_weights(self, rows: Sequence[Mapping[str, Any]], split: str) -> TaskWeights | None:
        """Return the curriculum over the levels of training rows, if there is to be one.

        Raises:
            ValueError: rows of one's own have no column `level`.
        """
        return curriculum_of(rows, split, self.name) if self.curriculum else None

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the share of hidden tests passed, less what a constant passes."""
        return CodeReward(self.runner)

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `solved` and `other_tests`, by tests that the reward does not use, and `runs`."""
        others = self.runner.passed(completions, columns, "other_tests")
        runs = [all(one.error is None for one in outcomes) for outcomes in self.runner.run(completions, columns)]
        return {
            "solved": [float(all(passed)) for passed in others],
            "other_tests": [sum(passed) / len(passed) for passed in others],
            "runs": [float(ran) for ran in runs],
        }


def read_row(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a row of data with all columns of the task; `number` is its place, for messages."""
    where = f"task 'code': row {number}"
    row["stub"] = row.get("stub") or (row["prompt"] if isinstance(row["prompt"], str) else "")
    text = row["prompt"] if isinstance(row["prompt"], str) else said(row["prompt"])
    names = re.findall(r"^\s*(?:async )?def (\w+)", text, re.MULTILINE)
    if not row.get("entry_point"):
        if not names:
            raise ValueError(f"{where} has no 'entry_point', and its prompt no 'def NAME(': name the function to call")
        row["entry_point"] = names[-1]
    tests = read_tests(row, "tests", where)
    if row.get("other_tests"):
        others = read_tests(row, "other_tests", where)
    else:
        tests, others = (tests[::2], tests[1::2]) if len(tests) > 1 else (tests, tests)
    return {**row, "tests": tests, "other_tests": others}


def read_tests(row: Mapping[str, Any], column: str, where: str) -> list[dict[str, Any]]:
    """Return the tests of a column, which may be JSON text."""
    if column not in row:
        raise ValueError(
            f"{where} has no column {column!r}: it has {', '.join(map(repr, row))}; give a list of "
            "{'args': [...], 'expected': ...}, or rename one with columns={'tests': 'NAME'}"
        )
    tests = row[column]
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError as error:
            raise ValueError(f"{where}: {column!r} is no JSON ({error}): {row[column][:60]!r}") from None
    good = isinstance(tests, list) and tests
    if not good or not all(
        isinstance(t, Mapping) and isinstance(t.get("args"), list) and "expected" in t for t in tests
    ):
        raise ValueError(
            f"{where}: {column!r} must be a list of {{'args': [...], 'expected': ...}} with at least one, got "
            f"{str(tests)[:80]}"
        )
    try:
        return [dict(json.loads(json.dumps(test))) for test in tests]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {column!r} has a value that is none of JSON's ({error})") from None
