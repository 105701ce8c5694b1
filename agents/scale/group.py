"""Join the ranks that torchrun, or another launcher with its variables, has started."""

from __future__ import annotations

import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..core import ranks
from ..training.errors import RunStopped

__all__ = ["be_quiet", "is_first", "joined", "taking_part"]

PATIENCE = timedelta(hours=2)  # for which ranks wait for another one, such as for the first one's evaluations
ANSWER_SECONDS = 5.0  # in which it shows which rank is lost
EXITING = 4  # the kernel's PF_EXITING


@contextmanager
def joined(patience: timedelta = PATIENCE) -> Iterator[None]:
    """Be a rank in a `with` block: the variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say which.

    On GPUs each rank of a machine takes one, and NCCL carries tensors; gloo does on CPUs, and where ranks share a GPU.

    Raises:
        ValueError: a variable is missing, or MASTER_PORT is taken.
        RankLost: another rank no longer answers. The message names it, and what it failed by if it said so.
    """
    try:
        dist.init_process_group(_backend(), timeout=patience)
    except (RuntimeError, ValueError) as error:  # DistNetworkError, DistStoreError among them
        raise ValueError(_explain_start(error)) from error
    store: Any = dist.distributed_c10d._get_default_store()
    me = dist.get_rank()
    store.set(f"rlhf-place/{me}", f"{os.getpid()} on {platform.node()}")
    ranks.start(lambda: _find_lost(store, me, dist.get_world_size()))
    if me:
        be_quiet()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, ranks.RankLost | SystemExit | KeyboardInterrupt):
            with suppress(RuntimeError):
                store.set(f"rlhf-failed/{me}", str(error).partition("\n")[0] or type(error).__name__)
        raise
    finally:
        ranks.stop()
        with suppress(RuntimeError):  # of ranks that are gone
            dist.destroy_process_group()


@contextmanager
def taking_part() -> Iterator[None]:
    """Be a rank of `rlhf train`, as with `joined`, also while a run is prepared.

    Raises:
        RunStopped: another rank no longer answers.
    """
    try:
        with joined():
            yield
    except ranks.RankLost as error:
        raise RunStopped(f"rank {os.environ['RANK']} stopped: {error}") from error


def is_first() -> bool:
    """Return whether this is the process that writes, prints and evaluates."""
    return ranks.first()


def _backend() -> str:
    """Choose this rank's GPU, if there are any, and return the backend of torch.distributed."""
    if not torch.cuda.is_available():
        return "gloo"
    local, here = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    torch.cuda.set_device(local % torch.cuda.device_count())
    return "gloo" if here > torch.cuda.device_count() else "cpu:gloo,cuda:nccl"


def _explain_start(error: Exception) -> str:
    address, port = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return (
            f"MASTER_PORT {port} of {address} is taken by another program: give torchrun another --master-port (with "
            "several machines the same one on all), or --standalone, which finds a free one"
        )
    return f"the ranks did not find each other at {address}:{port}: {str(error).partition(chr(10))[0]}"


def _find_lost(store: Any, me: int, n: int) -> str:
    """Return, for a message, which ranks have failed or no longer answer; "" if all seem to be there."""
    others, deadline = [rank for rank in range(n) if rank != me], time.monotonic() + ANSWER_SECONDS
    try:
        store.set(f"rlhf-here/{me}", "")
        places = {rank: store.get(f"rlhf-place/{rank}").decode() for rank in others}
        while True:
            failed = [rank for rank in others if store.check([f"rlhf-failed/{rank}"])]
            dead = [rank for rank in others if rank not in failed and _is_alive(places[rank]) is False]
            if failed or dead or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        found = {rank: f"failed: {store.get(f'rlhf-failed/{rank}').decode()}" for rank in failed}
        if not found:
            found = dict.fromkeys(dead, "has ended without a word")
        if not found:
            unknown = [rank for rank in others if _is_alive(places[rank]) is None]
            found = {rank: "does not answer" for rank in unknown if not store.check([f"rlhf-here/{rank}"])}
        return "; ".join(f"rank {rank} of {n} (process {places[rank]}) {what}" for rank, what in found.items())
    except RuntimeError:  # the store is gone with the process that had it
        address, port = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
        return f"rank 0 of {n}, or its launcher, has ended: {address}:{port} no longer answers"


def _is_alive(place: str) -> bool | None:
    """Return whether a process is there that has not ended; None if it is on another machine."""
    process, _, machine = place.partition(" on ")
    if machine != platform.node() or not Path("/proc/self").exists():
        return None
    try:
        stat = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return False
    state, *_, flags = stat.rpartition(b")")[2].split()[:7]
    return state not in (b"Z", b"X") and not int(flags) & EXITING


def be_quiet() -> None:
    """Print errors only: the first rank, or the learner, says the rest."""
    warnings.simplefilter("ignore")
    for name in ("agents", "rlhf_envs"):
        logging.getLogger(name).setLevel(logging.ERROR)
