"""Kill a process with SIGKILL at a given change of files, for `test_kills.py`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["install"]

WRITING = os.O_WRONLY | os.O_RDWR
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def install() -> None:
    """Count the changes to files below $KILL_FOLDER, and after $KILL_AT of them kill the process that makes the next.

    All processes of a run count together: the count is the size of the file $KILL_COUNT. The kill comes $KILL_DELAY
    seconds later. Without $KILL_AT changes are only counted.
    """
    folder, at = os.environ["KILL_FOLDER"], int(os.environ.get("KILL_AT", "-1"))
    count = os.open(os.environ["KILL_COUNT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
        if not changes or isinstance(arguments[0], int):  # a descriptor: its file was counted when it was opened
            return
        if not str(Path(os.fsdecode(arguments[0])).absolute()).startswith(folder):
            return
        os.write(count, b".")
        if os.fstat(count).st_size == at + 1:
            delay = float(os.environ.get("KILL_DELAY", "0"))
            if delay:
                threading.Timer(delay, kill).start()
            else:
                kill()

    sys.addaudithook(hook)
