"""The search for settings of one algorithm on one environment, with Optuna: what `rlhf tune` does.

A trial trains with the settings that the sampler proposes and is judged by held-out episodes of the validation split.
The best of many trials looks better than it is (the winner's curse: Smith and Winkler 2006,
https://doi.org/10.1287/mnsc.1050.0451), so the winner and the settings of before are trained again with seeds that the
search had not, and it is those figures, on validation and test, that say whether to change anything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from stable_baselines3.common.callbacks import BaseCallback

from ...core.random_state import isolated_generators
from ...evaluation.evaluate import Evaluation, evaluate
from ...evaluation.statistics import Estimate, bootstrap_mean
from ...training.run import build_agent, resolve
from .config import TuneConfig
from .space import Range, parse_range, search_space

__all__ = ["Confirmation", "TuneResult", "tune"]

logger = logging.getLogger(__name__)
CONFIG, KL, ERROR, FIGURES = "config", "kl", "error", "figures"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
CONFIRM_FROM = 10_000  # far from any seed of a search


@dataclass(frozen=True)
class Confirmation:
    """Settings trained again with new seeds: the metric and the KL of every seed.

    Attributes:
        values: by split, the metric a seed.
        kl: nats an episode, a seed, on the test split.
    """

    values: dict[str, list[float]]
    kl: list[float]

    def estimate(self, split: str) -> Estimate:
        """Mean over the seeds with its standard error, which is NaN for one seed."""
        return bootstrap_mean(np.array(self.values[split]))


@dataclass(frozen=True)
class TuneResult:
    """What a search found.

    Attributes:
        study: Optuna's.
        best: the best trial within the KL limit.
        settings: of the best trial, whole: what goes into the YAML file.
        confirmed, defaults: the winner's and the default settings' figures on new seeds; None without `confirm_seeds`.
    """

    config: TuneConfig
    space: dict[str, Range]
    study: optuna.Study
    best: FrozenTrial
    settings: dict[str, Any]
    confirmed: Confirmation | None
    defaults: Confirmation | None


def tune(config: TuneConfig, say: Callable[[str], None] = lambda text: None) -> TuneResult:
    """Search, go on with a search of before, and confirm what it found.

    Args:
        config: of the search.
        say: is told of every trial.

    Raises:
        ValueError: the configuration is wrong, another than the study's, or no trial gave a figure within the limit.
    """
    space = find_space(config)
    study = _open_study(config, space)
    finished = len(study.get_trials(deepcopy=False, states=FINISHED))
    if finished < config.trials:
        study.optimize(
            lambda trial: _objective(config, space, trial),
            n_trials=config.trials - finished,
            catch=(Exception,),  # it is in the table of trials, with its cause
            callbacks=[lambda study, trial: say(_described(config, trial))],
        )
    best = _best(config, study)
    run = resolve(config.run(config.seed, best.params))
    settings = {"n_timesteps": run.n_timesteps, "n_envs": run.n_envs, **run.agent_kwargs()}
    confirmed = defaults = None
    if config.confirm_seeds:
        say(f"confirming trial {best.number} and the default settings with {config.confirm_seeds} new seeds each")
        confirmed, defaults = _confirm(config, best.params), _confirm(config, {})
    return TuneResult(config, space, study, best, settings, confirmed, defaults)


def find_space(config: TuneConfig) -> dict[str, Range]:
    """The ranges of a search, from the algorithm's arguments and the environment's sizes.

    Raises:
        ValueError: unknown environment, algorithm, argument or judge.
    """
    from rlhf_envs.registration import check_environment

    from ...core.episodes import open_batch
    from ...evaluation.evaluate import find_judges
    from ...registry import get_algorithm, kl_argument, known_arguments, own_arguments

    cls = get_algorithm(config.algo)
    env_id = check_environment(config.env)
    batch = open_batch(env_id, 1, **config.env_kwargs)
    judges = find_judges(batch.task, None)
    if config.metric != "reward" and config.metric not in judges:
        find_judges(batch.task, [config.metric])
    run = resolve(config.run(config.seed, {}))
    assert run.n_envs is not None
    horizon = int(batch.max_new_tokens)
    rollout = None
    if {"n_steps", "batch_size"} <= own_arguments(cls):
        rollout = run.n_envs * int(run.hyperparams.get("n_steps", horizon))
    return search_space(
        known_arguments(cls) - config.hyperparams.keys() - getattr(cls, "unused", {}).keys(),
        dict(map(parse_range, config.space)),
        algo=config.algo,
        only=config.only,
        leash=(config.metric != "reward" or config.kl_limit is not None) and kl_argument(cls) == "kl_coef",
        rollout=rollout,
        episode=horizon,
        n_envs=run.n_envs,
    )


def _open_study(config: TuneConfig, space: dict[str, Range]) -> optuna.Study:
    """The study, made with its first trial (the default settings) or found again.

    Raises:
        ValueError: the study found is another search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if config.storage is None:
        config.folder().mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=config.storage_url(),
        study_name=config.study_name,
        direction="maximize",
        load_if_exists=True,
        pruner=_pruner(config),
    )
    done = len(study.trials)
    study.sampler = _sampler(config, config.seed + done)
    saved, wanted = study.user_attrs.get(CONFIG), config.fixed()
    if saved is None:
        study.set_user_attr(CONFIG, wanted)
        study.enqueue_trial(_nearest_to_default(config, space))
    elif saved != wanted:
        name = next(key for key in wanted if saved.get(key) != wanted[key])
        raise ValueError(
            f"the study {config.study_name!r} in {config.storage_url()} was made with {name}={saved.get(name)!r} and "
            f"not {wanted[name]!r}: leave that as it was, or give another --study"
        )
    return study


def _nearest_to_default(config: TuneConfig, space: dict[str, Range]) -> dict[str, Any]:
    """The default settings, moved into the ranges where they lie outside; without those that cannot be."""
    from ...registry import default_arguments, get_algorithm

    start = default_arguments(get_algorithm(config.algo)) | resolve(config.run(config.seed, {})).agent_kwargs()
    moved = {name: found.nearest(start[name]) for name, found in space.items() if name in start}
    return {name: value for name, value in moved.items() if value is not None}


def _sampler(config: TuneConfig, seed: int) -> optuna.samplers.BaseSampler:
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if config.kl_limit is None:
        return optuna.samplers.TPESampler(seed=seed)
    limit = config.kl_limit
    return optuna.samplers.TPESampler(
        seed=seed, constraints_func=lambda trial: [trial.user_attrs.get(KL, math.inf) - limit]
    )


def _pruner(config: TuneConfig) -> optuna.pruners.BasePruner:
    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4),
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(),
        "none": lambda: optuna.pruners.NopPruner(),
    }
    return pruners[config.pruner]()


def _objective(config: TuneConfig, space: dict[str, Range], trial: optuna.Trial) -> float:
    """The mean over a trial's seeds; a failure's cause is kept with the trial."""
    chosen = {name: found.suggest(trial, name) for name, found in space.items()}
    figures: list[float] = []
    kl: list[float] = []
    try:
        for index in range(config.seeds_per_trial):
            agent = _train(config, config.seed + index, chosen, _Pruning(config, trial, index))
            found = _measure(config, agent, "validation")
            figures.append(_figure(config, found))
            kl.append(_kl(found))
            trial.set_user_attr(FIGURES, figures)
            trial.set_user_attr(KL, float(np.mean(kl)))
    except optuna.TrialPruned:
        raise
    except BaseException as error:  # an interruption too: the trial is told as failed, and the search goes on later
        trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
        raise
    return float(np.mean(figures))


def _train(config: TuneConfig, seed: int, chosen: dict[str, Any], callback: BaseCallback | None = None) -> Any:
    run = resolve(config.run(seed, chosen))
    assert run.n_timesteps is not None
    agent = build_agent(run)
    try:
        agent.learn(run.n_timesteps, callback=callback)
    finally:
        agent.get_env().close()
    return agent


def _measure(config: TuneConfig, agent: Any, split: str) -> Evaluation:
    run = config.run(0, {})
    judges = None if config.metric == "reward" else [config.metric]
    return evaluate(agent, run.env_id, config.episodes, split, judges, env_kwargs=run.held_out_kwargs())


def _figure(config: TuneConfig, found: Evaluation) -> float:
    """The metric's mean.

    Raises:
        FloatingPointError: it is not finite.
    """
    values = found.reward if config.metric == "reward" else found.judges[config.metric]
    value = float(np.mean(values))
    if not math.isfinite(value):
        raise FloatingPointError(f"{config.metric} on {found.split} is {value}")
    return value


def _kl(found: Evaluation) -> float:
    return math.nan if found.kl is None else float(np.mean(found.kl))


class _Pruning(BaseCallback):
    """Evaluates a trial at equal shares of its tokens, and ends it where the pruner says so."""

    def __init__(self, config: TuneConfig, trial: optuna.Trial, index: int) -> None:
        super().__init__()
        self.config, self.trial, self.index = config, trial, index
        self._done = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        config = self.config
        due = min(self.num_timesteps * config.evaluations // config.tokens, config.evaluations - 1)  # the last is whole
        if due <= self._done:
            return
        self._done = due
        with isolated_generators(self.num_timesteps):
            found = _measure(config, self.model, "validation")
        self.trial.report(_figure(config, found), self.index * config.evaluations + due)
        self.trial.set_user_attr(KL, _kl(found))
        if self.trial.should_prune():
            raise optuna.TrialPruned


def _described(config: TuneConfig, trial: FrozenTrial) -> str:
    value = "" if trial.value is None else f" {config.metric} {trial.value:.4f}"
    cause = f": {trial.user_attrs[ERROR]}" if ERROR in trial.user_attrs else ""
    return f"trial {trial.number}: {trial.state.name.lower()}{value}{cause}"


def _best(config: TuneConfig, study: optuna.Study) -> FrozenTrial:
    """The best trial within the KL limit.

    Raises:
        ValueError: there is none; the message says why.
    """
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        failed = study.get_trials(states=(TrialState.FAIL,))
        cause = failed[0].user_attrs.get(ERROR, "unknown") if failed else "they were pruned"
        raise ValueError(f"none of {len(study.trials)} trials gave a figure ({len(failed)} failed); the first: {cause}")
    limit = config.kl_limit
    within = [trial for trial in complete if limit is None or trial.user_attrs[KL] <= limit]
    if not within:
        least = min(trial.user_attrs[KL] for trial in complete)
        raise ValueError(
            f"none of {len(complete)} trials stays within --kl-limit {limit}: the least KL is {least:.2f} nats; run "
            "more trials, or allow a higher kl_coef with --space kl_coef:0.1..10"
        )
    return max(within, key=lambda trial: trial.value if trial.value is not None else -math.inf)


def _confirm(config: TuneConfig, chosen: dict[str, Any]) -> Confirmation:
    values: dict[str, list[float]] = {"validation": [], "test": []}
    kl = []
    for index in range(config.confirm_seeds):
        agent = _train(config, config.seed + CONFIRM_FROM + index, chosen)
        for split, column in values.items():
            found = _measure(config, agent, split)
            column.append(_figure(config, found))
        kl.append(_kl(found))
    return Confirmation(values, kl)
