"""A lock that lets waiters through in their order."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Let one thread at a time through, those that wait in the order in which they came.

    `threading.Lock` may be taken again by the thread that has just released it, however long others wait.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, timeout: float) -> bool:
        """Wait for one's turn. Returns False if it has not come after so many seconds."""
        mine = threading.Event()
        with self._changing:
            if not self._is_held:
                self._is_held = True
                return True
            self._waiting.append(mine)
        try:
            has_come = mine.wait(timeout)
        except BaseException:  # Ctrl-C
            if not self._gave_up(mine):
                self.release()
            raise
        return has_come or not self._gave_up(mine)

    def release(self) -> None:
        """End one's turn: it is the next one's."""
        with self._changing:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_held = False

    def _gave_up(self, mine: threading.Event) -> bool:
        """Wait no longer. Returns False if the turn has come meanwhile."""
        with self._changing:
            if mine not in self._waiting:
                return False
            self._waiting.remove(mine)
            return True
