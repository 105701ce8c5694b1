"""Plan a transfer experiment: its environments, the start that its agents share, and a run per agent and seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from rlhf_envs.models import resolve, vocabulary_fingerprint
from rlhf_envs.models.adapters import is_adapter_folder
from rlhf_envs.names import nearest
from rlhf_envs.registration import check_environment, task_of
from rlhf_envs.tasks.base import Task, WordTask
from rlhf_envs.tasks.lookup import environment_rows

from ...core.episodes import open_batch
from ...core.models import build_model
from ...evaluation.prompt_counts import count_different, warn_of_few
from ...evaluation.source import DECODING
from ...registry import Description, check_arguments, check_name, describe, get_algorithm
from ...saving.bundle import holds
from ...saving.folders import MODEL
from ...training.report import REPORT
from ...training.run import resolve_config
from ..compare.checks import check_environment_kwargs, check_tokens, horizon_of
from ..compare.plan import RunConfig, check_run_settings, check_use
from .config import ABOUT_ENVIRONMENT, TransferConfig

__all__ = [
    "START",
    "Column",
    "Plan",
    "Run",
    "check_metrics",
    "check_prompts",
    "decoding_of",
    "find_metric",
    "find_start",
    "make_start",
    "options_of",
    "plan",
    "source_mark",
    "task_in",
    "training_config",
]

START, EVALUATIONS = "start", "evaluations"
SAVES = 10  # checkpoints per run, from which an interrupted one goes on


@dataclass(frozen=True)
class Column:
    """Hold an environment that the start and every agent are evaluated on.

    Attributes:
        name: what tables call it.
        env: its id, with the module before it that the user gave.
        kwargs: its arguments, with the start as the `model` whose tokenizer it takes; without any for a task's own.
        metric: the metric that the matrix is about.
        decoding: temperature, top_k and top_p of the runs that train on it: on it all decode alike.
    """

    name: str
    env: str
    kwargs: dict[str, Any]
    metric: str
    decoding: dict[str, Any]

    @property
    def id(self) -> str:
        """Return the environment's id, without a module."""
        return self.env.rpartition(":")[2]


@dataclass(frozen=True)
class Run:
    """Hold a run that is evaluated: the start, or an agent with a seed.

    Attributes:
        experiment: the folder of the experiment.
        row: the name of its row of the matrix.
        home: the name of the environment that it trains on; "" for the start.
        seed: its seed.
        source: what is evaluated: the run's folder, or the start.
        config: how it is trained; None for the start, and for a finished run that was given.
    """

    experiment: Path
    row: str
    home: str
    seed: int
    source: str
    config: RunConfig | None = None

    @property
    def name(self) -> str:
        """Return `<row>/seed_<kk>`."""
        return f"{self.row}/seed_{self.seed:02d}"

    @property
    def place(self) -> Path:
        """Return the folder of its evaluations; beside it stand the log and the error."""
        return self.experiment / EVALUATIONS / self.row / f"seed_{self.seed:02d}"

    @property
    def error(self) -> Path:
        """Return the file that says why the run failed."""
        return self.place.with_suffix(".error.json")

    @property
    def log(self) -> Path:
        """Return the file with what the run printed."""
        return self.place.with_suffix(".log")

    def evaluation(self, column: str) -> Path:
        """Return the file of its evaluation on an environment."""
        return self.place / f"{column}.json"

    def read(self, column: str) -> dict[str, Any] | None:
        """Return its evaluation on an environment; None if there is none of the run as it is now."""
        file = self.evaluation(column)
        if not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found if found["of"] == source_mark(self.source) else None


@dataclass(frozen=True)
class Plan:
    """Hold what an experiment consists of.

    Attributes:
        algo: the algorithm of the runs.
        columns: the environments.
        rows: the names of the agents' rows, in order; of a sequence those of its steps.
        start: the start's name or folder.
        runs: the agents' runs, seed by seed; the start is `first`.
        reads_masks: whether the algorithm's policy reads action masks; then the start does too.
    """

    algo: str
    columns: list[Column]
    rows: list[str]
    start: str
    first: Run
    runs: list[Run]
    reads_masks: bool

    @property
    def reference(self) -> str | None:
        """Return the model that KL is measured to; None leaves it to the source: adapters have their base."""
        return None if is_adapter_folder(self.start) else self.start


def source_mark(source: str) -> str:
    """Return what tells a run's result from an earlier one of that folder; "" for what is no finished run."""
    report = Path(source) / REPORT
    return sha256(report.read_bytes()).hexdigest() if report.is_file() else ""


def plan(config: TransferConfig) -> Plan:
    """Return the plan of an experiment that trains its runs.

    Raises:
        ValueError, TypeError: there are too few environments, they have different vocabularies or no common start, or
            an environment, algorithm, argument or metric is unknown.
    """
    if len(config.envs) < 2:
        given = f"envs={config.envs}" if config.envs else "no environments"
        raise ValueError(f"{given}: transfer is between at least two: give --envs a,b or the folders of finished runs")
    check_name(config.algo)
    check_arguments(config.algo, config.hyperparams)
    cls = get_algorithm(config.algo)
    algorithm = describe(cls)
    if config.sequence and not getattr(algorithm.parts.get("policy"), "is_language_model", True):
        raise ValueError(
            f"sequence with algo={config.algo}: its policy is no language model, which the next could train"
        )
    entries = {config.name_of(entry): options_of(entry, config) for entry in config.envs}
    for env, kwargs in entries.values():
        check_environment_kwargs(env.rpartition(":")[2], kwargs)
    start = find_start(config.model, {name: task_in(*options) for name, options in entries.items()})
    columns = []
    for name, (env, kwargs) in entries.items():
        takes = {} if isinstance(task_in(env, kwargs), WordTask) else {"model": start}
        metric = find_metric(config, name, env, kwargs)
        resolved = resolve_config(training_config(config, name, env, kwargs, START, 0))
        check_use(name, cls, resolved)
        check_tokens("n_timesteps", resolved.n_timesteps or 0, horizon_of(env.rpartition(":")[2], kwargs))
        columns.append(Column(name, env, {**kwargs, **takes}, metric, decoding_of(algorithm, resolved.hyperparams)))
        check_prompts(config, columns[-1])
    check_metrics(config, columns)
    folder = config.path.absolute()
    start = start or str(folder / START)
    runs = [run for seed in range(config.seeds) for run in _agents(config, columns, entries, start, seed, holds(cls))]
    rows = list(dict.fromkeys(run.row for run in runs))
    return Plan(config.algo, columns, rows, start, Run(folder, START, "", 0, start), runs, algorithm.reads_masks)


def options_of(entry: str | Mapping[str, Any], config: TransferConfig) -> tuple[str, dict[str, Any]]:
    """Return the id of an environment, whose module is imported, and its arguments."""
    options = {"id": entry} if isinstance(entry, str) else dict(entry)
    env = options["id"]
    check_environment(env)
    own = {name: value for name, value in options.items() if name not in ABOUT_ENVIRONMENT}
    return env, {**config.env_kwargs, **own}


def task_in(env: str, kwargs: Mapping[str, Any]) -> Task:
    """Return the task of an environment. Raise ValueError if it has none."""
    task = task_of(env.rpartition(":")[2], **kwargs)
    if task is None:
        raise ValueError(f"{env!r} is no text environment")
    return task


def find_start(model: str | None, tasks: Mapping[str, Task]) -> str | None:
    """Return the model that all agents start from; None for a fresh one, of tasks with words of their own.

    Raises:
        ValueError: the tasks have no common start, or different vocabularies.
    """
    usual = {name: task.default_model for name, task in tasks.items() if not isinstance(task, WordTask)}
    wanted = {name: model or own for name, own in usual.items()}
    if missing := [name for name, own in wanted.items() if own is None]:
        raise ValueError(f"{missing[0]} has no model of its own to start from: give model=... (--model)")
    if len({*wanted.values()}) > 1:
        listed = ", ".join(f"{name} takes {own}" for name, own in wanted.items())
        raise ValueError(f"the environments have no common start: {listed}; give model=... (--model)")
    start = model or next(iter(wanted.values()), None)
    if start is not None:
        resolve(start)
    found = {name: task.tokenizer(wanted.get(name)) for name, task in tasks.items()}
    (first, tokenizer), *others = found.items()
    for name, other in others:
        if vocabulary_fingerprint(other) != vocabulary_fingerprint(tokenizer):
            raise ValueError(
                f"{first} and {name} have different vocabularies, of {len(tokenizer)} and {len(other)} tokens: an "
                "agent of the one has no words for the other. Give environments that take the same model, or have the "
                "same words"
            )
    return start


def find_metric(config: TransferConfig, name: str, env: str, kwargs: Mapping[str, Any]) -> str:
    """Return the metric of an environment: the one that is given, else its first judge, else the reward.

    Raises:
        ValueError: it has no such metric.
    """
    env_id = env.rpartition(":")[2]
    task = task_in(env, kwargs)
    given = config.metric.get(name, config.metric.get(env_id))
    if given is None:
        return task.judges[0] if task.judges else "reward"
    rows = environment_rows(**{"split": "train", **kwargs, "task": task})
    known = ["reward", *task.judges, *task.metric_names(rows), "kl", "length", "eos_share", "distinct_within"]
    if given not in known and not str(given).startswith("reward_"):
        raise ValueError(f"unknown metric {given!r} for {name}: {nearest(str(given), known)}")
    return str(given)


def check_metrics(config: TransferConfig, columns: Sequence[Column]) -> None:
    """Raise ValueError if a metric is given for an environment that is not there."""
    known = [name for column in columns for name in (column.name, column.id)]
    for name, metric in config.metric.items():
        if name not in known:
            raise ValueError(f"metric of {name!r}, {metric!r}: no such environment here; {nearest(name, known)}")


def decoding_of(algorithm: Description, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return the temperature, top_k and top_p of runs: their hyperparameters, else the policy's defaults."""
    policy = algorithm.parts.get("policy")
    usual = {} if policy is None else describe(policy).defaults
    found = {name: hyperparams.get(name, usual.get(name)) for name in DECODING}
    return {name: value for name, value in found.items() if value is not None}


def check_prompts(config: TransferConfig, column: Column) -> None:
    """Raise ValueError if an environment has no prompts to evaluate on, and warn if the user's data has few."""
    task = task_in(column.env, column.kwargs)
    rows = environment_rows(**{**column.kwargs, "split": config.test_split, "task": task})
    if "data" in column.kwargs and config.test_split != "train":
        warn_of_few(count_different(rows), config.test_episodes, config.test_split)


def _agents(
    config: TransferConfig,
    columns: Sequence[Column],
    entries: Mapping[str, tuple[str, dict[str, Any]]],
    start: str,
    seed: int,
    saves: bool,
) -> list[Run]:
    """Return the runs of a seed, in the order of the environments. Those of a sequence go on from each other."""
    runs, model = [], start
    for number, column in enumerate(columns, 1):
        row = f"{number}-{column.name}" if config.sequence else column.name
        given = training_config(config, row, *entries[column.name], model, seed)
        resolved = resolve_config(given)
        save_freq = max(1, (resolved.n_timesteps or 1) // SAVES) if saves else 0
        given = given.model_copy(update={"save_freq": save_freq})
        check_run_settings(given.folder(), resolved, seed)
        run = Run(config.path.absolute(), row, column.name, seed, str(given.folder()), given)
        if config.sequence:
            model = str(Path(run.source) / MODEL)
        runs.append(run)
    return runs


def training_config(
    config: TransferConfig, row: str, env: str, kwargs: Mapping[str, Any], model: str | None, seed: int
) -> RunConfig:
    """Return the configuration of a run."""
    shared = config.model_dump(
        include={"algo", "train", "n_timesteps", "n_envs", "kl_coef", "learning_rate", "hyperparams"}
        | {"test_episodes", "test_split", "device"}
    )
    words = {"model": None} if isinstance(task_in(env, kwargs), WordTask) else {}  # its vocabulary is no model's
    return RunConfig(
        **shared,
        env=env,
        env_kwargs={**kwargs, **words},
        model=model,
        seed=seed,
        log_folder=str(config.path.absolute() / row),
        run_name=f"seed_{seed:02d}",
        eval_freq=0,
        keep_checkpoints=1,
        threads=1,
        progress=False,
    )


def make_start(found: Plan) -> None:
    """Write a fresh model where a start is needed that does not exist: for tasks with words of their own."""
    folder = Path(found.start)
    if found.start != str(found.first.experiment / START) or (folder / "config.json").is_file():
        return
    batches = [open_batch(column.env, 1, **column.kwargs) for column in found.columns]
    room = max(batch.ids.shape[1] for batch in batches)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(batches[0].vocab_size, room, n_layer=2, n_embd=64, n_head=2)
    model.save_pretrained(folder)
