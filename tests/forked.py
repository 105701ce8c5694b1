"""Run a function in several ranks, forked from the test's process: nothing is imported again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from agents.core import ranks
from agents.scale.group import joined

__all__ = ["free_port", "on_ranks"]

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
