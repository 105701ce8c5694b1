"""Search the settings of one algorithm on one environment with Optuna, as `rlhf tune` does.

A trial trains with settings that the sampler proposes, and is judged by held-out episodes of the validation split. The
best of many trials looks better than it is (the winner's curse: Smith and Winkler 2006,
https://doi.org/10.1287/mnsc.1050.0451). So the best settings and the default settings are trained again with seeds that
the search did not use. Their metrics on validation and test show whether to change anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from rlhf_envs.registration import check_environment, task_of
from rlhf_envs.rewards import get_reward

from ...core.episodes import open_batch
from ...core.random_state import isolated_generators
from ...evaluation.evaluate import evaluate, find_judges
from ...evaluation.statistics import Estimate, bootstrap_mean
from ...registry import check_arguments, describe, get_algorithm
from ...saving.locks import locked
from ...training.run import build_agent, resolve_config
from ...training.trackers import TrackerOutput, check_trackers, tracking
from ..cluster.jobs import check_ray, on_cluster
from ..compare.checks import check_tokens
from .checks import check_search
from .config import TuneConfig
from .remote import TRIALS, Remote
from .space import Range, parse_range, search_space
from .workers import SURPLUS, WORKER, counted, is_surplus, requeue_stale_trials, signature

__all__ = ["Confirmation", "Pruning", "TuneResult", "train_and_measure", "tune"]

CONFIG, KL, ERROR, VALUES = "config", "kl", "error", "figures"  # attributes of a study and of its trials
OPENING = ".opening.lock"  # Optuna fails where two processes make the tables of a storage at once
CONFIRM_FROM = 10_000  # far from any seed of a search


@dataclass(frozen=True)
class Confirmation:
    """Hold the metric and the KL of settings that were trained again with new seeds."""

    values: dict[str, list[float]]  # by split, one per seed
    kl: list[float]  # on the test split, one per seed, in nats per episode
    prompts: dict[str, str]  # by split, what they are, see `Evaluation.prompts`

    def estimate(self, split: str) -> Estimate:
        """Return the mean over the seeds with its standard error, which is NaN for one seed."""
        return bootstrap_mean(np.array(self.values[split]))


@dataclass(frozen=True)
class TuneResult:
    """Hold what a search found."""

    config: TuneConfig
    space: dict[str, Range]
    study: optuna.Study
    best: FrozenTrial  # within the KL limit
    settings: dict[str, Any]  # all of the best trial, as they go into the YAML file
    confirmed: Confirmation | None  # the best settings with new seeds; None without `confirm_seeds`
    defaults: Confirmation | None  # the same of the default settings


def tune(config: TuneConfig, say: Callable[[str], None] = lambda text: None) -> TuneResult:
    """Search, or go on with an earlier search, and confirm what it found. `say` gets a line of text about each trial.

    Raises:
        ValueError, TypeError, OSError: the configuration is wrong. Nothing is written.
        ValueError: the configuration differs from the study's, no trial stayed within the KL limit, or another process
            is at work in the folder. (Several may share a `storage` that the configuration names.)
        ModuleNotFoundError: trials are to run on a Ray cluster, and Ray is not installed.
    """
    space = find_space(config)
    check_trackers(config.run(config.seed, {}))
    say(f"a trial trains for {check_search(config, _nearest_to_default(config, space))}")
    if not config.uses_ray:
        with locked(config.folder(), "search") if config.storage is None else nullcontext():
            return _search(config, space, say)
    check_ray(config.tracker)
    cpus, gpus = config.threads or 1, int(config.device.startswith("cuda"))
    with on_cluster(config.ray_address, cpus, gpus) as ray:
        places = int(ray.cluster_resources().get("CPU", 1)) // cpus
        n = config.jobs or max(1, min(places, config.trials))
        with locked(config.folder(), "search") if config.storage is None else nullcontext():
            return _search(config, space, say, Remote(config), n)


def _search(
    config: TuneConfig, space: dict[str, Range], say: Callable[[str], None], remote: Remote | None = None, n: int = 1
) -> TuneResult:
    """Run the trials that are missing, `n` at a time and on a cluster if there is a `remote`, and confirm the best."""
    with signature(config.folder()) as worker:
        with FileLock(config.folder() / OPENING):
            study = _open_study(config, space)
        requeue_stale_trials(study, say)
        if remote is None:
            _run_trials(config, space, study, worker, say)
        else:
            _run_together(config, space, worker, say, remote, n)
    if running := [str(trial.number) for trial in counted(study) if trial.state is TrialState.RUNNING]:
        say(f"still running elsewhere, and not in this report: trial {', '.join(running)}")
    best = _best(config, study)
    run = resolve_config(config.run(config.seed, best.params))
    settings = {"n_timesteps": run.n_timesteps, "n_envs": run.n_envs, **run.agent_kwargs()}
    confirmed = defaults = None
    if config.confirm_seeds:
        say(f"confirming trial {best.number} and the default settings with {config.confirm_seeds} new seeds each")
        settings_of = {"best": best.params, "defaults": {}}
        confirmed, defaults = (_confirm(config, chosen, name, remote) for name, chosen in settings_of.items())
    return TuneResult(config, space, study, best, settings, confirmed, defaults)


def _run_trials(
    config: TuneConfig,
    space: dict[str, Range],
    study: optuna.Study,
    worker: list[str],
    say: Callable[[str], None],
    remote: Remote | None = None,
) -> None:
    """Run one trial after the other until there are enough, with those of others that share the study."""
    while sum(trial.state is not TrialState.WAITING for trial in counted(study)) < config.trials:
        study.optimize(
            lambda trial: _objective(config, space, trial, worker, remote),
            n_trials=1,
            catch=(Exception,),  # the table of trials has the cause
            callbacks=[lambda study, trial: say(_trial_line(config, trial))],
        )


def _run_together(
    config: TuneConfig,
    space: dict[str, Range],
    worker: list[str],
    say: Callable[[str], None],
    remote: Remote,
    n: int,
) -> None:
    """Run trials on a cluster, `n` at a time: a thread for each shares the study as a process of its own would.

    Raises:
        KeyboardInterrupt: the trials under way have been ended.
    """

    def work() -> None:
        with FileLock(config.folder() / OPENING):
            study = _open_study(config, space)  # its sampler is this thread's own
        _run_trials(config, space, study, worker, say, remote)

    with ThreadPoolExecutor(n) as pool:
        futures = [pool.submit(work) for _ in range(n)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            remote.stop()
            raise


def find_space(config: TuneConfig) -> dict[str, Range]:
    """Return the ranges of a search. Raise ValueError if an environment, algorithm, argument or judge is unknown."""
    cls = get_algorithm(config.algo)
    algorithm = describe(cls)
    env_id = check_environment(config.env)
    batch = open_batch(env_id, 1, **config.env_kwargs)
    if config.metric not in ("reward", *batch.task.metric_names(batch.rows)):
        find_judges(batch.task, [config.metric])  # raises for an unknown one
    run = resolve_config(config.run(config.seed, {}))
    check_arguments(config.algo, run.agent_kwargs())
    assert run.n_envs is not None
    horizon = int(batch.max_new_tokens)
    check_tokens("tokens", config.tokens, horizon)
    has_rollout = "batch_size" in algorithm.own and "rollout_buffer_class" in algorithm.parts  # else no minibatches
    return search_space(
        algorithm.known - config.hyperparams.keys() - getattr(cls, "unused", {}).keys(),
        dict(map(parse_range, config.space)),
        algo=config.algo,
        only=config.only,
        kl_coef=(config.metric != "reward" or config.kl_limit is not None) and algorithm.kl_argument == "kl_coef",
        rollout=run.n_envs * int(run.hyperparams.get("n_steps", horizon)) if has_rollout else None,
        episode=horizon,
        n_envs=run.n_envs,
    )


def _open_study(config: TuneConfig, space: dict[str, Range]) -> optuna.Study:
    """Return a new study, whose first trial has the default settings, or the earlier one if its search was the same."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=config.storage_url(),
        study_name=config.study_name,
        direction="maximize",
        load_if_exists=True,
        sampler=_sampler(config, config.seed),
        pruner={
            "median": optuna.pruners.MedianPruner(n_startup_trials=4),
            "halving": optuna.pruners.SuccessiveHalvingPruner(),
            "none": optuna.pruners.NopPruner(),
        }[config.pruner],
    )
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
    """Return the default settings, moved into their ranges. Settings that cannot be moved are left out."""
    start = describe(get_algorithm(config.algo)).defaults | resolve_config(config.run(config.seed, {})).agent_kwargs()
    moved = {name: found.nearest(start[name]) for name, found in space.items() if name in start}
    return {name: value for name, value in moved.items() if value is not None}


def _sampler(config: TuneConfig, seed: int) -> optuna.samplers.BaseSampler:
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    limit = config.kl_limit
    constraints = None if limit is None else lambda trial: [trial.user_attrs.get(KL, math.inf) - limit]
    return optuna.samplers.TPESampler(seed=seed, constraints_func=constraints)


def _objective(
    config: TuneConfig,
    space: dict[str, Range],
    trial: optuna.Trial,
    worker: list[str],
    remote: Remote | None = None,
) -> float:
    """Return the mean of the metric over a trial's seeds. If it fails, the trial keeps the cause."""
    trial.set_user_attr(WORKER, worker)
    if is_surplus(trial.study, trial.number, config.trials):
        trial.set_user_attr(SURPLUS, True)
        raise _SurplusError("other processes have begun enough trials")
    trial.study.sampler = _sampler(config, config.seed + trial.number)  # processes that start together draw others
    chosen = {name: found.suggest(trial, name) for name, found in space.items()}
    found: list[tuple[float, float, str]] = []
    try:
        for one in _trained(config, trial, chosen) if remote is None else _trained_there(config, trial, chosen, remote):
            found.append(one)
            values, kls, _ = map(list, zip(*found, strict=True))
            trial.set_user_attr(VALUES, values)
            trial.set_user_attr(KL, float(np.mean(kls)))
    except optuna.TrialPruned:
        raise
    except BaseException as error:  # also an interruption: the trial counts as failed, and the search goes on later
        trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
        raise
    return float(np.mean([metric for metric, *_ in found]))


def _trained(config: TuneConfig, trial: optuna.Trial, chosen: dict[str, Any]) -> Iterator[tuple[float, float, str]]:
    """Train a trial with each seed, and yield what `measure` says of each agent."""

    def report(step: int, metric: float, kl: float) -> None:
        if _is_pruned(trial, step, metric, kl):
            raise optuna.TrialPruned

    for index in range(config.seeds_per_trial):
        callback, name = Pruning(config, report, index), f"{trial.number:03d}"
        yield train_and_measure(config, config.seed + index, chosen, ["validation"], name, callback)["validation"]


def _trained_there(
    config: TuneConfig, trial: optuna.Trial, chosen: dict[str, Any], remote: Remote
) -> Iterator[tuple[float, float, str]]:
    """Yield the same of a trial that is trained on a cluster. It is pruned when its evaluations have come back."""
    seen: dict[int, bool] = {}

    def is_pruned(reports: list[list[float]]) -> bool:
        for step, metric, kl in reports:
            if not any(seen.values()) and int(step) not in seen:  # a trial whose node was lost reports steps again
                seen[int(step)] = _is_pruned(trial, int(step), metric, kl)
        return any(seen.values())

    seeds = [config.seed + index for index in range(config.seeds_per_trial)]
    found = remote.run(f"{trial.number:03d}", chosen, seeds, ["validation"], is_pruned)
    if found is None:
        raise optuna.TrialPruned
    yield from ((metric, kl, prompts) for metric, kl, prompts in (row["validation"] for row in found))


def _is_pruned(trial: optuna.Trial, step: int, metric: float, kl: float) -> bool:
    """Report an evaluation of a trial, and return whether the trial ends with it."""
    trial.report(metric, step)
    trial.set_user_attr(KL, kl)
    return trial.should_prune()


def train_and_measure(
    config: TuneConfig,
    seed: int,
    chosen: dict[str, Any],
    splits: Sequence[str],
    name: str,
    callback: BaseCallback | None = None,
) -> dict[str, tuple[float, float, str]]:
    """Train with chosen settings, and return what `measure` says of the agent, by split.

    Trackers get a run `<name>-seed_<seed>`, with SB3's scalars and the last metric.
    """
    run, folder = config.run(seed, chosen), config.folder() / TRIALS / f"{name}-seed_{seed}"
    if not run.trackers:
        agent = train_trial(config, seed, chosen, callback)
        return {split: measure(config, agent, split) for split in splits}
    folder.mkdir(parents=True, exist_ok=True)
    with tracking(run, folder, good=optuna.TrialPruned) as trackers:
        agent = train_trial(config, seed, chosen, callback, Logger(None, [*map(TrackerOutput, trackers)]))
        found = {split: measure(config, agent, split) for split in splits}
        for tracker in trackers:
            for split, (metric, kl, _) in found.items():
                tracker.log({f"{split}/{config.metric}": metric, f"{split}/kl": kl}, agent.num_timesteps)
    return found


def train_trial(
    config: TuneConfig,
    seed: int,
    chosen: dict[str, Any],
    callback: BaseCallback | None = None,
    output: Logger | None = None,
) -> Any:
    """Return the agent of a training with chosen settings."""
    run = resolve_config(config.run(seed, chosen))
    assert run.n_timesteps is not None
    agent = build_agent(run)
    if output is not None:
        agent.set_logger(output)
    try:
        agent.learn(run.n_timesteps, callback=callback)
    finally:
        agent.get_env().close()
    return agent


def measure(config: TuneConfig, agent: Any, split: str) -> tuple[float, float, str]:
    """Return the means of the metric and of the KL, and what the prompts are.

    Raises:
        FloatingPointError: the metric is not finite.
    """
    run = config.run(0, {})
    task = task_of(run.env_id, **run.held_out_kwargs())
    mixed = task is not None and bool(task.subtasks)
    judges: list[str] | None = []
    if (
        task is not None
        and mixed
        and (config.metric.partition("/")[0] in task.subtasks or config.metric in task.judges)
    ):
        judges = None  # the tasks' own, which judge their own episodes
    else:
        with suppress(ValueError):  # it is the reward, or a metric of the task
            get_reward(config.metric)
            judges = [config.metric]
    found = evaluate(agent, run.env_id, config.episodes, split, judges, env_kwargs=run.held_out_kwargs())
    values = found.values()[config.metric]
    metric = float(np.nanmean(values) if mixed else np.mean(values))  # tasks of a mixture have different metrics
    if not math.isfinite(metric):
        raise FloatingPointError(f"{config.metric} on {found.split} is {metric}")
    return metric, math.nan if found.kl is None else float(np.mean(found.kl)), found.prompts


class _SurplusError(Exception):
    """End a trial that is not needed."""


class Pruning(BaseCallback):
    """Evaluate a trial at equal shares of its tokens.

    Args:
        config: the search's.
        report: gets the number of each evaluation, the metric and the KL. It raises `TrialPruned` to end the trial.
        index: of the trial's seed.
    """

    def __init__(self, config: TuneConfig, report: Callable[[int, float, float], None], index: int) -> None:
        super().__init__()
        self.config, self.report, self.index = config, report, index
        self._done = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        config = self.config
        done = self.num_timesteps * config.evaluations // config.tokens
        due = min(done, config.evaluations - 1)  # the last evaluation is after training
        if due <= self._done:
            return
        self._done = due
        with isolated_generators(self.num_timesteps):
            metric, kl, _ = measure(config, self.model, "validation")
        self.report(self.index * config.evaluations + due, metric, kl)


def _trial_line(config: TuneConfig, trial: FrozenTrial) -> str:
    if SURPLUS in trial.user_attrs:
        return f"trial {trial.number}: not run, other processes have begun enough"
    value = "" if trial.value is None else f" {config.metric} {trial.value:.4f}"
    cause = f": {cause_of(trial)}" if cause_of(trial) else ""
    return f"trial {trial.number}: {trial.state.name.lower()}{value}{cause}"


def cause_of(trial: FrozenTrial) -> str:
    """Return why a trial failed; nothing if it did not."""
    return str(trial.user_attrs.get(ERROR, "its process ended" if trial.state is TrialState.FAIL else ""))


def _best(config: TuneConfig, study: optuna.Study) -> FrozenTrial:
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


def _confirm(
    config: TuneConfig, chosen: dict[str, Any], name: str = "best", remote: Remote | None = None
) -> Confirmation:
    """Train with new seeds and evaluate on both splits."""
    splits = ("validation", "test")
    seeds = [config.seed + CONFIRM_FROM + index for index in range(config.confirm_seeds)]
    if remote is None:
        found: list[Any] = [train_and_measure(config, seed, chosen, splits, name) for seed in seeds]
    else:
        found = remote.run_each({f"{name}-{seed}": (chosen, [seed], splits) for seed in seeds})
    values = {split: [row[split][0] for row in found] for split in splits}
    return Confirmation(values, [row["test"][1] for row in found], {split: found[0][split][2] for split in splits})
