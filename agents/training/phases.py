"""Say what a run does outside its training. This module imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

__all__ = ["error_console", "show_phase"]


def error_console() -> Console:
    """Return a console on stderr, where progress is shown."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def show_phase(text: str, shown: bool = True, line: bool = True) -> Iterator[None]:
    """Say what goes on in a `with` block: with a spinner on a terminal, else in one line if `line`."""
    console = error_console()
    if shown and console.is_terminal:
        with console.status(text):
            yield
        return
    if shown and line:
        console.print(text, markup=False)
    yield
