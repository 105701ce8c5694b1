"""Run the runs of an experiment, each in a process of its own: `python -m <worker>`.

A process reads its task from standard input, as one line of JSON. The input stays open: when it ends, the process of
the experiment has died, and the run ends at once. It goes on later from its last checkpoint. What the process prints
goes to the run's log. A failure is written to the run's error file. `agents.experiments.cluster`
has them run elsewhere.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from rlhf_envs.files import replace_json

from ..training.errors import RunInterrupted, RunStopped

__all__ = ["INTERRUPTED", "LOOK", "Job", "Process", "attempt", "run_jobs", "serve", "worker_environment"]

PATIENCE = 60.0  # seconds that runs get to be saved
LOOK = 2.0  # seconds between two looks at the runs under way
INTERRUPTED = 3  # an exit code


@dataclass(frozen=True)
class Job:
    """Hold what a process is to do.

    Attributes:
        name: what the experiment calls the run.
        worker: the module that does it: its `main` returns `serve(...)`.
        task: what the worker is told, as JSON.
        folder: the run's folder, with all that it leaves.
        result: the file that the worker writes last. A run that has it is finished.
        error: the file that says why the run failed.
        log: the file with what the run printed.
    """

    name: str
    worker: str
    task: dict[str, Any]
    folder: Path
    result: Path
    error: Path
    log: Path


class Process(Protocol):
    """Do a job: a process of this machine, or what stands for one elsewhere."""

    @property
    def stdin(self) -> IO[str] | None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> None: ...

    def wait(self) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def run_jobs(
    jobs: Sequence[Job],
    n: int,
    ended: Callable[[str, str], None],
    look: Callable[[], None],
    start: Callable[[Job], Process] | None = None,
) -> None:
    """Run jobs, `n` at a time. A failed one leaves its error file.

    `ended` is called with the name of each job and how it ended: "finished", "interrupted" or "FAILED, <error>"; `look`
    every few seconds. `start` begins a job, in a process of this machine by default.

    Raises:
        KeyboardInterrupt: after the runs under way have had time to be saved.
    """
    processes: list[Process] = []
    lock, stopping = threading.Lock(), threading.Event()

    def run_one(job: Job) -> str:
        with lock:
            if stopping.is_set():
                return "interrupted"
            process = (start or _start)(job)
            processes.append(process)
        with process:
            with suppress(OSError):  # a broken pipe: the process has died
                assert process.stdin is not None
                process.stdin.write(json.dumps({**job.task, "error": str(job.error.absolute())}) + "\n")
                process.stdin.flush()
            return _outcome(job, process.wait())

    with ThreadPoolExecutor(n) as pool:
        futures = {pool.submit(run_one, job): job for job in jobs}
        try:
            left = {*futures}
            while left:
                done, left = wait(left, LOOK, FIRST_COMPLETED)
                for future in done:
                    ended(futures[future].name, future.result())
                look()
        finally:
            with lock:
                stopping.set()
            for process in processes:
                process.terminate()  # the run is saved, and its process ends
            try:
                wait(futures, PATIENCE)
            finally:  # also after a second Ctrl-C
                for process in processes:
                    process.kill()


def _start(job: Job) -> subprocess.Popen[str]:
    with job.log.open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", job.worker],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env=worker_environment(),
            start_new_session=True,  # Ctrl-C reaches the experiment alone, which then has its runs saved
        )


def worker_environment(threads: int = 1, paths: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of a worker with so many threads, which finds modules where this process does.

    Then in `paths` too.
    """
    found = [path or os.getcwd() for path in sys.path]  # plugins are where they are here
    numbers = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    places = {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*found, *paths]))}
    return {**os.environ, **numbers, **places, "TOKENIZERS_PARALLELISM": "false"}


def _outcome(job: Job, code: int) -> str:
    """Return how a job ended. Write its error file if the process died before it could."""
    if job.result.is_file():
        return "finished"
    if code in (INTERRUPTED, 128 + signal.SIGTERM):  # the latter if a reward hangs, see `CheckpointCallback`
        return "interrupted"
    if not job.error.is_file():
        how = f"the signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        printed = job.log.read_text(encoding="utf-8", errors="replace")[-600:].strip()
        last = f"; it printed last: {printed}" if printed else ""
        replace_json(job.error, {"status": "died", "error": f"its process ended with {how}{last}"})
    return f"FAILED, {json.loads(job.error.read_text(encoding='utf-8'))['error']}"


def serve(execute: Callable[[dict[str, Any]], None]) -> int:
    """Run the task on standard input with `execute`, and return the exit code."""
    faulthandler.enable()
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    return attempt(execute, task)


def attempt(execute: Callable[[dict[str, Any]], None], task: dict[str, Any]) -> int:
    """Run a task with `execute`, and return the exit code. A failure goes to the file `task["error"]`."""
    started = time.perf_counter()
    try:
        execute(task)
    except (RunInterrupted, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        cause = error.__cause__ if isinstance(error, RunStopped) and error.__cause__ is not None else error
        failure = {"status": "failed", "error": f"{type(cause).__name__}: {error}", "traceback": traceback.format_exc()}
        replace_json(Path(task["error"]), failure | {"seconds": round(time.perf_counter() - started, 3)})
        return 1
    return 0


def _end_with_input() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock a thread may not hold when the interpreter ends
        pass
    os._exit(1)  # nobody waits for what is running
