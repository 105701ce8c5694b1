"""How many threads there are is chosen once, by what other processes do, and never against the user's own setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agents.training import contention, threads
from agents.training.contention import ContentionWarning
from agents.training.threads import NUMBER, OWN, POLICY, ThreadTimes, choose_threads


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process without a setting of the user that has not loaded torch."""
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch")
    return monkeypatch


@pytest.mark.parametrize(
    ("cores", "others", "n", "said"),
    [(2, 1.9, "1", "1 thread, because"), (2, 0.6, "1", "1 thread, because"), (8, 1.1, "7", "7 threads, because")],
)
def test_a_busy_machine_gets_threads_for_its_idle_cores_that_sleep_while_they_wait(
    fresh: pytest.MonkeyPatch, cores: int, others: float, n: str, said: str
) -> None:
    fresh.setattr(threads, "cores_of_others", lambda: (others, cores))
    for name in (NUMBER, POLICY):  # so that both are restored after the test
        fresh.setenv(name, "")
        del os.environ[name]
    assert f"{said} other processes use {others} of {cores} cores" in str(choose_threads())
    assert (os.environ[NUMBER], os.environ[POLICY]) == (n, "passive")


@pytest.mark.parametrize("why", ["idle", "one core", "torch is loaded", *OWN])
def test_else_nothing_changes(fresh: pytest.MonkeyPatch, why: str) -> None:
    fresh.setattr(threads, "cores_of_others", lambda: (0.1 if why == "idle" else 1.9, 1 if why == "one core" else 2))
    if why == "torch is loaded":
        fresh.setitem(sys.modules, "torch", torch)
    elif why in OWN:
        fresh.setenv(why, "active")
    before = dict(os.environ)
    assert choose_threads() is None
    assert dict(os.environ) == before


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="reads Linux's counters")
def test_a_busy_process_counts_and_this_one_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        monkeypatch.setattr(threads, "_start", threads.Usage())
        others, cores = threads.cores_of_others()
        busy.kill()
    assert cores == len(os.sched_getaffinity(0))
    assert 0.3 < others <= cores + 0.3

    first = min(os.sched_getaffinity(0))
    stat = tmp_path / "stat"
    stat.write_text(f"cpu 9 9 9 9 9 9 9 9 0 0\ncpu{first} 100 20 30 4000 5 6 7 8 0 0\nintr 5\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {first})
    usage = threads.Usage(stat)
    assert (usage.everyone, usage.n_cores) == (171 / os.sysconf("SC_CLK_TCK"), 1)


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is held to one core of many gets one thread from torch, and needs no choice."""
    monkeypatch.setattr(threads, "_start", SimpleNamespace(n_cores=1, everyone=0.0, own=0.0, at=0.0))
    monkeypatch.setattr(threads, "_usage", lambda: SimpleNamespace(n_cores=1, everyone=6.0, own=1.0, at=10.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert threads.cores_of_others() == (0.5, 1)
    monkeypatch.setattr(threads, "_start", None)
    assert threads.cores_of_others() == (0.0, 64), "no Linux: nothing is known but the number of cores"


def test_the_share_that_threads_wait_is_of_the_time_since_the_last_look(tmp_path: Path) -> None:
    def write(name: str, ran: int, waited: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "schedstat").write_text(f"{ran} {waited} 3\n")

    write("1", 1000, 500)
    times = ThreadTimes(tmp_path)
    write("1", 1600, 700)
    write("2", 100, 100)
    assert times.waiting_share() == pytest.approx(300 / 1000)
    assert times.waiting_share() == 0
    assert ThreadTimes(tmp_path / "none").waiting_share() == 0


@pytest.mark.parametrize("own", [False, True])
def test_a_run_that_waits_for_cores_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, own: bool
) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(contention, "ThreadTimes", lambda: SimpleNamespace(waiting_share=lambda: 0.45))
    callback: Any = ContentionWarning()
    callback.model = SimpleNamespace(num_timesteps=4096)  # of a run that goes on
    callback.on_training_start({}, {})
    callback.on_rollout_start()
    assert not caplog.records, "no rollout has been yet"
    for callback.num_timesteps in (4160, 4224):
        callback.on_rollout_start()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (0 if own else 1)
    assert own or "45% of the time" in said[0]
