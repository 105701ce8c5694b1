"""Run programs, each in a process of its own with limits: the sandbox's inner side, which `sandbox.py` starts.

This file runs by its path in a bare interpreter, so it imports the standard library alone. It reads jobs from standard
input and writes their output to standard output, both in frames: 8 bytes of length, then as many bytes. A job is JSON:
`{"source", "entry_point", "calls"}`. The first frame written is JSON and says whether the kernel filters system calls.
For each job there follows a frame: its number (8 bytes), why it ended (1 byte: "." by itself, "t" time, "o" output, "k"
killed), and what the process wrote, a line of JSON per call: `[true, value]` or `[false, error]`.

The process of a job is a fork that has no memory of other jobs: `serve` has returned there, and jobs are read one at a
time. What a program should return never reaches this file.
"""

import bisect  # noqa: F401  # as those below: programs may import what is loaded, and nothing else
import collections.abc  # noqa: F401
import copy  # noqa: F401
import ctypes
import errno
import functools  # noqa: F401
import heapq  # noqa: F401
import itertools  # noqa: F401
import json
import math  # noqa: F401
import operator  # noqa: F401
import os
import random
import re  # noqa: F401
import resource
import select
import signal
import statistics  # noqa: F401
import string  # noqa: F401
import struct
import sys
import time
import typing  # noqa: F401
from typing import Any

MEBI = 2**20

# Numbers of the system calls that a program needs, which computes and writes to a pipe that is open.
CALLS = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
        "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25, "madvise": 28, "getpid": 39, "exit": 60,
        "gettimeofday": 96, "getrusage": 98, "sigaltstack": 131, "gettid": 186, "futex": 202, "restart_syscall": 219,
        "clock_gettime": 228, "exit_group": 231, "getrandom": 318, "membarrier": 324, "rseq": 334,
    },
    "aarch64": {
        "close": 57, "lseek": 62, "read": 63, "write": 64, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98,
        "clock_gettime": 113, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132, "rt_sigreturn": 139,
        "getrusage": 165, "gettimeofday": 169, "getpid": 172, "gettid": 178, "brk": 214, "munmap": 215, "mremap": 216,
        "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278, "membarrier": 283, "rseq": 293,
    },
}  # fmt: skip
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 38, 22, 2
TIMES = (signal.SIGPROF, signal.SIGXCPU, signal.SIGALRM)  # what ends a process whose time is over
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K


def make_filter(machine: str) -> bytes | None:
    """Return a seccomp program that refuses all system calls but `CALLS`; None for a machine it does not know."""
    if sys.platform != "linux" or machine not in CALLS:
        return None
    numbers = sorted(CALLS[machine].values())
    steps = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, ARCHITECTURES[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for i, number in enumerate(numbers):
        steps.append((EQUAL, len(numbers) - i, 0, number))
    steps += [(RETURN, 0, 0, ERRNO | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


def install_filter(steps: bytes) -> bool:
    """Refuse this process all system calls but those that it needs, for good; return whether the kernel agreed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # whoever kills the driver ends its programs
    program = _Program(len(steps) // 8, steps)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


def kernel_filters(steps: bytes | None) -> bool:
    """Return whether this kernel takes the filter, tried in a process of its own."""
    if steps is None:
        return False
    if (pid := os.fork()) == 0:
        os._exit(0 if install_filter(steps) else 1)
    return os.waitpid(pid, 0)[1] == 0


def refuse(event: str, _: Any) -> None:
    """Refuse what reaches outside, as an audit hook. It keeps out accidents, not malice."""
    if event.partition(".")[0] in (
        "open",
        "os",
        "socket",
        "subprocess",
        "shutil",
        "ctypes",
        "signal",
        "tempfile",
        "resource",
    ):
        raise PermissionError(f"{event} is not allowed here")


def confine(limits: dict[str, Any], steps: bytes | None) -> None:
    """Give this process its limits."""
    bounds = {
        "RLIMIT_CPU": int(limits["cpu_seconds"]) + 1, "RLIMIT_AS": int(limits["memory_mib"] * MEBI),
        "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0, "RLIMIT_NOFILE": 8, "RLIMIT_CORE": 0,
    }  # fmt: skip
    for name, most in bounds.items():
        which = getattr(resource, name)
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(which, (most, most))
        except (ValueError, OSError):  # macOS has no limit of the address space
            continue
    signal.setitimer(signal.ITIMER_PROF, limits["cpu_seconds"])
    signal.setitimer(signal.ITIMER_REAL, limits["wall_seconds"] + 1)  # if the driver is gone that keeps the clock
    if steps is None:
        sys.addaudithook(refuse)
    elif not install_filter(steps):
        os._exit(1)


def plain(value: Any) -> Any:
    """Return a value that JSON keeps as it is.

    Raises:
        TypeError: it holds a tuple, a set or another object.
    """
    if type(value) is list:
        return [plain(one) for one in value]
    if type(value) is dict and all(type(name) is str for name in value):
        return {name: plain(one) for name, one in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"returned a {type(value).__name__}, not a list, a dict, a str, a number, a bool or None")


def run_job(job: bytes, pipe: int) -> None:
    """Define the program, call its function, and write one line per call."""
    given = json.loads(job)
    names: dict[str, Any] = {"__name__": "program"}
    failure = ""
    try:
        exec(compile(given["source"], "<program>", "exec"), names)
        if given["entry_point"] not in names:
            failure = f"NameError: there is no {given['entry_point']}"
    except BaseException as error:
        failure = describe(error)
    for call in given["calls"]:
        line = [False, failure]
        if not failure:
            try:
                line = [True, plain(names[given["entry_point"]](*json.loads(json.dumps(call))))]
            except BaseException as error:
                line = [False, describe(error)]
        try:
            text = json.dumps(line)
        except (ValueError, RecursionError) as error:  # a number with thousands of digits, endless nesting
            text = json.dumps([False, describe(error)])
        rest = text.encode() + b"\n"
        while rest:
            rest = rest[os.write(pipe, rest) :]


def describe(error: BaseException) -> str:
    """Return an error in one short line."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:  # an exception of the program's own, which cannot be shown
        return "an error that cannot be shown"


def read_frame() -> bytes | None:
    """Return the next frame of standard input, reading no byte beyond it; None at its end."""
    head = read_exactly(8)
    return read_exactly(int.from_bytes(head)) if head else None


def read_exactly(n: int) -> bytes:
    """Return n bytes of standard input, or nothing at its end."""
    found = b""
    while len(found) < n:
        part = os.read(0, n - len(found))
        if not part:
            return b""
        found += part
    return found


def write_frame(data: bytes) -> None:
    """Write a frame to standard output."""
    rest = len(data).to_bytes(8) + data
    while rest:
        rest = rest[os.write(1, rest) :]


class Running:
    """Hold the process of a job: its pipe, when it has to end, and what it has written."""

    def __init__(self, number: int, pid: int, deadline: float) -> None:
        self.number, self.pid, self.deadline, self.output = number, pid, deadline, b""

    def finish(self, pipe: int, reason: bytes) -> None:
        """End the process with all that it started, and write its frame."""
        for kill, target in ((os.killpg, self.pid), (os.kill, self.pid)):
            try:
                kill(target, signal.SIGKILL)
            except OSError:  # it has ended
                continue
        os.close(pipe)
        _, status = os.waitpid(self.pid, 0)
        if reason == b"." and os.WIFSIGNALED(status):
            reason = b"t" if os.WTERMSIG(status) in TIMES else b"k"
        write_frame(self.number.to_bytes(8) + reason + self.output)


def serve(limits: dict[str, Any]) -> tuple[bytes, int] | None:
    """Fork a process per job, some at once, and write what they put out.

    Returns:
        In the process of a job the job and its pipe, once all memory of other jobs is left behind; else None.
    """
    running: dict[int, Running] = {}
    number, more = 0, True
    while more or running:
        while more and len(running) < limits["workers"]:
            job = read_frame()
            if job is None:
                more = False
                break
            out, into = os.pipe()
            if (pid := os.fork()) == 0:
                os.setpgid(0, 0)
                return job, into
            os.close(into)
            running[out] = Running(number, pid, time.monotonic() + limits["wall_seconds"])
            number += 1
        if not running:
            continue
        wait = max(0.0, min(one.deadline for one in running.values()) - time.monotonic())
        ready, _, _ = select.select([*running], [], [], wait)
        for pipe, one in [*running.items()]:
            part = os.read(pipe, 65536) if pipe in ready else b""
            one.output += part
            too_long, late = len(one.output) > limits["output_bytes"], time.monotonic() > one.deadline
            if (pipe in ready and not part) or too_long or late:
                one.output = one.output[: limits["output_bytes"]]
                running.pop(pipe).finish(pipe, b"o" if too_long else b"." if pipe in ready and not part else b"t")
    return None


def main() -> None:
    """Serve all jobs of standard input; in the process of a job, run it and end."""
    limits = json.loads(read_frame() or b"{}")
    steps = make_filter(os.uname().machine) if limits["filter_calls"] else None
    if not kernel_filters(steps):
        steps = None
    write_frame(json.dumps({"filtered": steps is not None}).encode())
    work = serve(limits)
    if work is None:
        return
    job, pipe = work
    del work
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(pipe, 3) if pipe != 3 else None
    for number in range(3):
        os.dup2(nothing, number)
    os.closerange(4, 1024)
    sys.path.clear()
    sys.meta_path[:] = sys.meta_path[:2]  # built-in and frozen modules; none from files
    os.environ.clear()
    random.seed(0)
    confine(limits, steps)
    run_job(job, 3)
    os._exit(0)


if __name__ == "__main__":
    main()
