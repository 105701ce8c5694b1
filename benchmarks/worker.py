"""Run each contender in a process of its own, one iteration per command, so that runs interleave.

The processes are forked from a server that has only imported the libraries, so that they start quickly. They are
spawned where there is no forking. This module imports no torch, and neither does the parent.

The parent never runs two contenders at once. A worker times each command, counts the tokens that it sampled and the
steps of its optimisers, and measures its own peak of memory: on the CPU the resident set (`VmHWM`, reset before each
command; if the system does not allow that, the peak since the start), on CUDA the memory that torch has allocated.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from .work import Work

__all__ = ["Measurement", "Session", "Worker", "interleave", "spread"]


@dataclass
class Measurement:
    """Hold what one command of one contender took.

    Attributes:
        seconds: how long it took.
        cpu_seconds: the process's own processor time, of all threads.
        tokens: tokens sampled.
        optimizer_steps: steps of all optimisers.
        peak: bytes of the whole process (on CUDA: of torch's allocations).
        above: bytes of the peak, less what the process held once built (model, reference, libraries), less the
            gradients and the optimiser's state.
        profile: seconds by part, with a profile.
    """

    seconds: float
    cpu_seconds: float
    tokens: int
    optimizer_steps: int
    peak: int
    above: int
    profile: dict[str, float]


class Session:
    """Be a contender's end of the pipe: `next` reports the command that is done and waits for another.

    Attributes:
        tokens: tokens sampled since the command came; the contender adds to it.
        profile: seconds by part since the command came; a profiler adds to it.
    """

    def __init__(self, connection: Connection, device: str) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.tokens, self.profile = 0, dict[str, float]()
        self._connection, self._memory = connection, _Memory(device)
        self._optimizers: dict[int, Any] = {}
        self._steps, self._start, self._cpu_start, self._built, self._busy = 0, 0.0, 0.0, 0, False
        register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: Any, *_: object) -> None:
        self._steps += 1
        self._optimizers[id(optimizer)] = optimizer

    def next(self) -> str | None:
        """Report the last command and return the next one, a method's name; None if there is none left."""
        if self._busy:
            self._memory.synchronize()
            seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu_start
            peak = self._memory.peak()
            above = peak - self._built - self._training_state()
            measurement = Measurement(seconds, cpu, self.tokens, self._steps, peak, above, dict(self.profile))
            self._connection.send(measurement)
        else:
            self._built = self._memory.now()
            self._connection.send(None)
        command: str | None = self._connection.recv()
        self._busy = True
        self._memory.reset()
        self.tokens, self._steps = 0, 0
        self.profile.clear()
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        return command

    def _training_state(self) -> int:
        """Return the bytes of the optimisers' states and of the gradients, even if these are not allocated now."""
        import torch

        parameters = [p for o in self._optimizers.values() for group in o.param_groups for p in group["params"]]
        states = [t for o in self._optimizers.values() for state in o.state.values() for t in state.values()]
        tensors = parameters + [t for t in states if isinstance(t, torch.Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)


class _Memory:
    """Measure this process's memory in bytes."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda if device.startswith("cuda") else None

    def synchronize(self) -> None:
        if self._cuda:
            self._cuda.synchronize()

    def reset(self) -> None:
        gc.collect()
        if self._cuda:
            self._cuda.reset_peak_memory_stats()
            return
        _return_freed_memory()
        with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # if refused, it is the peak since the start

    def peak(self) -> int:
        if self._cuda:
            return int(self._cuda.max_memory_allocated())
        return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def now(self) -> int:
        gc.collect()
        if self._cuda:
            return int(self._cuda.memory_allocated())
        _return_freed_memory()
        return _status("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _return_freed_memory() -> None:
    """Let glibc give back what is free, so that one command's memory is not counted in the next."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith(key)), 0)
    return 0


def _serve(connection: Connection, contender: str, work: Work, arguments: dict[str, Any]) -> None:
    """Build the contender and let it drive the session: the main function of a worker."""
    warnings.simplefilter("ignore")  # what a library deprecates says nothing about its speed
    gc.freeze()  # else every collection walks the libraries' objects and so copies the server's pages
    import torch

    torch.set_num_threads(work.threads)
    torch.manual_seed(work.seed)
    module, _, name = contender.partition(":")
    try:
        session = Session(connection, work.device)
        getattr(importlib.import_module(module), name)(work, session, **arguments).drive()
    except BaseException as error:
        import traceback

        connection.send(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        raise


def _context(device: str) -> Any:
    # A forked process cannot use CUDA if an import of its server has so much as counted the devices.
    if device.startswith("cuda") or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The last two are what a first model and a first optimiser import, seconds each.
    context.set_forkserver_preload(
        [
            f"{__package__}.contenders",
            f"{__package__}.contenders.floor",
            "transformers.models.gpt2.modeling_gpt2",
            "torch._dynamo",
        ]
    )
    return context


class Worker:
    """Start a contender's process and command it.

    Args:
        contender: "module:Class", built as `Class(work, session, **arguments)` in the worker; it has `drive()`.
        work: the work that it does.
    """

    def __init__(self, contender: str, work: Work, **arguments: Any) -> None:
        context = _context(work.device)
        self.contender = contender
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender, work, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False

    def run(self, command: str = "iterate") -> Measurement:
        """Let the contender run one command, the name of one of its methods, and return what it took.

        Raises:
            RuntimeError: the contender failed. The message has its traceback.
        """
        if not self._ready:
            self._receive()
            self._ready = True
        self._connection.send(command)
        measurement: Measurement = self._receive()
        return measurement

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(timeout=10)
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            answer = f"the process ended with exit code {self._process.exitcode}"
        if isinstance(answer, str):
            raise RuntimeError(f"the contender {self.contender} failed: {answer}")
        return answer


def interleave(
    contenders: dict[str, tuple[str, Work, dict[str, Any]]], repeats: int, commands: Sequence[str] = ("iterate",)
) -> dict[str, dict[str, list[Measurement]]]:
    """Run contenders in turns, A B A B, after a first turn that is not counted.

    Args:
        contenders: by name, the arguments of `Worker`.
        repeats: turns that count.
        commands: what each contender does in its turn.

    Returns:
        By contender and command, `repeats` measurements.
    """
    workers: dict[str, Worker] = {}
    results: dict[str, dict[str, list[Measurement]]] = {name: {c: [] for c in commands} for name in contenders}
    try:
        for name, (contender, work, arguments) in contenders.items():
            workers[name] = Worker(contender, work, **arguments)
        for turn in range(repeats + 1):
            for name, worker in workers.items():
                for command in commands:
                    measurement = worker.run(command)
                    if turn:
                        results[name][command].append(measurement)
    finally:
        for worker in workers.values():
            worker.close()
    return results


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return the median, with the least and the greatest in brackets."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"
