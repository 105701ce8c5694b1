from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest

from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.tasks.code.problems import LEVELS, make_problems, make_rows
from rlhf_envs.tasks.code.sandbox import DRIVER, Limits, Outcome, Program, run_programs
from rlhf_envs.tasks.code.task import Code, CodeReward, above_constant, program_of, same
from rlhf_envs.testing import check_task

TESTS = [{"args": [i], "expected": i + 1} for i in range(4)]
ROWS = [{"prompt": f"def f(x):\n    # {i}\n", "tests": TESTS} for i in range(40)]


def outcomes(*sources: str, calls: Sequence[Sequence[Any]] = ([1],), **limits: Any) -> list[list[Outcome]]:
    return run_programs([Program(source, "f", calls) for source in sources], Limits(**limits))


IMPORTS = """
import math, re, itertools, functools, collections
from typing import List
def f(x):
    return math.factorial(x)
"""


def test_a_program_returns_its_values() -> None:
    found = outcomes("def f(x):\n    return [x + 1, 'ä', None, {'a': 0.5}]", IMPORTS, calls=[[1], [4]])
    assert found[0] == [Outcome([2, "ä", None, {"a": 0.5}]), Outcome([5, "ä", None, {"a": 0.5}])]
    assert found[1] == [Outcome(1), Outcome(24)]


REFUSED = {
    "reads a file": "def f(x):\n    return open('/etc/hostname').read()",
    "writes a file": "def f(x):\n    return open('left.txt', 'w').write('a')",
    "lists a folder": "import os\ndef f(x):\n    return os.listdir('/')",
    "forks": "import os\ndef f(x):\n    return os.fork()",
    "starts a process": "import os\ndef f(x):\n    os.execv('/bin/true', ['true'])",
    "kills its driver": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)",
    "opens a socket": "import _socket\ndef f(x):\n    _socket.socket()",
    "stops the clock": "import signal\ndef f(x):\n    signal.setitimer(signal.ITIMER_PROF, 0)",
    "ignores the clock": "import signal\ndef f(x):\n    signal.signal(signal.SIGPROF, signal.SIG_IGN)",
    "raises its limits": "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
    "opens a file by ctypes": """
import ctypes
def f(x):
    if ctypes.CDLL(None).open(b"/etc/hostname", 0) < 0:
        raise PermissionError
""",
    "leaves its group": "import os\ndef f(x):\n    os.setsid()",
    "imports what is not there": "import socket\ndef f(x):\n    return 1",
    "does not compile": "def f(x:\n    return",
    "has another name": "def g(x):\n    return 1",
    "returns a tuple": "def f(x):\n    return (1, 2)",
    "returns itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "exits": "def f(x):\n    raise SystemExit",
    "exits at once": "import os\nos._exit(0)\ndef f(x):\n    return 1",
    "needs much memory": "def f(x):\n    return len('a' * 10**9)",
    "raises what cannot be shown": """
class E(Exception):
    def __str__(self):
        raise self
def f(x):
    raise E
""",
}


def test_what_is_not_computing_is_refused_and_hurts_no_other_program() -> None:
    good = "def f(x):\n    return x"
    found = outcomes(*REFUSED.values(), good)
    passed = [name for name, (outcome,) in zip(REFUSED, found, strict=False) if outcome.error is None]
    assert passed == []
    assert found[-1] == [Outcome(1)]


LOOPS = "def f(x):\n    while x > 1:\n        pass\n    return x"
WAITS = """
import _thread
def f(x):
    lock = _thread.allocate_lock()
    lock.acquire()
    if x > 1:
        lock.acquire()
    return x
"""
PRINTS = """
import os
def f(x):
    for _ in range(100):
        print("a" * 10**5)
        os.write(1, b"a" * 10**5)
    return x
"""
CRASHES = """
import ctypes
def f(x):
    if x > 1:
        ctypes.string_at(0)
    return x
"""


def test_what_never_ends_floods_or_crashes_is_stopped_and_what_it_returned_before_counts() -> None:
    sources = LOOPS, WAITS, "def f(x):\n    return 'a' * 30000", PRINTS, CRASHES
    loops, waits, floods, prints, crashes = outcomes(*sources, calls=[[1], [2], [3]], cpu_seconds=0.3, wall_seconds=6)
    assert loops == [Outcome(1), *[Outcome(error="it took too long")] * 2]
    assert waits == loops
    assert [one.error for one in floods] == [None, None, "it put out too much"]
    assert prints == [Outcome(1), Outcome(2), Outcome(3)]
    assert crashes == [Outcome(1), *[Outcome(error="it was killed (by a crash, or for its memory)")] * 2]


FORGERIES = {
    "prints a result": """
import os
for fd in range(1, 8):
    try:
        os.write(fd, b"[true, 2]\\n" * 4)
    except OSError:
        pass
os._exit(0)
""",
    "takes over comparisons": """
class A(int):
    def __eq__(self, other):
        return True
def f(x):
    return A(7)
""",
    "replaces the builtins": """
import builtins, json
builtins.len = lambda x: 0
json.dumps = lambda x: "[true, 7]"
def f(x):
    return 7
""",
    "replaces the driver's functions": """
import sys
frame = sys._getframe()
while frame.f_back:
    frame = frame.f_back
frame.f_globals["plain"] = lambda x: {"expected": x}
def f(x):
    return True
""",
}


def test_no_program_gets_tests_passed_without_their_values() -> None:
    env: Any = gym.make("rlhf/Code-v0", data=ROWS).unwrapped
    rows = [env.rows[0]] * len(FORGERIES)
    tests = [{"args": [i], "expected": 40 + i * i} for i in range(4)]
    columns = {name: [row[name] for row in rows] for name in ("entry_point", "other_tests")}
    columns |= {"stub": [""] * len(rows), "tests": [tests] * len(rows)}
    assert CodeReward()([*FORGERIES.values()], **columns) == [0.0] * len(rows)
    assert CodeReward()(["def f(x):\n    return 40 + x * x"] * len(rows), **columns) == [1.0] * len(rows)


def test_the_interpreter_finds_its_libraries_and_programs_see_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\n[ "$LD_LIBRARY_PATH" = /our/lib ] || exit 127\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/our/lib")
    monkeypatch.setenv("SECRET", "hunter2")
    (found,) = outcomes("import os\ndef f(x):\n    return dict(os.environ)")
    assert found == [Outcome({})]


@pytest.mark.parametrize("filter_calls", [True, False])
def test_a_program_that_waits_ends_although_its_driver_is_gone(filter_calls: bool) -> None:
    given = asdict(Limits(wall_seconds=1, workers=1, filter_calls=filter_calls))
    job = json.dumps(Program(WAITS, "f", [[1], [2]])._asdict()).encode()
    frames = b"".join(len(f).to_bytes(8) + f for f in (json.dumps(given).encode(), job))
    driver = subprocess.Popen([sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert driver.stdin is not None and driver.stdout is not None
    driver.stdin.write(frames)
    driver.stdin.flush()
    driver.stdout.read(8)  # it serves
    process = psutil.Process(driver.pid)
    while not (programs := [one for one in process.children() if one.num_fds() == 4]):
        time.sleep(0.02)
    driver.kill()
    driver.communicate()
    gone, alive = psutil.wait_procs(programs, timeout=10)
    assert (len(gone), alive) == (1, [])


SPY = """
import gc, sys
def f(x):
    frame, found = sys._getframe(), []
    while frame:
        found.append(repr(frame.f_locals))
        frame = frame.f_back
    found += [repr(one)[:10000] for one in gc.get_objects() if type(one) in (dict, list, tuple)]
    text = "".join(found)
    return ["".join(word) in text for word in (["sec", "ret"], ["own", "word"])]
"""


def test_a_program_finds_nothing_of_others_in_its_process() -> None:
    other = Program("def f(x):\n    return 'secret'", "f", [["secret"]])
    found = run_programs([other, Program(SPY, "f", [["ownword"]]), other], Limits(workers=3, cpu_seconds=5))
    assert found[1] == [Outcome([False, True])]


def test_runs_repeat_whatever_the_order_of_sets_and_the_random_module() -> None:
    source = "import random\ndef f(x):\n    return [random.random(), list({'a', 'b', 'c', 'd', 'e'})]"
    assert outcomes(source) == outcomes(source)


def test_without_the_filter_ordinary_code_is_refused_too_and_a_warning_says_what_is_not(caplog: Any) -> None:
    names = ("reads a file", "writes a file", "forks", "imports what is not there", "kills its driver")
    found = outcomes(*(REFUSED[name] for name in names), "def f(x):\n    return x", filter_calls=False)
    assert [one.error is None for (one,) in found] == [False] * len(names) + [True]
    assert "train only models you trust" in caplog.text


@pytest.mark.parametrize(
    ("value", "expected", "equal"),
    [
        (1, True, False), (True, True, True), (1, 1.0, True), (0.1 + 0.2, 0.3, True), ("1", 1, False),
        ([1], [1, 1], False),
        ({"a": [1]}, {"a": [1]}, True), ({"a": 1}, {"b": 1}, False), (None, False, False), (10**400, 1.0, False),
        (10**400, 10**400, True), (float("nan"), 1, False),
    ],
)  # fmt: skip
def test_values_are_compared_as_json_has_them(value: Any, expected: Any, equal: bool) -> None:
    assert same(value, expected) is equal


def test_a_constant_earns_nothing() -> None:
    tests = [{"expected": value} for value in (True, False, True, True)]
    assert above_constant([True, False, True, True], tests) == 0
    assert above_constant([True, True, True, True], tests) == 1
    assert above_constant([True, True], [{"expected": 1}, {"expected": 1}]) == 1


def test_a_fenced_reply_is_the_function_or_the_rest_of_it() -> None:
    whole = "Sure:\n```python\ndef f(x):\n    return x\n```\nDone."
    assert program_of("def f(x):\n", whole, "f") == "def f(x):\n    return x\n"
    assert program_of("def f(x):\n", "```\n    return x\n```", "f") == "def f(x):\n    return x\n"
    assert program_of("def f(x):\n", "    return x", "f") == "def f(x):\n    return x"


def test_problems_are_disjoint_solved_by_their_solutions_and_by_no_constant() -> None:
    rows = {split: make_rows(split) for split in ("train", "validation", "test")}
    everything = [row for some in rows.values() for row in some]
    assert [len(some) for some in rows.values()] == [577, 72, 166]
    assert len({row["prompt"] for row in everything}) == len(everything)
    assert len({(row["reference"], row["prompt"].split("\n")[0]) for row in everything}) == len(everything)
    for row in everything:
        arguments = [json.dumps(test["args"]) for test in (*row["tests"], *row["other_tests"])]
        assert len({*arguments}) == len(arguments) == 12
        example = row["prompt"].split(". f(")[1].rsplit(") is ", 1)[0]
        assert json.dumps([example]) not in arguments
    assert {row["level"] for row in rows["test"]} == {*LEVELS}
    assert len(make_problems()) >= len(everything)
    sample = rows["test"][::5]
    columns = {
        name: [row[name] for row in Code().rows("test", sample)] for name in ("stub", *sample[0]) if name != "prompt"
    }
    answers = [row["reference"] for row in sample]
    assert CodeReward()(answers, **columns) == [1.0] * len(sample)
    assert np.mean(Code().metrics([], answers, columns)["solved"]) == 1
    assert np.mean(CodeReward()(["    return x > 0"] * len(sample), **columns)) < 0.1


def test_metrics_are_of_other_tests_and_a_function_is_solved_if_it_passes_all_of_them() -> None:
    tests = [{"args": [i], "expected": i} for i in (1, 2)]
    others = [{"args": [i], "expected": i} for i in (3, 4, 5, 6)]
    answers = [
        "    return x",
        "    return x if x < 6 else 0",
        "    return x if x < 3 else 0",
        "    return 6 // (6 - x)",
    ]
    columns = {"stub": ["def f(x):\n"], "entry_point": ["f"], "tests": [tests], "other_tests": [others]}
    found = Code().metrics([], answers, {name: value * len(answers) for name, value in columns.items()})
    assert found == {"solved": [1, 0, 0, 0], "other_tests": [1, 0.75, 0, 0.0], "runs": [1, 1, 1, 0]}


def test_answers_that_know_nothing_earn_nothing() -> None:
    report = check_task("rlhf/Code-v0", n=48)
    assert report.references == 1
    assert max(report.scores.values()) < 0.3


def test_a_long_prompt_is_cut_for_the_agent_and_whole_for_the_tests() -> None:
    env: Any = gym.make("rlhf/Code-v0", data=ROWS, max_prompt_tokens=4, on_long_prompt="truncate").unwrapped
    assert env.rows[0]["stub"].startswith("def f(x)")


def test_the_curriculum_opens_levels_in_training_alone() -> None:
    task = Code(curriculum=True)
    batch = EpisodeBatch(2, task)
    rng = np.random.default_rng(0)
    assert {batch.rows[batch.sampler.draw(rng)]["level"] for _ in range(50)} == {1}
    assert batch.sampler.tasks is not None
    batch.sampler.tasks.learn(["1"] * 64, [1.0] * 64)
    assert {batch.rows[batch.sampler.draw(rng)]["level"] for _ in range(80)} == {1, 2}
    assert EpisodeBatch(1, task, split="test").sampler.tasks is None
    assert {row["level"] for row in Code(levels=[2, 3]).rows("test", None)} == {2, 3}


def test_a_task_that_has_run_programs_is_pickled() -> None:
    task = Code()
    rows = task.rows("test", None)[:1]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert task.metrics([], ["    return 1"], columns) == pickle.loads(pickle.dumps(task)).metrics(
        [], ["    return 1"], columns
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "def f(x):"}, "row 0 has no column 'tests': it has 'prompt'"),
        ({"prompt": "def f(x):", "tests": "[1"}, r"row 0: 'tests' is no JSON .*: '\[1'"),
        ({"prompt": "def f(x):", "tests": []}, r"row 0: 'tests' must be a list .* with at least one, got \[\]"),
        ({"prompt": "def f(x):", "tests": [{"args": 1, "expected": 1}]}, "row 0: 'tests' must be a list"),
        ({"prompt": "def f(x):", "tests": [{"args": [{1}], "expected": 1}]}, "row 0: 'tests' has a value that is none"),
        ({"prompt": "add", "tests": TESTS}, "row 0 has no 'entry_point', and its prompt no 'def NAME"),
    ],
)
def test_wrong_rows_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Code().rows("train", [row])


@pytest.mark.parametrize(("levels", "message"), [([5], "there is no level 5"), ([], "is empty")])
def test_wrong_levels_are_named(levels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Code(levels=levels)


def test_a_curriculum_over_rows_without_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 has the 'level' None, and curriculum=True needs"):
        EpisodeBatch(1, Code(curriculum=True), data=ROWS)


def test_tests_of_a_csv_are_json_and_half_of_them_are_kept_for_the_metric(tmp_path: Any) -> None:
    import csv

    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "checks"])
        writer.writeheader()
        writer.writerows({"question": row["prompt"], "checks": json.dumps(TESTS)} for row in ROWS)
    columns = {"prompt": "question", "tests": "checks"}
    env: Any = gym.make("rlhf/Code-v0", data=str(tmp_path / "mine.csv"), columns=columns).unwrapped
    row = env.rows[0]
    assert (row["tests"], row["other_tests"]) == (TESTS[::2], TESTS[1::2])
    given = {name: [row[name]] for name in row}
    assert env.reward_fn(completions=["    return x + 1"], **given) == [1.0]
