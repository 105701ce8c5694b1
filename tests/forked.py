"""Run a function in several ranks, or code in a process of its own, by forks: nothing is imported again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from agents.core import ranks
from agents.scale.group import joined

__all__ = ["free_port", "on_ranks", "run_python", "run_rlhf"]

SECONDS = 100


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def on_ranks(
    function: Callable[..., Any], *args: Any, n: int = 2, failing: bool = False, joining: bool = True
) -> list[Any]:
    """Call `function(*args)` in n ranks, and return what each returned.

    With `failing` what a rank raised is returned as a text, and the exit code of a rank that returned nothing. Without,
    both are errors. Without `joining` the function joins the ranks itself.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), multiprocessing.get_context("fork")
        given = (n, function, args, joining)
        processes = [started.Process(target=_be, args=(folder, port, rank, *given)) for rank in range(n)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which wait for work here
            for process in processes:
                process.start()
        for process in processes:
            process.join(SECONDS)
            process.kill()
            process.join()
        return [_result(folder / f"result{r}", p.exitcode, failing, r) for r, p in enumerate(processes)]


def _result(file: Path, code: int | None, failing: bool, rank: int) -> Any:
    if failing and not file.is_file():
        return code
    assert file.is_file(), f"rank {rank} returned nothing, exit code {code}"
    failed, result, trace = pickle.loads(file.read_bytes())
    assert failing or not failed, f"rank {rank}: {trace}"
    return result


def _be(
    folder: Path, port: int, rank: int, n: int, function: Callable[..., Any], args: tuple[Any, ...], joining: bool
) -> None:
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(n)}
    torch.set_num_threads(1)
    try:
        with joined() if joining else nullcontext():
            assert not joining or (ranks.rank(), ranks.size()) == (rank, n)
            result = (False, function(*args), "")
    except BaseException as error:
        result = (True, f"{type(error).__name__}: {error}", traceback.format_exc())
    (folder / f"result{rank}").write_bytes(pickle.dumps(result))
    os._exit(0)


def run_python(code: str, cwd: Path, path: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    """Run code as `python -c` does in a folder, in a fork of a process that has imported agents and nothing of a test.

    Args:
        code: the program.
        cwd: the folder that it runs in, and imports from.
        path: folders that it imports from besides.
    """
    with tempfile.TemporaryDirectory() as name:
        outputs = [Path(name) / "stdout", Path(name) / "stderr"]
        paths = [str(cwd), *map(str, path)]
        given = (code, str(cwd), paths, dict(os.environ), [*map(str, outputs)])
        process = multiprocessing.get_context("forkserver").Process(target=_execute, args=given)
        process.start()
        process.join(500)
        process.kill()
        process.join()
        return subprocess.CompletedProcess(code, process.exitcode or 0, *(file.read_text() for file in outputs))


def run_rlhf(command: Sequence[str], cwd: Path | None = None, **_: object) -> subprocess.CompletedProcess[str]:
    """Be `subprocess.run` for commands of `rlhf`, by `run_python`: without the seconds in which Python starts anew."""
    assert [*command[:3]] == [sys.executable, "-m", "agents.cli"], command
    return run_python(f"from agents.cli import app\napp({[*map(str, command[3:])]})", cwd or Path.cwd())


def _execute(code: str, cwd: str, paths: list[str], environment: dict[str, str], outputs: list[str]) -> None:
    for descriptor, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ |= environment
    os.chdir(cwd)
    sys.path[:0] = paths
    sys.argv = ["-c"]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
