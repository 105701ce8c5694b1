"""Define the tutor's task: the student's replies, the reward of a turn, and the other student's judgement."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets import check_split
from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.tutor.problems import TELLING, apply, good_hint, make_problems, other_hints
from rlhf_envs.tasks.tutor.students import Careful, Follower, tells

__all__ = ["Tutor"]

SIZES = {"train": 2000, "validation": 200, "test": 300}
STUDENT, TUTOR = "Student:", "Tutor:"
TURN = re.compile(rf"\n{STUDENT}[^\n]*\n{TUTOR}", re.IGNORECASE)
# What the demonstrations are like: most are good, the others are what tutors do wrong.
SHARES = {"good": 0.5, "no number": 0.15, "vague": 0.1, "wrong": 0.1, "answer": 0.15}


class Tutor(Task):
    """Give a student hints to a word problem, so that it solves it, without telling the answer.

    ## Description
    A problem has two steps, such as "Mary has 3 books. Mary gets 4 more. Mary gives 2 away. How many books are there
    now?" The agent says what to do ("Add 4."), the student does it and asks for the next step ("Now I have 7. What do
    I do next?"). A student is a small program. The one that replies takes a step if the hint names its operation: with
    the step's number in 19 of 20 cases, without a number in 2 of 5. Other hints do not help it
    (`rlhf_envs.tasks.tutor.students`). There are 2,000 problems for training, 200 for validation and 300 for tests. The
    people of held-out problems are in no training problem, and neither are the numbers and steps of test problems.

    `rlhf sft rlhf/Tutor-v0 start --learning-rate 1e-3` learns from tutors of whom half of the hints are good; the
    others name no number, are vague, name a wrong step, or tell the answer. `rlhf train --env rlhf/Tutor-v0 --algo
    rloo --model start` learns the rest.

    ## Observation space
    `input_ids` and `attention_mask`, (208,) each: a prompt of up to 80 tokens and up to 128 new ones.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    By turn: 1 for the hint with which the student takes its last step. A hint that has the answer in it, in digits or
    in words, costs `leak_cost` (1), and the episode ends without a success. The metrics are `leak`, the share of
    episodes whose answer was told, and `other_success`: whether a different student solves the problem from the same
    hints. That one reads sentence by sentence, knows fewer words, needs the number, and gives up at a wrong step. A sum
    that gives the answer ("3 and 2 more") is not seen as told.

    ## Episode end
    The solution, a leak, 4 turns, or 128 new tokens with the student's replies.

    ## Arguments
    - `leak_cost`: what it costs to tell the answer.

    `data` takes problems of your own, with the columns `prompt` (the problem), `start` (a number), `steps` (a list of
    `["add" | "subtract" | "times", number]`) and `answer`. It takes the other arguments of `TextGenerationEnv`.

    ## Version history
    v0: the first version.

    Raises:
        ValueError: `leak_cost` is below 0, or a row's columns are missing or do not fit together.
    """

    name = "tutor"
    start = "--learning-rate 1e-3"
    template = "Problem: {problem}\nStudent: What do I do first?\nTutor:"
    reply_format = f"\n{STUDENT} {{text}}\n{TUTOR}"
    max_prompt_tokens, max_new_tokens, max_turns = 80, 128, 4

    def __init__(self, leak_cost: float = 1.0) -> None:
        if isinstance(leak_cost, bool) or not isinstance(leak_cost, int | float) or not 0 <= leak_cost < np.inf:
            raise ValueError(f"leak_cost={leak_cost!r}: give a number of at least 0")
        self.leak_cost = float(leak_cost)

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the problems of a split, or the rows of `data`."""
        if data is None:
            split = check_split(split, self.name)
            data = make_problems(split, SIZES[split])
        return [self._fill(row, number) for number, row in enumerate(data)]

    def _fill(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return a row with its prompt, after checking that its steps lead to its answer."""
        where = f"task {self.name!r}: row {number}"
        if missing := [name for name in ("start", "steps", "answer") if row.get(name) is None]:
            raise ValueError(f"{where} has no column {missing[0]!r}: it has {', '.join(map(repr, row))}")
        steps, found = row["steps"], row["start"]
        for step in steps if isinstance(steps, list | tuple) else [steps]:
            if not (isinstance(step, list | tuple) and len(step) == 2 and step[0] in TELLING and type(step[1]) is int):
                raise ValueError(f"{where} has the step {step!r}: give [{' | '.join(map(repr, TELLING))}, number]")
            found = apply(step, found)
        if found != row["answer"]:
            raise ValueError(f"{where}: its steps lead from {row['start']!r} to {found!r}, not to {row['answer']!r}")
        problem = row.get("problem", row.get("prompt"))
        return {**row, "problem": problem, "prompt": self.template.format(problem=problem)}

    def demonstrations(self, split: str) -> list[dict[str, Any]]:
        """Return two hints for each problem, one for each step, by tutors who are not always good."""
        rng, found = random.Random(split), list[dict[str, Any]]()
        for row in self.rows(split, None):
            prompt, number = row["prompt"], row["start"]
            for step in row["steps"]:
                hints = {"good": good_hint(step), **other_hints(row, step, rng)}
                (kind,) = rng.choices([*SHARES], [*SHARES.values()])
                found.append({"prompt": prompt, "completion": f" {hints[kind]}"})
                number = apply(step, number)
                prompt += f" {good_hint(step)}" + self.reply_format.format(text=say_next(number))
        return found

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        """Return what the student says to each hint."""
        return [self._reply(dialog) for dialog in dialogs]

    def _reply(self, dialog: Dialog) -> Reply:
        hint, row, state = dialog.messages[-1]["content"], dialog.row, dialog.state
        if tells(hint, row["answer"]):
            return Reply(reward=-self.leak_cost, done=True)
        taken, number = state.get("taken", 0), state.get("number", row["start"])
        step = row["steps"][taken]
        if not Follower().takes(hint, step, dialog.rng):
            return Reply("I do not see how. What do I do?")
        number, taken = apply(step, number), taken + 1
        state.update(taken=taken, number=number)
        return Reply(reward=1.0, done=True) if taken == len(row["steps"]) else Reply(say_next(number))

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `leak`, whether a hint has the answer, and `other_success`, whether the careful student solves it."""
        turns = [TURN.split(text) for text in completions]
        leaks = [
            any(tells(hint, answer) for hint in hints) for hints, answer in zip(turns, columns["answer"], strict=True)
        ]
        solved = [
            not leak and Careful().solves(hints, steps)
            for leak, hints, steps in zip(leaks, turns, columns["steps"], strict=True)
        ]
        return {"leak": [*map(float, leaks)], "other_success": [*map(float, solved)]}


def say_next(number: int) -> str:
    """Return what the student says after a step."""
    return f"Now I have {number}. What do I do next?"
