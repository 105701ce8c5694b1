"""Do a job on a node of a cluster. This is what runs there: it imports neither Ray nor torch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...saving.provenance import versions
from ..processes import worker_environment
from . import parcels

__all__ = ["Runner", "describe_node"]

PIECE = 8 * 2**20  # bytes of an archive that travel at once: an object store holds many
PREFIX = "rlhf-run-"
LOG = 64 * 2**10  # bytes of what the run printed that travel at once


def describe_node() -> tuple[str, dict[str, str]]:
    """Return this machine's name, and the versions that it has of what matters."""
    return socket.gethostname(), versions()


class Runner:
    """Do one job in a process of its own, in a folder of this node that goes when the job has ended.

    It is a Ray actor. If it is killed, the job's process ends too, whose standard input it holds.

    Args:
        every: seconds between two parcels of changed files while the job runs.
    """

    def __init__(self, every: float = 5.0) -> None:
        _sweep()
        self._root = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._held = FileLock(self._root / ".held")
        self._held.acquire()
        self._archive = self._root / "parcel.tar"
        self._every, self._packed_at = every, time.monotonic()
        self._sent: parcels.Marks = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._read, self._is_stopping = 0, False

    def open(self) -> tuple[str, str, dict[str, str]]:
        """Return the folder that stands for the experiment's, this machine's name and its versions."""
        return str(self._root / "experiment"), *describe_node()

    def receive(self, piece: bytes) -> None:
        """Take a piece of an archive of what the run's folder held so far."""
        with self._archive.open("ab") as file:
            file.write(piece)

    def start(
        self,
        worker: str,
        task: dict[str, Any],
        names: Mapping[str, str],
        *,
        cpus: int,
        paths: Sequence[str],
        place: str,
        variables: Mapping[str, str],
    ) -> None:
        """Start the job's process.

        Args:
            worker: the module that does it.
            task: what it is told; paths are of this node.
            names: the run's `folder`, its `result` and its `error`.
            cpus: threads that it gets.
            paths: where modules are found besides, if these folders are here.
            place: the working folder, if it is here.
            variables: of the environment.
        """
        self._folder, self._result, self._error = (Path(names[key]) for key in ("folder", "result", "error"))
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        if self._archive.is_file():
            parcels.unpack(self._archive, self._folder)
            parcels.move_paths(self._folder, json.loads(names["moved"]))
            self._archive.unlink()
        self._log = self._root / "log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", worker],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=place if os.path.isdir(place) else self._root,
                env={**worker_environment(cpus, [path for path in paths if os.path.exists(path)]), **variables},
                start_new_session=True,
            )
        assert self._process.stdin is not None
        with suppress(OSError):  # a broken pipe: the process has died, which `poll` tells
            self._process.stdin.write(f"{json.dumps(task)}\n".encode())
            self._process.stdin.flush()

    def poll(self, seconds: float) -> dict[str, Any]:
        """Wait for the job to end, so many seconds at most, and return what is new.

        Returns:
            its exit `code`, None while it runs or more of its log is to come; `log`, what it has printed since;
            `pieces`, of how many pieces an archive of changed files is, see `piece`; `names`, the files that there are
            now; None for both if nothing is sent; `error`, the text of its error file.
        """
        assert self._process is not None
        try:
            code: int | None = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        log, ended = self._printed(), code is not None
        if len(log) == LOG:
            return {"code": None, "log": log, "pieces": None, "names": None, "error": None}
        pieces = names = None
        if ended or time.monotonic() - self._packed_at >= self._every:
            pieces, names = self._pack(ended)
        error = self._error.read_text(encoding="utf-8") if ended and self._error.is_file() else None
        return {"code": code, "log": log, "pieces": pieces, "names": names, "error": error}

    def piece(self, index: int) -> bytes:
        """Return a piece of the archive."""
        with self._archive.open("rb") as file:
            file.seek(index * PIECE)
            return file.read(PIECE)

    def stop(self) -> None:
        """Have the run saved. Its process then ends. A second call does nothing: it would cut the saving short."""
        if self._process is not None and not self._is_stopping:
            self._is_stopping = True
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the job, and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            with suppress(OSError):
                self._process.stdin.close()
        self._held.release()
        shutil.rmtree(self._root, ignore_errors=True)

    def _printed(self) -> bytes:
        with self._log.open("rb") as file:
            file.seek(self._read)
            found = file.read(LOG)
        self._read += len(found)
        return found

    def _pack(self, ended: bool) -> tuple[int | None, list[str] | None]:
        """Pack what has changed. The result, which says that the run is finished, waits for the end."""
        self._packed_at = time.monotonic()
        for _ in range(5):
            found = parcels.scan(self._folder)
            if not ended:
                found = {name: mark for name, mark in found.items() if self._folder / name != self._result}
            if found == self._sent:
                return None, None
            changed = [name for name, mark in found.items() if self._sent.get(name) != mark]
            if parcels.pack(self._folder, changed, self._archive):
                self._sent = found
                return -(-self._archive.stat().st_size // PIECE), list(found)
        return None, None  # it changes all the time: the next look may find it at rest


def _sweep() -> None:
    """Remove the folders of jobs whose node went on without them."""
    for held in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/.held"):
        try:
            with FileLock(held, timeout=0):
                shutil.rmtree(held.parent, ignore_errors=True)
        except (Timeout, OSError):  # at work, or another user's
            continue
