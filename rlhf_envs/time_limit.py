"""Limit the time of a call to code that is not ours."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["call_within", "check_timeout"]

Result = TypeVar("Result")


def check_timeout(what: str, seconds: object) -> None:
    """Raise a ValueError unless a time limit is a number of seconds above 0, or None."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise ValueError(f"{what} must be seconds above 0, or None for no limit, got {seconds!r}")


def call_within(seconds: float | None, function: Callable[[], Result], name: str) -> Result:
    """Return what a function returns, or raise a TimeoutError if it takes longer.

    The function runs in a daemon thread, which can be abandoned but not killed; without a limit it runs in the caller's
    thread. A function that never releases Python's global interpreter lock cannot be cut off.

    Args:
        seconds: the limit; None waits for ever.
        function: takes nothing.
        name: of the thread.
    """
    if seconds is None:
        return function()
    results: list[Result] = []
    errors: list[BaseException] = []
    context = contextvars.copy_context()

    def work() -> None:
        try:
            results.append(context.run(function))
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return results[0]
