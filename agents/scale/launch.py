"""Start the ranks of a run on this machine with torchrun's elastic launcher. It imports torch when it starts them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..training.errors import RunInterrupted, RunStopped
from ..training.threads import NUMBER, POLICY

__all__ = ["is_rank", "launch", "leave_to_launcher"]

LAUNCHER = "RLHF_LAUNCHER"  # its process id, and the folder of what its ranks ended with


def is_rank() -> bool:
    """Return whether torchrun, or another launcher with its variables, has started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def leave_to_launcher(message: str, code: int) -> bool:
    """Return whether the launcher of this rank says why the rank ends with a code, so that ranks do not repeat it."""
    launcher, _, folder = os.environ.get(LAUNCHER, "").partition(" ")
    if code not in (1, 2) or launcher != str(os.getppid()):  # not its rank, or it was killed
        return False
    (Path(folder) / f"{code}-{os.environ['RANK']}").write_text(message, encoding="utf-8")
    return True


def launch(n: int, arguments: Sequence[str], say: Callable[[str], None]) -> None:
    """Run `python -m agents.cli` with these arguments in n processes of this machine, and wait until all have ended.

    It is `torchrun --standalone --nproc-per-node n -m agents.cli ...`. When a rank fails, the others are ended. Each
    gets an equal part of the cores, unless OMP_NUM_THREADS says otherwise. `say` gets what ranks failed by, each text
    once.

    Raises:
        ValueError: the ranks found a mistake, and the message is theirs.
        RunStopped: a rank failed or was killed, and the message names it; or a rank got a signal.
        RunInterrupted: a signal ended this process; the ranks have saved the run and said where.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    chosen = os.environ.get(NUMBER)
    if chosen is None or POLICY in os.environ:  # not by the user, see `choose_threads`
        os.environ[NUMBER] = str(max(1, int(chosen or os.cpu_count() or 1) // n))
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):  # its errors are told below, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    with tempfile.TemporaryDirectory(prefix="rlhf-ranks-") as folder:
        os.environ[LAUNCHER] = f"{os.getpid()} {folder}"
        try:
            elastic_launch(config, sys.executable)("-m", "agents.cli", *arguments)
        except ChildFailedError as error:
            mistakes, failures = (_read(Path(folder), code) for code in (2, 1))
            if mistakes and all(any(text in failure for text in mistakes) for failure in failures):
                raise ValueError("; ".join(mistakes)) from error
            for text in mistakes + failures:
                say(text)
            raise RunStopped(_explain(error.failures, n)) from error
        except SignalException as error:
            name = signal.Signals(error.sigval).name
            raise RunInterrupted(f"{name}: the {n} ranks were ended", error.sigval) from error
        finally:
            del os.environ[LAUNCHER]


def _read(folder: Path, code: int) -> list[str]:
    """Return what ranks ended with that have an exit code, each text once."""
    return [*dict.fromkeys(file.read_text(encoding="utf-8") for file in sorted(folder.glob(f"{code}-*")))]


def _explain(failures: dict[int, Any], n: int) -> str:
    """Return which rank failed first, and how.

    One that was killed comes before those that failed because of it. SIGTERM is what the launcher ends the others with.
    """

    def order(one: tuple[int, Any]) -> tuple[int, float]:
        code = one[1].exitcode
        return 2 if code == -signal.SIGTERM else int(code >= 0), one[1].timestamp

    rank, failure = min(failures.items(), key=order)
    code = failure.exitcode
    is_signal = code - 128 in signal.valid_signals()
    if is_signal and all(one.exitcode in (code, -signal.SIGTERM) for one in failures.values()):  # they have saved
        return f"a rank got {signal.Signals(code - 128).name}, and all {n} have ended, see above"
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with the exit code {code}, see above"
    others = "the others were ended too" if n > 2 else "the other was ended too"
    return f"rank {rank} of {n} (process {failure.pid}) {how}; {others}"
