"""Choose how many threads torch starts, and how they wait for each other. This module imports no torch.

Between two parallel operations GCC's OpenMP lets threads spin, which is fast while they have the cores to themselves. A
thread that another process has put aside keeps all others spinning. So a busy machine gets no more threads than it has
idle cores, and they sleep. The choice must be made before torch is loaded, so it is made once, by what other processes
do at that time.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["NUMBER", "OWN", "POLICY", "ThreadTimes", "choose_threads"]

NUMBER, POLICY = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"
OWN = (NUMBER, POLICY, "GOMP_SPINCOUNT")  # whoever sets one of these has chosen
BUSY = 0.5  # cores that others use
LEAST_SECONDS = 0.1  # the kernel counts in hundredths of a second


class Usage:
    """Hold what all processes and this one have used so far of the cores that this one may use."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        self.n_cores = len(cores)
        lines = [line.split() for line in stat.read_text(encoding="ascii").splitlines()]
        ticks = [sum(map(int, [*fields[:3], *fields[5:8]])) for name, *fields in lines if name in cores]  # not idle
        self.everyone = sum(ticks) / os.sysconf("SC_CLK_TCK")
        self.own = time.process_time()
        self.at = time.perf_counter()


def _usage() -> Usage | None:
    try:
        return Usage()
    except (OSError, AttributeError, ValueError):  # no Linux
        return None


_start = _usage()


def cores_of_others() -> tuple[float, int]:
    """Return how much of the cores that this process may use others have used, and how many such cores there are.

    The first number is in cores, since this module was imported, and 0 where it is not known.
    """
    if _start is None:
        return 0.0, os.cpu_count() or 1
    if _start.n_cores > 1:
        time.sleep(max(0.0, _start.at + LEAST_SECONDS - time.perf_counter()))
    now = _usage()
    if now is None:
        return 0.0, _start.n_cores
    others = max(0.0, (now.everyone - _start.everyone) - (now.own - _start.own)) / (now.at - _start.at)
    return others, now.n_cores


def choose_threads() -> str | None:
    """Let this process, and those it starts, have threads for the idle cores alone if others use some of the cores.

    Nothing changes if the environment has a setting of the user, if torch is loaded already, or with one core.

    Returns:
        what was chosen and why; None if nothing was changed.
    """
    if any(name in os.environ for name in OWN) or "torch" in sys.modules:
        return None
    others, cores = cores_of_others()
    if others < BUSY or cores == 1:
        return None
    n = max(1, round(cores - others))
    os.environ |= {POLICY: "passive", NUMBER: str(n)}
    threads = "1 thread" if n == 1 else f"{n} threads"
    return f"{threads}, because other processes use {others:.1f} of {cores} cores ({NUMBER} and {POLICY} choose others)"


class ThreadTimes:
    """Tell from the kernel's counters how much of the time that threads want a core they wait for one.

    Args:
        tasks: the folder of this process's threads.
    """

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._tasks = tasks
        self._before = self._read()

    def _read(self) -> Mapping[str, tuple[int, int]]:
        """Return the nanoseconds that each thread has run and has waited for a core."""
        times = {}
        try:
            for path in self._tasks.iterdir():
                ran, waited, _ = (path / "schedstat").read_text(encoding="ascii").split()
                times[path.name] = int(ran), int(waited)
        except (OSError, ValueError):  # no Linux, or a thread has just ended
            pass
        return times

    def waiting_share(self) -> float:
        """Return the share since the last call, between 0 and 1; 0 where the kernel does not tell."""
        before, self._before = self._before, self._read()
        pairs = [(now, before.get(name, (0, 0))) for name, now in self._before.items()]
        ran, waited = (sum(now[i] - then[i] for now, then in pairs) for i in range(2))
        return waited / max(ran + waited, 1)
