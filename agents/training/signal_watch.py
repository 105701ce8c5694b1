"""Act on SIGTERM and SIGINT also while the main thread is in a call that does not return."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Collection

__all__ = ["SignalWatch"]

PATIENCE = 2.0  # seconds that the main thread gets to act, twice


class SignalWatch(threading.Thread):
    """Watch from a thread of its own that the main thread acts on a signal, for as long as it can be left.

    Python runs a signal's handler in the main thread, and only between two of its instructions. So the first signal
    asks (the handler notes it), and after `PATIENCE` seconds the signal is sent again (the handler then leaves the call
    by an exception). A call outside Python, which no handler can leave, is ended with the process.

    Args:
        numbers: the signals to watch.
        may_leave: return whether the main thread is where its work can be given up.
        leave: save what there is from this thread, and end the process.
    """

    def __init__(self, numbers: Collection[int], may_leave: Callable[[], bool], leave: Callable[[int], None]) -> None:
        super().__init__(name="signal watch", daemon=True)
        self._numbers, self._may_leave, self._leave = set(numbers), may_leave, leave
        self._over = threading.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # Python's own handler, in C, writes each signal's number there at once, whatever the main thread does.
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self.start()

    def run(self) -> None:
        """Wait for a signal, and then for the main thread to act."""
        with open(self._reader, "rb", buffering=0) as pipe:
            while (byte := pipe.read(1)) and byte[0] not in self._numbers:
                pass
            if not byte:  # closed
                return
            if self._stays():
                _send(byte[0])
                if self._stays():
                    self._leave(byte[0])

    def _stays(self) -> bool:
        """Wait, and return True once the main thread has been where it may be left for `PATIENCE` seconds."""
        since = time.monotonic()
        while not self._over.wait(0.05):
            if not self._may_leave():
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                return True
        return False

    def close(self) -> None:
        """End the watch. Call it in the main thread."""
        if self._over.is_set():
            return
        self._over.set()
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)


def _send(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
