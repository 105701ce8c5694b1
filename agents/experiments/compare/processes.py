"""Runs side by side in processes, of which none takes another one's run with it when it dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = ["locked", "run_all"]

PATIENCE = 60.0  # seconds that workers have to save their runs
Answer = dict[str, Any]


class Worker:
    """A process that runs tasks in turn; started with the first, and anew after it has died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, task: dict[str, Any]) -> Answer:
        """The answer to a task; "died" if the process ended instead."""
        process = self._open()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # a broken pipe
            line = ""
        if line:
            answer: Answer = json.loads(line)
            return answer
        code = process.wait()
        _close(process)
        self.process = None
        how = f"the signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return {"status": "died", "error": f"its process ended with {how}{_tail(Path(task['log']))}"}

    def _open(self) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
            paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # plugins are where they are here
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents.experiments.compare.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={**os.environ, **threads, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,  # Ctrl-C goes to the comparison alone, which has them save their runs
            )
        return self.process

    def stop(self) -> None:
        """Have the process save its run and end."""
        process = self.process
        if process is not None and process.poll() is None:
            process.terminate()

    def close(self) -> None:
        """End the process: it has nothing to do, or has had time enough."""
        process, self.process = self.process, None
        if process is not None:
            _close(process)


def _close(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()  # the worker ends with its input
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def run_all(tasks: Sequence[dict[str, Any]], jobs: int, done: Callable[[dict[str, Any], Answer], None]) -> None:
    """Run tasks in `jobs` processes, and tell of each how it ended.

    Args:
        tasks: see `agents.experiments.compare.worker`; each has a `log` too, the file for what it prints.
        jobs: processes side by side.
        done: is called with a task and its answer, one call at a time.

    Raises:
        KeyboardInterrupt: after the runs that were under way have had time to be saved.
    """
    waiting = list(reversed(tasks))
    lock, stopping = threading.Lock(), threading.Event()
    workers = [Worker() for _ in range(min(jobs, len(tasks)))]
    failures: list[BaseException] = []

    def serve(worker: Worker) -> None:
        while not stopping.is_set():
            with lock:
                if not waiting:
                    return
                task = waiting.pop()
            answer = worker.run(task)
            with lock:
                if not (stopping.is_set() and answer["status"] == "died"):
                    try:
                        done(task, answer)
                    except BaseException as error:  # it is raised where the comparison waits
                        failures.append(error)
                        stopping.set()

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
    finally:
        stopping.set()
        for worker in workers:
            if any(thread.is_alive() for thread in threads):
                worker.stop()
        deadline = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for worker in workers:
            worker.close()
    if failures:
        raise failures[0]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a comparison's folder, where the system has such locks.

    Raises:
        ValueError: another process is at work there.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as file:
        _lock(fcntl, file, folder)
        yield


def _lock(fcntl: Any, file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"another process is at work on the comparison in {folder}: wait for it, or end it") from error


def _tail(log: Path, size: int = 600) -> str:
    """The end of what a run printed, to say why it died."""
    if not log.is_file():
        return ""
    text = log.read_text(encoding="utf-8", errors="replace")[-size:].strip()
    return f"; it printed last: {text}" if text else ""
