"""Give the folder of a run to one process at a time. Imports no torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from .folders import LOCK

__all__ = ["abandon", "locked", "take"]


def take(folder: Path, what: str) -> BaseFileLock:
    """Lock a folder, which is made if need be, and return the lock. It is free again when this process ends.

    Args:
        what: what the folder holds, for the message.

    Raises:
        ValueError: another process has the folder; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        owner = "another process"
        with suppress(OSError):  # Windows lets nobody read a locked file
            owner = path.read_text(encoding="utf-8").strip() or owner
        raise ValueError(f"{owner} is at work on the {what} in {folder}: wait for it, or end it") from None
    with suppress(OSError):
        path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
    return lock


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes out of a folder during the `with`. If it fails before it wrote anything, nothing is left.

    Raises:
        ValueError: another process has the folder; the message names it.
    """
    lock = take(folder, what)
    try:
        yield
    except BaseException:
        abandon(folder, lock)
        raise
    lock.release()


def abandon(folder: Path, lock: BaseFileLock) -> None:
    """Release a folder. If nothing has been written to it, remove it, and the two above it where they are empty."""
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} == {LOCK}:
            (folder / LOCK).unlink()
            for place in (folder, *folder.parents[:2]):
                place.rmdir()
    lock.release()
