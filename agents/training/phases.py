"""Say what a run does outside its training. This module imports no torch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

__all__ = ["error_console", "show_phase", "without_collection"]


def error_console() -> Console:
    """Return a console on stderr, where progress is shown."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def without_collection() -> Iterator[None]:
    """Import in a `with` block without searches for garbage, of which there is none, and never search what came in.

    That spares the start a tenth. Where torch is there already, as in tests, nothing is changed.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


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
