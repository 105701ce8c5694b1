"""Runs that are killed with SIGKILL at random moments, and started again, come to the same as runs that are not.

Half of the kills come at a change of the run's files, so amid saves, and half up to a second after one. The moments are
drawn with a seed. $RLHF_KILLS says how many kills each kind of run gets. Killed processes are forked from a server that
has torch loaded. The run that is not killed has a process of its own, with other hashes of strings.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the feedback store needs the extra web")
pytest.importorskip("crowdkit", reason="aggregation needs the extra agreement")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")]

KILLS = int(os.environ.get("RLHF_KILLS", "8"))
BANDIT = ["--env", "rlhf/TokenBandit-v0", "--test-episodes", "8", "--n-envs", "32"]
TRAIN = [*BANDIT, "-f", "logs", "--run-name", "run", "--no-progress", "-n", "480"]
OFTEN = ["--save-freq", "96", "--eval-freq", "150", "--n-eval-episodes", "6"]
LOOP = ["--rounds", "2", "--labels", "12", "--annotators", "4", "--aggregate", "majority", "--reward-epochs", "1"]
COMPARE = ["--algos", "ppo,dqn", "--seeds", "1", "--tokens", "384", "--evaluations", "4", "--jobs", "2", "-f", "logs/c"]
COMMANDS = {
    "ppo": (["train", "--algo", "ppo", *TRAIN, *OFTEN], "logs/ppo/run"),
    "rloo": (["train", "--algo", "rloo", *TRAIN, *OFTEN], "logs/rloo/run"),
    "dqn": (["train", "--algo", "dqn", *TRAIN, *OFTEN], "logs/dqn/run"),
    "loop": (["loop", *TRAIN[:-1], "150", *LOOP], "logs/loop/run"),
    "compare": (["compare", *BANDIT, *COMPARE], "logs/c"),
    "sft": (["sft", "data.jsonl", "model", "--no-packing", "--batch-size", "4", "--save-freq", "3"], "model"),
}
# The clock and the command, and what SB3 computes its speed from.
CLOCK = {"seconds", "time/fps", "time/time_elapsed", "time/iterations", "rlhf/tokens_per_second", "made", "command"}
CLOCK |= {"t", "_num_timesteps_at_start"}
# What a feedback store draws anew in every run: names, times and which answer was shown first.
CLOCK |= {"created", "key", "loop", "sides"}
# Files that are not compared. Pictures and pages show what report.json has, and the clock; judgements.json has the
# content of the store; what processes printed tells of their kills; other tests check events.
SKIPPED = (".lock", ".png", ".svg", ".pdf", ".html", ".db", ".log", "report.md", "README.md", "manifest.json", "run_id")


@dataclass
class Workplace:
    """A folder in which a kind of run is started, killed and started again."""

    kind: str
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / COMMANDS[self.kind][1]

    def command(self) -> list[str]:
        """What a user gives to begin or to go on."""
        first, run = COMMANDS[self.kind]
        if self.kind == "sft" and self.run.is_dir():
            return [*first, "--resume"] if {path.name for path in self.run.iterdir()} - {".lock"} else first
        goes_on = self.kind != "compare" and (self.run / "config.json").is_file()
        return [first[0], "--resume", run] if goes_on else first

    def environment(self, at: int, delay: float) -> dict[str, str]:
        """The environment of a process that is killed after so many changes of files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "sitecustomize.py").write_text("from tests.agents.kill_hook import install\ninstall()\n")
        (self.folder / "count").unlink(missing_ok=True)
        rows = [{"prompt": f"Film {i} was", "completion": f" {'good' if i % 2 else 'bad'}."} for i in range(40)]
        (self.folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
        own = {"KILL_FOLDER": self.run, "KILL_COUNT": self.folder / "count", "KILL_AT": at, "KILL_DELAY": delay}
        return {name: str(value) for name, value in own.items()}

    def live(self, at: int, delay: float) -> tuple[int, bool]:
        """Begin or go on. Return the exit code, and whether the process was killed, or a worker of its own."""
        process = fork(self.folder, self.command(), self.environment(at, delay))
        process.join(1800)
        assert process.exitcode is not None, "the process hangs"
        return process.exitcode, (self.folder / "count").stat().st_size > at >= 0

    def live_alone(self) -> int:
        """Run to the end without a kill, in a new process; return how many changes of files there were."""
        environment = os.environ | self.environment(-1, 0)
        environment["PYTHONPATH"] = os.pathsep.join([str(self.folder), *(path or os.getcwd() for path in sys.path)])
        command = [sys.executable, "-m", "agents.cli", *self.command()]
        subprocess.run(command, check=True, cwd=self.folder, env=environment, capture_output=True)
        return (self.folder / "count").stat().st_size


def fork(folder: Path, command: list[str], environment: Mapping[str, str]) -> Any:
    """Start a process of `rlhf` in a folder."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["agents.experiments.loop.loop", "agents.experiments.compare.compare"])
    process = server.Process(target=_live, args=(folder, command, environment))
    process.start()
    return process


def _live(folder: Path, command: list[str], environment: Mapping[str, str]) -> None:
    """Be a process of `rlhf`. The workers of a comparison import `sitecustomize` from the folder."""
    output = os.open(folder / "output", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ |= environment
    sys.path.insert(0, str(folder))
    sys.argv = ["rlhf", *command]
    from agents.cli import app
    from tests.agents.kill_hook import install

    if environment:
        install()
    app(command)


def _without_clock(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_clock(value) for name, value in content.items() if name not in CLOCK}
    return [_without_clock(value) for value in content] if isinstance(content, list) else content


def outcome(run: Path) -> dict[str, Any]:
    """What a run came to: the content of its files, without the clock."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if not path.is_file() or path.name.endswith(SKIPPED) or "checkpoint" in name or "tfevents" in name:
            continue
        if path.suffix == ".json":
            found[name] = _without_clock(json.loads(path.read_text().replace(str(run), "run")))
        elif path.suffix == ".csv":
            found[name] = _without_clock(list(csv.DictReader(path.read_text().splitlines())))
        else:
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_run_that_is_killed_at_random_comes_to_the_same(kind: str, tmp_path: Path) -> None:
    unkilled = Workplace(kind, tmp_path / "unkilled")
    changes, draw, kills, number = unkilled.live_alone(), random.Random(kind), 0, 0
    expected = outcome(unkilled.run)
    while kills < KILLS:
        place, code = Workplace(kind, tmp_path / f"killed_{number}"), 1
        while code:
            at = draw.randrange(changes) if kills < KILLS else -1
            code, was_killed = place.live(at, draw.choice([0, draw.random()]))
            print(f"{kind}, run {number}, kill after {at} of {changes} changes: exit code {code}")
            assert was_killed or code == 0, (place.folder / "output").read_text()
            kills += was_killed
        found = outcome(place.run)
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name] == expected[name], name
        number += 1


def test_ten_runs_that_start_together_get_ten_folders(tmp_path: Path) -> None:
    command = ["train", "--algo", "ppo", *BANDIT, "-n", "96", "--eval-freq", "0", "--no-progress", "-f", "logs"]
    processes = [fork(tmp_path, [*command, "--seed", str(seed)], {}) for seed in range(10)]
    for process in processes:
        process.join(1800)
    assert [process.exitcode for process in processes] == [0] * 10, (tmp_path / "output").read_text()
    runs = sorted((tmp_path / "logs" / "ppo").iterdir(), key=lambda run: int(run.name.rpartition("_")[2]))
    assert [run.name for run in runs] == [f"TokenBandit-v0_{number}" for number in range(1, 11)]
    reports = [json.loads((run / "report.json").read_text()) for run in runs]
    assert sorted(report["seed"] for report in reports) == list(range(10))
