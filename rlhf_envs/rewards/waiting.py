"""Wait for rewards that take their time: coroutines in one event loop, and calls in threads that can be abandoned."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

__all__ = ["Background", "is_async", "run_async"]

_around: contextvars.ContextVar[tuple[Background, ...]] = contextvars.ContextVar("_around", default=())


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a function, or the `__call__` of an object, is `async def`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


class Background:
    """Call a function in a daemon thread, with the caller's context variables.

    A thread cannot be killed. One that is abandoned goes on with whatever it holds until its function returns, but for
    coroutines, which are cancelled.

    Args:
        name: the name of the thread.
        function: what is called.
        *args: its arguments.
    """

    def __init__(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        self.abandoned = False
        self._coroutines: list[Future[Any]] = []
        self._outcome: Future[Any] = Future()
        context = contextvars.copy_context()
        context.run(_around.set, (*_around.get(), self))

        def work() -> None:
            try:
                self._outcome.set_result(context.run(function, *args))
            except BaseException as error:  # raised again in the caller's thread
                self._outcome.set_exception(error)

        threading.Thread(target=work, name=name, daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether the function has returned or raised; if it has not within `timeout` seconds, abandon it."""
        try:
            self._outcome.exception(timeout)
        except TimeoutError:
            self.abandon()
            return False
        except BaseException:  # Ctrl-C
            self.abandon()
            raise
        return True

    def result(self) -> Any:
        """Wait, and return what the function returns or raise what it raises."""
        self.wait()
        return self._outcome.result()

    def abandon(self) -> None:
        """Wait no longer: cancel the coroutines that the thread waits for, and let it start no others."""
        self.abandoned = True
        for coroutine in self._coroutines:
            coroutine.cancel()

    def add(self, coroutine: Future[Any]) -> None:
        """Note a coroutine that the thread waits for."""
        self._coroutines.append(coroutine)
        if self.abandoned:
            coroutine.cancel()


def run_async(awaitable: Awaitable[Any]) -> Any:
    """Await something in the event loop of this module, which has a thread of its own, and return its result.

    So it works in notebooks too, where the caller's thread has a loop that runs. Ctrl-C cancels it.

    Raises:
        RuntimeError: this is called in that loop, which cannot wait for itself.
    """
    loop = _loop.get()
    if threading.current_thread() is _loop.thread:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise RuntimeError("an async reward calls an async reward: await that function itself, not a Reward around it")
    coroutine = asyncio.run_coroutine_threadsafe(_outcome_of(awaitable), loop)
    for background in _around.get():
        background.add(coroutine)
    try:
        result, error = coroutine.result()
    except BaseException:
        coroutine.cancel()
        if any(background.abandoned for background in _around.get()):
            raise _AbandonedError from None  # nobody waits, and nothing tries again
        raise
    if error is not None:
        raise error
    return result


async def _outcome_of(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Return the result, and what would end the thread of the event loop rather than reach the caller."""
    try:
        return await awaitable, None
    except (KeyboardInterrupt, SystemExit) as error:
        return None, error


class _AbandonedError(BaseException):
    """End a thread that is abandoned."""


class _EventLoop:
    """Keep an event loop running in a daemon thread, so that what a reward opens in one call serves the next."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the loop. It is begun at the first call, and again in a forked process."""
        with self._lock:
            if self.thread is None or not self.thread.is_alive():
                self._loop = asyncio.new_event_loop()
                self.thread = threading.Thread(target=self._loop.run_forever, name="async rewards", daemon=True)
                self.thread.start()
            return self._loop


_loop = _EventLoop()
