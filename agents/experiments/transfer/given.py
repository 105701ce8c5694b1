"""Plan a transfer experiment of finished runs, which are not trained anew."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_envs.models import resolve
from rlhf_envs.tasks.base import WordTask

from ...registry import Description, describe, get_algorithm
from ...saving.folders import CONFIG, MODEL, find_bundle, read_config
from ...training.config import TrainConfig
from ...training.report import REPORT
from ...training.run import resolve_config
from .config import TransferConfig
from .plan import (
    START,
    Column,
    Plan,
    Run,
    check_metrics,
    check_prompts,
    decoding_of,
    find_metric,
    find_start,
    options_of,
    task_in,
)
from .plan import training_config as trained_there

__all__ = ["plan_given"]

OTHER_KINDS = {"algos": "a comparison", "sequence": "a transfer experiment", "rounds": "a loop"}  # by a setting


def plan_given(config: TransferConfig) -> Plan:
    """Return the plan of an experiment of `config.runs`; `config.envs` are further environments to evaluate on.

    Raises:
        ValueError: a folder is no finished run of `rlhf train`, or the runs have one environment, different starts,
            algorithms or vocabularies, or an environment and a seed twice.
    """
    further = {config.name_of(entry): options_of(entry, config) for entry in config.envs}  # imports their modules
    saved = {run: _read_run(run, config) for run in config.runs}
    (first, like), *others = saved.items()
    for folder, other in others:
        if other.algo != like.algo:
            raise ValueError(f"{first} is of {like.algo} and {folder} of {other.algo}: give runs of one algorithm")
    homes: dict[str, TrainConfig] = {}  # one run of each environment
    home_of = {folder: _home(found, homes) for folder, found in saved.items()}
    if len(homes) < 2:
        raise ValueError(f"runs={config.runs} are all on {like.env}: transfer is between at least two environments")
    start = _common_start(saved)
    algorithm = describe(get_algorithm(like.algo))
    columns = [_column(name, run, config, algorithm) for name, run in homes.items()]
    known = [(column.id, column.kwargs) for column in columns]
    for name, (env, kwargs) in further.items():
        takes = {} if isinstance(task_in(env, kwargs), WordTask) else {"model": start}
        if (env.rpartition(":")[2], {**kwargs, **takes}) not in known:
            settings = config.model_copy(update={"algo": like.algo})
            resolved = resolve_config(trained_there(settings, name, env, kwargs, start, 0))
            columns.append(_column(name, resolved, config, algorithm))
    find_start(start, {column.name: task_in(column.env, column.kwargs) for column in columns})
    check_metrics(config, columns)
    for column in columns:
        check_prompts(config, column)
    place = config.path.absolute()
    runs = [
        Run(place, home_of[folder], home_of[folder], found.seed, str(Path(folder).absolute()))
        for folder, found in saved.items()
    ]
    _check_seeds(runs)
    runs.sort(key=lambda run: run.seed)
    return Plan(like.algo, columns, [*homes], start, Run(place, START, "", 0, start), runs, algorithm.reads_masks)


def _read_run(folder: str, config: TransferConfig) -> TrainConfig:
    """Return the configuration of a finished run. A file imports nothing that the user does not name too."""
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"there is no folder {folder}: give the folders of finished runs of rlhf train")
    raw = read_config(path) if (path / CONFIG).is_file() else {}
    if "algo" not in raw or "env" not in raw or "rounds" in raw:
        kind = next((f", but {kind}" for name, kind in OTHER_KINDS.items() if name in raw), "")
        raise ValueError(f"{folder} is no run of rlhf train{kind}: give the folders of finished runs")
    given = TrainConfig(env_kwargs=config.env_kwargs) if config.env_kwargs else TrainConfig()
    saved = TrainConfig.of_folder(path, given)
    if not (path / REPORT).is_file() or not ((path / MODEL).is_dir() or find_bundle(path) is not None):
        again = f"rlhf train --resume {shlex.quote(folder)}"
        raise ValueError(f"the run in {folder} is not finished: go on with {again}")
    return saved


def _kwargs(saved: TrainConfig) -> dict[str, Any]:
    """Return the arguments of a run's environment."""
    return {name: value for name, value in saved.held_out_kwargs().items() if value is not None}


def _home(found: TrainConfig, homes: dict[str, TrainConfig]) -> str:
    """Return the name of a run's environment, and add it to `homes` if it is new there."""
    for name, other in homes.items():
        if (found.env_id, _kwargs(found)) == (other.env_id, _kwargs(other)):
            return name
    plain = TransferConfig.name_of(found.env_id)
    number = 1 + sum(other.env_id == found.env_id for other in homes.values())
    name = plain if number == 1 else f"{plain}-{number}"
    homes[name] = found
    return name


def _common_start(saved: Mapping[str, TrainConfig]) -> str:
    """Return the model that all runs started from. Raise ValueError if it is not one."""
    starts: dict[str, str] = {}
    for folder, run in saved.items():
        start = run.model or task_in(run.env, run.env_kwargs).default_model
        if start is None:
            raise ValueError(f"{folder} started from a fresh model of its own: train the runs from one, --model FOLDER")
        starts[folder] = start
    (first, model), *others = starts.items()
    for folder, start in others:
        if Path(resolve(start)).resolve() != Path(resolve(model)).resolve():
            raise ValueError(f"{first} started from {model} and {folder} from {start}: give runs from one start")
    return model


def _column(name: str, run: TrainConfig, config: TransferConfig, algorithm: Description) -> Column:
    """Return the environment of a run."""
    kwargs = _kwargs(run)
    metric = find_metric(config, name, run.env, kwargs)
    return Column(name, run.env, kwargs, metric, decoding_of(algorithm, run.hyperparams))


def _check_seeds(runs: Sequence[Run]) -> None:
    taken: dict[tuple[str, int], str] = {}
    for run in runs:
        if (other := taken.setdefault((run.home, run.seed), run.source)) != run.source:
            raise ValueError(f"{other} and {run.source} are both on {run.home} with the seed {run.seed}: give one")
