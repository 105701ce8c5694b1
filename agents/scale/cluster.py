"""Find a Ray cluster for a run, or start one on this machine, and say plainly what is wrong with it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["connected", "explain_store", "import_ray", "is_lost", "why_lost"]

logger = logging.getLogger(__name__)

KNOCK_SECONDS = 10.0
USAGE = "RAY_USAGE_STATS_ENABLED"
LOST = ("RayActorError", "WorkerCrashedError", "NodeDiedError", "ObjectLostError", "OutOfMemoryError")
FULL = ("ObjectStoreFullError", "OutOfDiskError")


def import_ray() -> Any:
    """Return the module `ray`.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    os.environ.setdefault(USAGE, "0")  # nothing is sent anywhere
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"--workers needs Ray ({error}): pip install 'rlhf-envs[ray]'") from error
    return ray


@contextmanager
def connected(address: str | None, n_cpus: int) -> Iterator[Any]:
    """Be connected to a Ray cluster in a `with` block, which gets the module `ray`.

    A process that is connected already stays so. Otherwise it is the cluster at `address` or `RAY_ADDRESS`; without
    one a cluster is started on this machine with `n_cpus` places or more, and ended with the block.

    Raises:
        ValueError: no cluster answers at the address.
        ModuleNotFoundError: Ray is not installed.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _knock(where)  # Ray itself would try for minutes
        ray.init(**_arguments(where, n_cpus))
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError among them
        if where == "local":
            raise
        raise ValueError(
            f"no Ray cluster answers at {where} ({str(error).partition(chr(10))[0][:200]}): start one there (ray start "
            "--head), or leave out --ray-address and RAY_ADDRESS for one on this machine"
        ) from error
    finally:
        _put_back(handler)  # Ray has put its own there
    try:
        yield ray
    finally:
        ray.shutdown()
        _put_back(handler)


def _put_back(handler: Any) -> None:
    """Let SIGTERM do what it did; threads but the main one may not, and Ray has left it alone there."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _knock(where: str) -> None:
    """Raise OSError if nothing listens at an address such as "node-a:6379" or "ray://node-a:10001"."""
    host, colon, port = where.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _arguments(where: str, n_cpus: int) -> dict[str, Any]:
    if where != "local":
        return {"address": where, "logging_level": logging.ERROR}
    cores = os.cpu_count() or 1
    if n_cpus > cores:
        logger.warning(
            "the workers are to have %d CPUs, and this machine has %d: they will wait for each other", n_cpus, cores
        )
    local = {"num_cpus": max(n_cpus, cores), "include_dashboard": False}
    return {"address": where, "logging_level": logging.ERROR, **local}


def is_lost(error: BaseException) -> bool:
    """Return whether a worker, its machine or what it has sent is gone, so that another can do it again.

    Ray raises what a method raised as a class of that error too, and torch has an OutOfMemoryError of its own.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "ray.exceptions"}
    return "RayTaskError" not in kinds and not kinds.isdisjoint(LOST)


def why_lost(error: BaseException) -> str:
    """Return in a few words why a worker is gone."""
    text = str(error)
    if "OutOfMemory" in type(error).__name__ or "memory" in text.partition("Worker exit detail")[0].lower():
        return "it took too much memory"
    if "node" in type(error).__name__.lower() or "node died" in text.lower() or "node was terminated" in text.lower():
        return "its node has died"
    return "its process has died"


def explain_store(error: BaseException) -> str | None:
    """Return what to do about an object store that is full; None if the error is another."""
    cause = getattr(error, "cause", None)
    if not any(kind.__name__ in FULL for one in (error, cause) if one is not None for kind in type(one).__mro__):
        return None
    return (
        f"Ray's object store is full ({str(cause or error).partition(chr(10))[0][:200]}): start the cluster with more, "
        "ray start --object-store-memory BYTES, and room for it in /dev/shm or in the folder that it spills to; or "
        "send less, with --train lora or fewer --n-envs"
    )
