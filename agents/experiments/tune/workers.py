"""Share a search among processes: which trials count, and which process runs a trial, so that no trial is lost.

Optuna leaves the trial of a killed process "running" for ever, and its sampler keeps away from the settings. Here every
process of a search holds a locked file and signs its trials with it. The system unlocks the file when the process
ends, however it ends.

A storage gives out any number of trials. So a process that begins a trial looks at the trials before it: if there are
enough, its own is a surplus, which is not run and not counted.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

__all__ = ["AGAIN", "SURPLUS", "WORKER", "counted", "is_surplus", "requeue_stale_trials", "retried", "signature"]

WORKER, AGAIN = "worker", "again"  # attributes of a trial: who runs it, and the number of the trial that it repeats
SURPLUS = "surplus"  # an attribute of a trial that is not needed, see above
SIGNED_WITHIN = 2.0  # seconds in which a process signs a trial that it has begun


@contextmanager
def signature(folder: Path) -> Iterator[list[str]]:
    """Yield what this process signs its trials with: the machine, and a file that is locked until the `with` ends."""
    folder.mkdir(parents=True, exist_ok=True)
    file = Path(os.path.abspath(folder)) / f".worker-{uuid4().hex}.lock"
    with FileLock(file):
        try:
            yield [socket.gethostname(), str(file)]
        finally:
            file.unlink(missing_ok=True)


def requeue_stale_trials(study: optuna.Study, say: Callable[[str], None]) -> None:
    """Fail the trials whose process has ended, and queue their settings again, once. Trials of live processes stay.

    A trial of another machine stays too, for its process cannot be looked up from here. `say` gets a line per trial.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if any(WORKER not in trial.user_attrs for trial in running):
        time.sleep(SIGNED_WITHIN)  # it may have begun just now
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        host, file = trial.user_attrs.get(WORKER, (socket.gethostname(), None))
        if host != socket.gethostname():
            say(f"trial {trial.number} runs on {host!r}, as far as can be seen from here: it is left alone")
        elif file is None or not _is_held(Path(file)):
            _fail(study, trial, say)


def retried(study: optuna.Study) -> set[int]:
    """Return the numbers of the trials whose process ended and whose settings were queued again."""
    return {trial.user_attrs[AGAIN] for trial in study.get_trials(deepcopy=False) if AGAIN in trial.user_attrs}


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count as one of `--trials`: not the surplus, and of a trial and its repetition one."""
    again = retried(study)
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.number not in again and SURPLUS not in trial.user_attrs]


def is_surplus(study: optuna.Study, number: int, trials: int) -> bool:
    """Return whether there are `trials` trials before the one with this number."""
    return sum(trial.number < number for trial in counted(study)) >= trials


def _is_held(file: Path) -> bool:
    """Return whether a process holds the lock of a file."""
    if not file.is_file():
        return False
    try:
        with FileLock(file, timeout=0):
            file.unlink(missing_ok=True)
    except Timeout:
        return True
    return False


def _fail(study: optuna.Study, trial: FrozenTrial, say: Callable[[str], None]) -> None:
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
        return
    line = f"trial {trial.number} was running in a process that has ended"
    if AGAIN in trial.user_attrs:  # else settings that need too much memory would end every call
        say(f"{line}, as trial {trial.user_attrs[AGAIN]} with the same settings was: failed, and not queued again")
        return
    settings = trial.system_attrs.get("fixed_params", {}) | trial.params
    study.enqueue_trial(settings, user_attrs={AGAIN: trial.number})
    say(f"{line}: failed, and its settings are queued again")
