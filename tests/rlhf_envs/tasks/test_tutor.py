from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.tasks.tutor.problems import PEOPLE, good_hint, make_problems
from rlhf_envs.tasks.tutor.students import Careful, Follower, tells

ENV = "rlhf/Tutor-v0"
ADD, TAKE = ["add", 4], ["subtract", 2]


def taken(hint: str, step: list[Any], n: int = 400) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([Follower().takes(hint, step, rng) for _ in range(n)]))


def test_the_follower_needs_the_operation_and_is_surer_with_its_number() -> None:
    assert taken("Add 4.", ADD) == pytest.approx(0.95, abs=0.04)
    assert taken("put four more together", ADD) == pytest.approx(0.95, abs=0.04)
    assert taken("Add them.", ADD) == pytest.approx(0.4, abs=0.1)
    for useless in ("Add 5.", "Take away 4.", "Add 4 or take 4.", "Think about it.", "4", ""):
        assert taken(useless, ADD) == 0


def test_the_careful_student_follows_sentences_with_both() -> None:
    solves = Careful().solves
    assert solves(["Add 4.", "Take away 2."], [ADD, TAKE])
    assert solves(["Add 4. Then take away 2."], [ADD, TAKE])
    assert solves(["Well done so far.", "plus four", "hm", "minus two"], [ADD, TAKE])
    assert solves(["Add 4.", "Add 4.", "Take away 2."], [ADD, TAKE])
    assert not solves(["Add 4."], [ADD, TAKE])
    assert not solves(["Take away 5.", "Add 4.", "Take away 2."], [ADD, TAKE])  # a wrong step makes it give up
    assert not solves(["Add them.", "Take some away."], [ADD, TAKE])
    assert not solves(["Take away 2.", "Add 4."], [ADD, TAKE])  # the wrong order
    assert not solves(["put 4 more together", "remove 2"], [ADD, TAKE])  # words that the follower alone knows
    assert not solves(["Add 4 " + "very " * 10, "Take away 2."], [ADD, TAKE])


@pytest.mark.parametrize("hint", ["It is 12.", "twelve", "12", "the answer is TWELVE of them"])
def test_the_answer_is_seen_in_digits_and_words(hint: str) -> None:
    assert tells(hint, 12)
    assert not tells(hint, 2)


@pytest.mark.parametrize("split", [*PEOPLE])
def test_problems_are_solvable_and_no_step_has_the_answer(split: str) -> None:
    for row in make_problems(split, 200):
        shown = [int(number) for number in re.findall(r"\d+", row["problem"])]
        assert shown == [row["start"], *(n for _, n in row["steps"])]
        assert row["answer"] not in shown
        number = row["start"]
        for kind, n in row["steps"]:
            number = {"add": number + n, "subtract": number - n, "times": number * n}[kind]
            assert 1 <= number <= 20
        assert number == row["answer"]
        assert Careful().solves([good_hint(step) for step in row["steps"]], row["steps"])
        assert not any(tells(good_hint(step), row["answer"]) for step in row["steps"])


def test_splits_share_no_people_and_tests_no_numbers_with_training() -> None:
    rows = {split: gym.make(ENV, split=split).unwrapped.rows for split in PEOPLE}  # type: ignore[attr-defined]
    assert [len(found) for found in rows.values()] == [2000, 200, 300]
    sums = {split: {str((row["start"], row["steps"])) for row in found} for split, found in rows.items()}
    assert not sums["test"] & (sums["train"] | sums["validation"])
    people = {split: {row["problem"].split()[0] for row in found} for split, found in rows.items()}
    assert not people["train"] & (people["validation"] | people["test"])


def run(policy: Callable[[dict[str, Any], int], str], n: int = 150, **kwargs: Any) -> dict[str, float]:
    """Return the means of the sum of rewards and of the metrics of a policy from a row and a turn to a hint."""
    env: Any = gym.make(ENV, **kwargs).unwrapped
    found: list[dict[str, float]] = []
    for index in range(n):
        env.reset(seed=index, options={"index": index})
        total, over, turn = 0.0, False, 0
        while not over:
            hint = policy(env.rows[index], turn)
            for token in [*env.tokenizer(hint)["input_ids"], env.tokenizer.eos_token_id]:
                _, reward, over, _, info = env.step(token)
                total += reward
                if over:
                    break
            turn += 1
        found.append({"reward": total, **info["metrics"]})
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def test_nothing_without_a_thought_wins_and_telling_costs() -> None:
    both = run(lambda row, turn: " ".join(good_hint(step) for step in row["steps"]))
    assert both["reward"] == 0  # both steps in one hint, of two operations, are too much for the follower
    assert both["other_success"] == 1  # the careful student takes them one by one
    constants = [run(lambda row, turn, text=text: text) for text in ("", "Add 4.", "Think about it.", "Add them.")]  # type: ignore[misc]
    assert max(one["reward"] for one in constants) < 0.05
    told = run(lambda row, turn: f"It is {row['answer']}.")
    assert (told["reward"], told["leak"], told["other_success"]) == (-1, 1, 0)
    assert run(lambda row, turn: f"It is {row['answer']}.", leak_cost=0.25)["reward"] == -0.25


def test_a_student_that_is_told_step_by_step_solves_it_and_says_what_it_has() -> None:
    env: Any = gym.make(ENV, render_mode="ansi").unwrapped
    solved = 0
    for seed in range(20):
        env.reset(seed=seed, options={"index": 0})
        over, step, row = False, 0, env.rows[0]
        while not over:
            for token in [*env.tokenizer(f" {good_hint(row['steps'][step])}")["input_ids"], env.tokenizer.eos_token_id]:
                _, reward, over, _, info = env.step(token)
            step = env.episodes.dialogs[0].state.get("taken", 0)
        solved += reward == 1
        if reward == 1:
            assert info["metrics"]["leak"] == 0
            assert info["metrics"]["other_success"] == 1
            assert re.search(r"student: now i have \d+\. what do i do next\?\ntutor:", info["completion"])
    assert solved >= 17


def test_what_the_student_says_is_no_leak_and_no_hint() -> None:
    task: Any = gym.make(ENV).unwrapped.task  # type: ignore[attr-defined]
    columns = {"answer": [5], "steps": [[["add", 3], ["subtract", 2]]]}
    said = " add 3.\nstudent: now i have 5. what do i do next?\ntutor: take away 2."
    assert task.metrics([""], [said], columns) == {"leak": [0.0], "other_success": [1.0]}
    assert task.metrics([""], [" five"], columns) == {"leak": [1.0], "other_success": [0.0]}
    told_late = said + " it is five."
    assert task.metrics([""], [told_late], columns) == {"leak": [1.0], "other_success": [0.0]}


def test_demonstrations_are_of_good_and_of_bad_tutors() -> None:
    rows = gym.make(ENV).unwrapped.task.demonstrations("train")  # type: ignore[attr-defined]
    counts = Counter(re.sub(r"\d+", "N", row["completion"]) for row in rows)
    good = sum(counts[text] for text in (" Add N.", " Take away N.", " Do it N times.")) / len(rows)
    assert good == pytest.approx(0.6, abs=0.03)  # the good ones, and those of a wrong step
    assert counts[" It is N."] / len(rows) == pytest.approx(0.15, abs=0.02)


ROW = {"prompt": "p", "start": 3, "steps": [["add", 4], ["subtract", 2]], "answer": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 6}, "row 0: its steps lead from 3 to 5, not to 6"),
        ({"steps": [["divide", 2]]}, r"row 0 has the step \['divide', 2\]: give \['add'"),
        ({"steps": "add 4"}, "row 0 has the step 'add 4'"),
        ({"start": None}, "row 0 has no column 'start'"),
    ],
)
def test_bad_data_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(ENV, data=[{**ROW, **change}])
    assert gym.make(ENV, data=[{**ROW, "split": "train"}]).unwrapped.rows[0]["answer"] == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [-1, True, "1", float("inf")])
def test_a_bad_cost_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match="leak_cost="):
        gym.make(ENV, leak_cost=value)
