"""Name the two ways in which a run ends early. This module imports no torch."""

from __future__ import annotations

import signal

__all__ = ["RunInterrupted", "RunStopped"]


class RunStopped(RuntimeError):
    """Say that training failed: the message has the cause and the checkpoint to go on from."""


class RunInterrupted(Exception):
    """Say that a signal ended the training and the run is saved: the message has where, and how it goes on.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = 128 + number
