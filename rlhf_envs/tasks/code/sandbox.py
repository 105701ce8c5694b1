"""Run programs that nobody has read, in processes with limits, and return what their functions return.

A batch of programs is given to one bare interpreter (`driver.py`), which forks a process per program. That process has
limits of CPU time, memory, files, processes and output, an empty folder to work in, no environment variables, and on
Linux a filter (seccomp) under which the kernel refuses all that is not computing: to open a file, to reach the network,
to start a process or a thread, to signal another, to change the limits. It may import only modules that were loaded
before. A clock on the wall ends what waits for ever.

**Results cannot be forged.** A program is given inputs and never learns which outputs are right: these are compared
here, in another process. Whoever takes over the interpreter, its builtins, frames or pipe can do no more than put out
values, and right values are what is asked for. A program has no memory of others in its batch.

**What it does not stop**: a flaw in the kernel or the processor; use of the CPU up to the limits; and where there is no
such filter (macOS, Linux on other processors than x86-64 and ARM64) a program that means harm: an audit hook refuses
files, network and processes to ordinary code there, which a program that tries can get around, and a warning says so.
On Windows it refuses to run. Put a virtual machine around it for models that you do not trust.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_envs.datasets.splits import log_once

__all__ = ["Limits", "Outcome", "Program", "run_programs"]

DRIVER = Path(__file__).with_name("driver.py")
LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # without which some interpreters do not start
REASONS = {
    b".": "it ended before it had answered",
    b"t": "it took too long",
    b"o": "it put out too much",
    b"k": "it was killed (by a crash, or for its memory)",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Hold what each program may use.

    Attributes:
        cpu_seconds: seconds of CPU time, for all calls together.
        wall_seconds: seconds by the clock, for programs that wait.
        memory_mib: MiB of address space, about 30 of which are the interpreter's.
        output_bytes: bytes of results as JSON.
        workers: processes at once; by default one per CPU that this process may use, at most 8.
        filter_calls: whether to filter system calls, where the system can.
    """

    cpu_seconds: float = 0.5
    wall_seconds: float = 10.0
    memory_mib: int = 256
    output_bytes: int = 65536
    workers: int = 0
    filter_calls: bool = True


class Program(NamedTuple):
    """Hold a program: its source, the function to call, and the arguments of each call, as JSON has them."""

    source: str
    entry_point: str
    calls: Sequence[Sequence[Any]]


class Outcome(NamedTuple):
    """Hold what a call came to: the value returned, or why there is none."""

    value: Any = None
    error: str | None = None


def run_programs(programs: Sequence[Program], limits: Limits | None = None) -> list[list[Outcome]]:
    """Run programs in the sandbox that the module describes.

    Calls of one program run one after the other in one process. When it is stopped, the calls so far keep their values.

    Returns:
        For each program, for each of its calls, its outcome.

    Raises:
        RuntimeError: the system has no `fork`, or the sandbox does not start.
    """
    if not programs:
        return []
    if not hasattr(os, "fork"):
        raise RuntimeError("programs run in forked processes, which this system does not have: use Linux or macOS")
    limits = limits or Limits()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = {**asdict(limits), "workers": limits.workers or min(cpus, 8)}
    jobs = [json.dumps(program._asdict()).encode() for program in programs]
    answers = _drive([json.dumps(given).encode(), *jobs], limits.wall_seconds * (len(jobs) + 2) + 30)
    if len(answers) < len(programs) and len(programs) > 1:  # without the filter, a program can end the driver
        for i in {*range(len(programs))} - answers.keys():
            if alone := _drive([json.dumps(given).encode(), jobs[i]], limits.wall_seconds + 30):
                answers[i] = alone[0]
    return [_outcomes(program, *answers.get(i, (b"k", b""))) for i, program in enumerate(programs)]


def _drive(frames: Sequence[bytes], timeout: float) -> dict[int, tuple[bytes, bytes]]:
    """Give frames to a driver, and return for each job that it answered why the job ended and what it put out."""
    # Of `python -I` all but -E, which would ignore the one variable that makes the order of sets repeatable.
    command = [sys.executable, "-s", "-S", "-P", "-B", str(DRIVER)]
    with tempfile.TemporaryDirectory(prefix="rlhf-sandbox-") as folder:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PYTHONHASHSEED": "0", **{name: os.environ[name] for name in LIBRARIES if name in os.environ}},
            start_new_session=True,
        )
        try:
            out, problem = process.communicate(b"".join(len(f).to_bytes(8) + f for f in frames), timeout)
        except BaseException:  # the time is over, or Ctrl-C: leave nothing behind
            process.kill()
            process.communicate()
            raise
    found = _split(out)
    if not found:
        raise RuntimeError(
            f"the sandbox did not start ({' '.join(command)}): {problem.decode(errors='replace')[-500:]}"
        )
    if not json.loads(found[0])["filtered"]:
        log_once(
            logging.WARNING,
            "this system has no filter of system calls for the sandbox (rlhf_envs.tasks.code.sandbox): programs that "
            "mean harm can open files and reach the network; train only models you trust, or do it in a container",
        )
    return {int.from_bytes(frame[:8]): (frame[8:9], frame[9:]) for frame in found[1:]}


def _split(data: bytes) -> list[bytes]:
    """Return the whole frames in what a driver has written."""
    frames, at = [], 0
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 8])
        if end > len(data):
            break
        frames.append(data[at + 8 : end])
        at = end
    return frames


def _outcomes(program: Program, reason: bytes, output: bytes) -> list[Outcome]:
    """Read what a program put out, which may be anything; calls without a proper line get the reason as their error."""
    found: list[Outcome] = []
    for line in output.split(b"\n")[: len(program.calls)]:
        try:
            answered, value = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            break
        found.append(Outcome(value) if answered is True else Outcome(error=str(value)[:200]))
    missing = Outcome(error=REASONS.get(reason, REASONS[b"k"]))
    return found + [missing] * (len(program.calls) - len(found))
