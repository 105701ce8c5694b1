"""Go on with a run that was stopped, was killed or has failed: what `rlhf train --resume` does."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock

from rlhf_envs.files import find_folder
from rlhf_envs.registration import check_environment

from ..core import ranks
from ..core.random_state import get_generators, isolated_generators
from ..registry import get_algorithm
from ..saving.bundle import BundleError, holds, read
from ..saving.checkpoints import Checkpoints
from ..saving.folders import AGENT, CHECKPOINTS, CONFIG, clear, is_bundle, is_restartable, read_config, read_object
from ..saving.locks import take
from ..saving.provenance import differences, read_records
from .building import build_callbacks, load_agent
from .config import TrainConfig
from .report import REPORT
from .run import Prepared, check_collector, evaluate_held_out, prepare_in
from .trackers import check_trackers

__all__ = ["is_finished", "prepare_resumed"]

logger = logging.getLogger(__name__)

SCHEDULES = (
    "lr_schedule",
    "clip_range",
    "clip_range_vf",
    "exploration_schedule",
)  # of SB3's agents, over a run's length


def is_finished(folder: str | Path, config: TrainConfig) -> bool:
    """Return whether all of a run is on the disk: its report of all tokens, which is written last, and its agent.

    `rlhf compare` removes agents together with the checkpoints: such a run is finished too.
    """
    folder = Path(folder)
    if not (folder / REPORT).is_file():
        return False
    try:
        report = read_object(folder / REPORT)
    except ValueError:
        report = {}
    tokens, watchers = report.get("n_timesteps"), (report.get("early_stopping"), report.get("alarm"))
    if not isinstance(tokens, int):  # a damaged report is written anew
        return False
    stopped = any(isinstance(watcher, dict) and watcher.get("stopped") is True for watcher in watchers)
    has_agent = is_bundle(find_folder(folder / AGENT))
    return (stopped or tokens >= (config.n_timesteps or 0)) and (
        has_agent or not Checkpoints(folder / CHECKPOINTS).exist()
    )


def prepare_resumed(folder: str | Path, config: TrainConfig | None = None, collector: Any = None) -> Prepared:
    """Return the run of a folder as it was at its newest intact checkpoint, ready for `train`.

    A run that ended before its first checkpoint starts over. `collector` is as in `prepare`.

    Raises:
        ValueError: there is nothing to go on from, or another process is at work on the run.
    """
    folder = Path(folder)
    config = TrainConfig.of_folder(folder) if config is None else config
    check_trackers(config)
    check_collector(config, collector)
    check_environment(config.env)
    lock = take(folder, "run")
    if is_restartable(folder):
        clear(folder, keep=(CONFIG,))  # it has the paths as they were typed
        ranks.from_first(None)
        return prepare_in(folder, config, lock, collector)
    try:
        return _go_on(folder, config, lock, collector)
    except BaseException:
        lock.release()
        raise


def _go_on(folder: Path, config: TrainConfig, lock: BaseFileLock, collector: Any) -> Prepared:
    started = time.perf_counter()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    _say_what_differs(folder)
    if not holds(get_algorithm(config.algo)):
        raise ValueError(
            f"--resume {folder}: needs an agent that bundles hold, and {config.algo} is none: it leaves no checkpoints"
            + _zips(folder)
        )
    bundle = ranks.from_first(_newest_bundle(folder))
    agent = load_agent(config, bundle)
    _say_what_restarts(agent, folder, config)
    generators = get_generators()
    with isolated_generators():
        callbacks = build_callbacks(config, agent, folder)
        if collector is not None:
            collector.attach(config, agent, callbacks)
        with agent.policy.at_start():
            before = evaluate_held_out(config, agent, folder)
    run = Prepared(config, folder, agent, callbacks, before, started, lock, generators)
    assert run.checkpoints is not None
    run.checkpoints.restore(bundle)
    workers = run.checkpoints.restored.get("callbacks", {}).get("RayRollouts", {}).get("workers")
    if workers and collector is None:
        logger.warning(
            "the run had %d workers and goes on without: the environments begin new episodes, and episodes that were "
            "under way or waiting for their group are dropped",
            len(workers),
        )
    return run


def _say_what_differs(folder: Path) -> None:
    """Warn if the run was made with other versions or another number of threads."""
    records = read_records(folder / CONFIG)
    if records and (found := differences(records[-1])):
        message = "%s goes on with %s: numbers may differ in the last bits from a run that was never stopped"
        logger.warning(message, folder, ", ".join(found))


def _say_what_restarts(agent: Any, folder: Path, config: TrainConfig) -> None:
    """Say that the schedules of a run that is extended are from now on stretched over its new length, as in SB3."""
    before, tokens = read_config(folder).get("n_timesteps"), config.n_timesteps
    if not isinstance(before, int) or tokens is None or tokens <= before:
        return
    done = agent.num_timesteps
    for name in SCHEDULES:
        schedule = getattr(agent, name, None)
        then, now = (schedule(1 - done / max(n, done)) if callable(schedule) else None for n in (before, tokens))
        if then != now:
            message = "%s is extended to %d tokens: %s goes on at %g and not %g, as SB3 has it in a run of that length"
            logger.warning(message, folder, tokens, name, now, then)


def _newest_bundle(folder: Path) -> Path:
    """Return the finished agent if there is one and it is intact, else, or if it is newer, the newest checkpoint."""
    checkpoint = Checkpoints(folder / CHECKPOINTS).latest()
    if is_bundle(find_folder(folder / AGENT)):
        try:
            agent, description = read(folder / AGENT)
            tokens = int(description["values"]["attributes"]["num_timesteps"])
            if checkpoint is None or tokens >= int(checkpoint.name.removeprefix(".").removesuffix(".old")):
                return agent
        except BundleError as error:
            logger.warning("skipping the finished agent: %s", error)
    if checkpoint is None:
        raise ValueError(
            f"{folder / CHECKPOINTS} holds no checkpoint that is whole: the run cannot go on{_zips(folder)}"
        )
    return checkpoint


def _zips(folder: Path) -> str:
    """Return what to do with SB3 zips in a run's folder, or "". Older releases and other agents leave such zips."""
    zips = sorted(folder.rglob("*.zip"), key=lambda path: path.stat().st_mtime)
    if not zips:
        return ""
    names = ", ".join(str(path.relative_to(folder)) for path in zips)
    return (
        f". There are SB3 zips ({names}), from which no run goes on exactly: if they are your own, load one with "
        f"agents.load({str(zips[-1])!r}, trust_pickle=True) and call its learn"
    )
