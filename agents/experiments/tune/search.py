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
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from rlhf_envs.registration import check_environment, task_of
from rlhf_envs.rewards import get_reward
from rlhf_envs.tasks import Task

from ...core.episodes import open_batch
from ...core.random_state import isolated_generators
from ...evaluation.evaluate import evaluate, find_judges
from ...evaluation.statistics import Estimate, bootstrap_mean
from ...registry import check_arguments, describe, get_algorithm
from ...saving.locks import locked
from ...training.building import build_agent
from ...training.run import resolve_config
from ...training.trackers import TrackerOutput, check_trackers, tracking
from ..cluster.jobs import check_ray, on_cluster
from ..compare.checks import check_tokens
from .checks import check_search
from .config import TuneConfig
from .remote import TRIALS, Remote
from .space import Range, parse_range, search_space
from .study import ERROR, KL, VALUES, best_trial, choose_sampler, nearest_to_default, open_study, trial_line
from .workers import SURPLUS, WORKER, counted, is_surplus, requeue_stale_trials, signature

__all__ = ["Confirmation", "Pruning", "TuneResult", "train_and_measure", "tune"]

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
    say(f"a trial trains for {check_search(config, nearest_to_default(config, space))}")
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
        study = open_study(config, space)
        requeue_stale_trials(study, say)
        trials = _Trials(config, space, say, worker, remote)
        if remote is None:
            trials.run(study)
        else:
            trials.run_together(remote, n)
    if running := [str(trial.number) for trial in counted(study) if trial.state is TrialState.RUNNING]:
        say(f"still running elsewhere, and not in this report: trial {', '.join(running)}")
    best = best_trial(config, study)
    run = resolve_config(config.run(config.seed, best.params))
    settings = {"n_timesteps": run.n_timesteps, "n_envs": run.n_envs, **run.agent_kwargs()}
    confirmed = defaults = None
    if config.confirm_seeds:
        say(f"confirming trial {best.number} and the default settings with {config.confirm_seeds} new seeds each")
        settings_of = {"best": best.params, "defaults": {}}
        confirmed, defaults = (_confirm(config, chosen, name, remote) for name, chosen in settings_of.items())
    return TuneResult(config, space, study, best, settings, confirmed, defaults)


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


@dataclass(frozen=True)
class _Trials:
    """Run the trials of a search, here or on a cluster."""

    config: TuneConfig
    space: dict[str, Range]
    say: Callable[[str], None]
    worker: list[str]  # signs the trials
    remote: Remote | None

    def run(self, study: optuna.Study) -> None:
        """Run one trial after the other until there are enough, with those of others that share the study."""
        while sum(trial.state is not TrialState.WAITING for trial in counted(study)) < self.config.trials:
            study.optimize(
                self._objective,
                n_trials=1,
                catch=(Exception,),  # the table of trials has the cause
                callbacks=[lambda study, trial: self.say(trial_line(self.config, trial))],
            )

    def run_together(self, remote: Remote, n: int) -> None:
        """Run trials on a cluster, `n` at a time: a thread for each shares the study as a process of its own would.

        Raises:
            KeyboardInterrupt: the trials under way have been ended.
        """
        with ThreadPoolExecutor(n) as pool:  # a study's sampler is its thread's own
            futures = [pool.submit(lambda: self.run(open_study(self.config, self.space))) for _ in range(n)]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                remote.stop()
                raise

    def _objective(self, trial: optuna.Trial) -> float:
        """Return the mean of the metric over a trial's seeds. If it fails, the trial keeps the cause."""
        config = self.config
        trial.set_user_attr(WORKER, self.worker)
        if is_surplus(trial.study, trial.number, config.trials):
            trial.set_user_attr(SURPLUS, True)
            raise _SurplusError("other processes have begun enough trials")
        # Processes that start together draw others.
        trial.study.sampler = choose_sampler(config, config.seed + trial.number)
        chosen = {name: found.suggest(trial, name) for name, found in self.space.items()}
        found: list[tuple[float, float, str]] = []
        try:
            for one in self._trained(trial, chosen):
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

    def _trained(self, trial: optuna.Trial, chosen: dict[str, Any]) -> Iterator[tuple[float, float, str]]:
        """Train a trial with each seed, and yield what `measure` says of each agent."""
        name, seeds = f"{trial.number:03d}", [self.config.seed + index for index in range(self.config.seeds_per_trial)]
        if self.remote is not None:
            yield from _trained_there(self.remote, trial, name, chosen, seeds)
            return

        def report(step: int, metric: float, kl: float) -> None:
            if _is_pruned(trial, step, metric, kl):
                raise optuna.TrialPruned

        for index, seed in enumerate(seeds):
            callback = Pruning(self.config, report, index)
            yield train_and_measure(self.config, seed, chosen, ["validation"], name, callback)["validation"]


def _trained_there(
    remote: Remote, trial: optuna.Trial, name: str, chosen: dict[str, Any], seeds: list[int]
) -> Iterator[tuple[float, float, str]]:
    """Yield the same of a trial that is trained on a cluster. It is pruned when its evaluations have come back."""
    seen: dict[int, bool] = {}

    def is_pruned(reports: list[list[float]]) -> bool:
        for step, metric, kl in reports:
            if not any(seen.values()) and int(step) not in seen:  # a trial whose node was lost reports steps again
                seen[int(step)] = _is_pruned(trial, int(step), metric, kl)
        return any(seen.values())

    found = remote.run(name, chosen, seeds, ["validation"], is_pruned)
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
    judges = _judges_for(config.metric, task)
    found = evaluate(agent, run.env_id, config.episodes, split, judges, env_kwargs=run.held_out_kwargs())
    values = found.values()[config.metric]
    mixed = task is not None and task.subtasks  # tasks of a mixture have different metrics
    metric = float(np.nanmean(values) if mixed else np.mean(values))
    if not math.isfinite(metric):
        raise FloatingPointError(f"{config.metric} on {found.split} is {metric}")
    return metric, math.nan if found.kl is None else float(np.mean(found.kl)), found.prompts


def _judges_for(metric: str, task: Task | None) -> list[str] | None:
    """Return the judges that give a metric: none if it is the reward or the task's, None for those of the task."""
    if task is not None and task.subtasks and (metric.partition("/")[0] in task.subtasks or metric in task.judges):
        return None  # the tasks' own, which judge their own episodes
    try:
        get_reward(metric)
    except ValueError:
        return []
    return [metric]


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
