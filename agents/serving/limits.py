"""Limit what clients ask for: by key, and of the engine as a whole."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from .errors import Refusal
from .keys import ApiKey

__all__ = ["Admission", "KeyLimits"]

MINUTE = 60.0  # seconds


class KeyLimits:
    """Count the requests of each key in a moving window of a minute, and those at once. They are kept in memory.

    The package limits (5.8) would start a thread for nearly each request, for which the event loop waits milliseconds.

    Args:
        per_minute: requests per minute of a key without a limit of its own.
        at_once: requests at once, likewise.
    """

    def __init__(self, per_minute: int, at_once: int) -> None:
        self.per_minute, self.at_once = per_minute, at_once
        self._counted: defaultdict[str, deque[float]] = defaultdict(deque)  # when, by key
        self._running: Counter[str] = Counter()

    def count(self, key: ApiKey) -> None:
        """Count a request.

        Raises:
            Refusal: there were too many in the last minute (429).
        """
        most, now, counted = key.per_minute or self.per_minute, time.monotonic(), self._counted[key.id]
        while counted and counted[0] <= now - MINUTE:
            counted.popleft()
        if len(counted) >= most:
            left = counted[-most] + MINUTE - now  # a key's limit may have become smaller
            message = f"this key has a limit of {most} requests per minute"
            raise Refusal(429, "rate_limit_exceeded", message, retry_after=left)
        counted.append(now)

    @contextmanager
    def running(self, key: ApiKey) -> Iterator[None]:
        """Hold one of the key's places for as long as the `with` lasts.

        Raises:
            Refusal: the key has no place left (429).
        """
        most = key.at_once or self.at_once
        if self._running[key.id] >= most:
            message = f"this key has a limit of {most} requests at once"
            raise Refusal(429, "concurrency_limit_exceeded", message, retry_after=1)
        self._running[key.id] += 1
        try:
            yield
        finally:
            self._running[key.id] -= 1
            if not self._running[key.id]:
                del self._running[key.id]


class Admission:
    """Let so many requests reach the engine at once, and so many more wait, first come, first served.

    Args:
        at_once: requests that the engine answers at once.
        waiting: requests that may wait for it.
        patience: seconds that a request waits at most.
    """

    def __init__(self, at_once: int, waiting: int, patience: float) -> None:
        self.at_once, self.most_waiting, self.patience = at_once, waiting, patience
        self.n_running = self.n_waiting = 0
        self._places = asyncio.Semaphore(at_once)
        self._seconds = 1.0  # that a request holds its place, lately

    @asynccontextmanager
    async def place(self) -> AsyncIterator[float]:
        """Wait for a place, and hold it for as long as the `with` lasts. Yields the seconds that the wait took.

        Raises:
            Refusal: too many wait already, or the wait took too long (503).
        """
        begun = time.monotonic()
        if self._places.locked() and self.n_waiting >= self.most_waiting:
            raise Refusal(503, "overloaded", "too many requests wait for the engine", retry_after=self._expected())
        self.n_waiting += 1
        try:
            async with asyncio.timeout(self.patience):
                await self._places.acquire()
        except TimeoutError:
            message = f"the engine had no place for this request within {self.patience:g} s"
            raise Refusal(503, "overloaded", message, retry_after=self._expected()) from None
        finally:
            self.n_waiting -= 1
        self.n_running += 1
        got = time.monotonic()
        try:
            yield got - begun
        finally:
            self.n_running -= 1
            self._seconds += 0.1 * (time.monotonic() - got - self._seconds)
            self._places.release()

    def _expected(self) -> float:
        """Return the seconds after which those who wait now will have been answered, 1 to 60."""
        return min(max((self.n_waiting + 1) * self._seconds / self.at_once, 1.0), 60.0)
