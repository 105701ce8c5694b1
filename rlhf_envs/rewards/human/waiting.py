"""Say what a human reward waits for: people's labels, and a fit that runs beside the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

__all__ = ["Fitting", "Refit", "Waiting", "describe_awaited"]


@runtime_checkable
class Fitting(Protocol):
    """Stand for a fit that runs beside the training."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def result(self) -> Callable[..., Any] | None:
        """Return the reward function, once it is done, or None to keep the model."""


Refit = Callable[[list[dict[str, Any]]], Callable[..., Any] | Fitting | None]


class Waiting(NamedTuple):
    """Describe a moment of waiting for people."""

    seconds: float  # since this reward call began to wait
    asked: int  # completions of the call
    missing: int  # completions without enough answers yet


def describe_awaited(names: Sequence[str], skipped: int) -> str:
    """Return a message about skipped completions that wait for the people of these names, or for somebody new."""
    if not skipped:
        return ""
    if not names:
        return f"{skipped} skipped completions wait for somebody new: invite more people (rlhf feedback invite)"
    some = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"{skipped} skipped completions wait for {some}; if they will not come: rlhf feedback account NAME off"
