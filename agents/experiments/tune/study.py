"""Keep the study of a search: its storage, its first settings, its sampler and its best trial."""

from __future__ import annotations

import math
from typing import Any

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from ...registry import describe, get_algorithm
from ...training.run import resolve_config
from .config import TuneConfig
from .space import Range
from .workers import SURPLUS

__all__ = [
    "ERROR",
    "KL",
    "VALUES",
    "best_trial",
    "cause_of",
    "choose_sampler",
    "nearest_to_default",
    "open_study",
    "trial_line",
]

CONFIG, KL, ERROR, VALUES = "config", "kl", "error", "figures"  # attributes of a study and of its trials
OPENING = ".opening.lock"  # Optuna fails where two processes make the tables of a storage at once


def open_study(config: TuneConfig, space: dict[str, Range]) -> optuna.Study:
    """Return a new study, whose first trial has the default settings, or the earlier one if its search was the same."""
    with FileLock(config.folder() / OPENING):
        return _open(config, space)


def _open(config: TuneConfig, space: dict[str, Range]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=config.storage_url(),
        study_name=config.study_name,
        direction="maximize",
        load_if_exists=True,
        sampler=choose_sampler(config, config.seed),
        pruner={
            "median": optuna.pruners.MedianPruner(n_startup_trials=4),
            "halving": optuna.pruners.SuccessiveHalvingPruner(),
            "none": optuna.pruners.NopPruner(),
        }[config.pruner],
    )
    saved, wanted = study.user_attrs.get(CONFIG), config.fixed()
    if saved is None:
        study.set_user_attr(CONFIG, wanted)
        study.enqueue_trial(nearest_to_default(config, space))
    elif saved != wanted:
        name = next(key for key in wanted if saved.get(key) != wanted[key])
        raise ValueError(
            f"the study {config.study_name!r} in {config.storage_url()} was made with {name}={saved.get(name)!r} and "
            f"not {wanted[name]!r}: leave that as it was, or give another --study"
        )
    return study


def nearest_to_default(config: TuneConfig, space: dict[str, Range]) -> dict[str, Any]:
    """Return the default settings, moved into their ranges. Settings that cannot be moved are left out."""
    start = describe(get_algorithm(config.algo)).defaults | resolve_config(config.run(config.seed, {})).agent_kwargs()
    moved = {name: found.nearest(start[name]) for name, found in space.items() if name in start}
    return {name: value for name, value in moved.items() if value is not None}


def choose_sampler(config: TuneConfig, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of a search, which keeps to its KL limit if it can."""
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    limit = config.kl_limit
    constraints = None if limit is None else lambda trial: [trial.user_attrs.get(KL, math.inf) - limit]
    return optuna.samplers.TPESampler(seed=seed, constraints_func=constraints)


def trial_line(config: TuneConfig, trial: FrozenTrial) -> str:
    """Return the line of text about a trial that has ended."""
    if SURPLUS in trial.user_attrs:
        return f"trial {trial.number}: not run, other processes have begun enough"
    value = "" if trial.value is None else f" {config.metric} {trial.value:.4f}"
    cause = f": {cause_of(trial)}" if cause_of(trial) else ""
    return f"trial {trial.number}: {trial.state.name.lower()}{value}{cause}"


def cause_of(trial: FrozenTrial) -> str:
    """Return why a trial failed; nothing if it did not."""
    return str(trial.user_attrs.get(ERROR, "its process ended" if trial.state is TrialState.FAIL else ""))


def best_trial(config: TuneConfig, study: optuna.Study) -> FrozenTrial:
    """Return the best trial within the KL limit. Raise ValueError, which says why, if there is none."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        begun = [trial for trial in study.trials if SURPLUS not in trial.user_attrs]
        failed = [trial for trial in begun if trial.state is TrialState.FAIL]
        running = any(trial.state is TrialState.RUNNING for trial in begun)
        cause = cause_of(failed[0]) if failed else "still running elsewhere" if running else "pruned"
        raise ValueError(f"none of {len(begun)} trials finished ({len(failed)} failed); the first: {cause}")
    limit = config.kl_limit
    within = [trial for trial in complete if limit is None or trial.user_attrs[KL] <= limit]
    if not within:
        least = min(trial.user_attrs[KL] for trial in complete)
        raise ValueError(
            f"none of {len(complete)} trials stays within --kl-limit {limit}: the least KL is {least:.2f} nats; run "
            "more trials, or allow a higher kl_coef with --space kl_coef:0.1..10"
        )
    return max(within, key=lambda trial: trial.value if trial.value is not None else -math.inf)
