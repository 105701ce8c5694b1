"""Plan the runs of a comparison, each an algorithm with its settings (an arm) and a seed; read what became of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_envs.names import nearest
from rlhf_envs.registration import check_environment, task_of

from ...algorithms.common.policy_gradient import PolicyGradient
from ...algorithms.common.text_agent import TextAgent
from ...registry import check_arguments, check_name, describe, get_algorithm
from ...saving.bundle import holds
from ...saving.folders import read_config
from ...training.config import AGENT_FIELDS, TrainConfig
from ...training.hyperparams import default_hyperparams
from ...training.progress import rollout_of
from ...training.run import resolve_config
from .checks import check_shared
from .config import CompareConfig

__all__ = [
    "Arm",
    "Outcome",
    "Run",
    "RunConfig",
    "check_run_settings",
    "check_use",
    "judges_of",
    "plan",
    "read_outcomes",
]

DECODING = {"temperature": 1.0, "top_k": None, "top_p": None}  # the values that change nothing
# Settings that a run has from the comparison; of them an arm may set `train` and `n_envs`.
SHARED = {"env", "env_kwargs", "model", "train", "n_envs", "test_episodes", "test_split", "device"}
FIXED = (SHARED - {"train", "n_envs"}) | {"seed", "n_timesteps", "tokens", "eval_freq", *DECODING}  # equal for all arms
SAME = {"eval_freq": 0, "keep_checkpoints": 1, "threads": 1, "progress": False}  # of all runs of all comparisons
# Settings that do not change what a run learns.
SHOWN = {"log_folder", "run_name", "progress", "verbose", "threads", "save_freq", "keep_checkpoints"}
SHOWN |= {"wandb", "tracker", "project"}


class RunConfig(TrainConfig):
    """Hold the configuration of one run, as `rlhf train` has it, with the folder `<log_folder>/<run_name>`."""

    def folder(self) -> Path:
        return Path(self.log_folder) / str(self.run_name)

    @property
    def tracker_folder(self) -> Path:
        return Path(self.log_folder).parent  # the comparison's


@dataclass(frozen=True)
class Arm:
    """Hold one arm of a comparison, resolved: an algorithm with all that its runs share.

    Attributes:
        name: the name of its folder and its rows: the label and, if there are several, the KL coefficient.
        label: the name in `CompareConfig.algos`; `algo` is the name of the algorithm.
        kl_coef: the coefficient from `CompareConfig.kl_coefs`; None if the arm has its own.
        own_decoding: the comparison's decoding settings that the algorithm does not take and has another value for.
        config: the configuration of its runs, except for seed and run name.
        resolved: the same with the defaults of `rlhf train` filled in, as a finished run saves it.
    """

    name: str
    label: str
    algo: str
    kl_coef: float | None
    own_decoding: tuple[str, ...]
    config: RunConfig
    resolved: TrainConfig

    def rollout(self, horizon: int) -> int:
        """Return the tokens of a rollout, with episodes of `horizon` tokens; 1 if the algorithm cannot be imported."""
        try:
            return rollout_of(self.resolved, horizon)
        except Exception:  # whatever a plugin raises, whose runs fail
            return 1


@dataclass(frozen=True)
class Run:
    """Hold an arm with a seed, and name its files in the folder of the comparison."""

    arm: Arm
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """Return `<arm>/seed_<kk>`, the name in TensorBoard."""
        return f"{self.arm.name}/{self.config.run_name}"

    @property
    def folder(self) -> Path:
        return self.config.folder()

    @property
    def result(self) -> Path:
        """Return the file with the run's evaluations. It is written last: a run that has it is finished."""
        return self.folder / "result.json"

    @property
    def error(self) -> Path:
        """Return the file that says why the run failed."""
        return self.folder.with_suffix(".error.json")

    @property
    def log(self) -> Path:
        """Return the file with what the run printed."""
        return self.folder.with_suffix(".log")


@dataclass(frozen=True)
class Outcome:
    """Hold what became of a run: its `result.json` (empty if it has not finished), and an error if it failed."""

    run: Run
    result: dict[str, Any]
    error: str | None

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluations of a finished run, by step, see `Tracker.records`."""
        return list(self.result["evaluations"])

    def curve(self, name: str) -> dict[int, float]:
        """Return a metric by step."""
        return {e["step"]: e["estimates"][name]["mean"] for e in self.evaluations if name in e["estimates"]}

    def series(self, name: str) -> list[tuple[float, float, float]]:
        """Return tokens, seconds and a metric of every evaluation that has it."""
        there = [e for e in self.evaluations if name in e["estimates"]]
        return [(e["tokens"], e["seconds"], e["estimates"][name]["mean"]) for e in there]

    def last(self) -> dict[str, float]:
        """Return all metrics at the end."""
        return {name: estimate["mean"] for name, estimate in self.evaluations[-1]["estimates"].items()}


def read_outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """Return what became of runs, from their files."""
    outcomes = []
    for run in runs:
        result, error = (json.loads(f.read_text("utf-8")) if f.is_file() else {} for f in (run.result, run.error))
        outcomes.append(Outcome(run, result, None if result else error.get("error")))
    return outcomes


def plan(config: CompareConfig) -> list[Run]:
    """Return all runs, seed by seed, so that a comparison that is stopped early has runs of every arm.

    Raises:
        ValueError, TypeError: an environment, algorithm, argument or metric is unknown, an arm sets what is equal for
            all, or the folder has a run with other settings.
    """
    check_environment(config.env)
    if not config.algos:
        raise ValueError("algos: name the algorithms to compare, such as ppo,a2c")
    for label in config.overrides:
        if label not in config.algos:
            raise ValueError(f"overrides of {label!r}: {nearest(label, config.algos)}")
    check_shared(config)
    if config.prune and config.seeds < 3:
        raise ValueError(f"prune with seeds={config.seeds}: an arm is pruned after two seeds or later; take 3 or more")
    arms = [arm for label in config.algos for arm in _arms(config, label)]
    seeds = [{"seed": seed, "run_name": f"seed_{seed:02d}"} for seed in range(config.seeds)]  # names that sort as text
    runs = [Run(arm, seed, arm.config.model_copy(update=own)) for seed, own in enumerate(seeds) for arm in arms]
    for run in runs:
        check_run_settings(run.folder, run.arm.resolved, run.seed)
    return runs


def judges_of(env_id: str, env_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the judges of an environment's task."""
    return tuple(getattr(task_of(env_id, **env_kwargs), "judges", ()))


def _arms(config: CompareConfig, label: str) -> list[Arm]:
    """Return the arms of a label: one, or one per KL coefficient."""
    arguments = {**config.hyperparams, **config.overrides.get(label, {})}
    algo = arguments.pop("algo", label)
    for name in arguments:
        if name in FIXED:
            raise ValueError(f"{label}: {name} is equal for all of a comparison, set it for all: {name}=...")
    part = {} if config.train is None else {"train": config.train}
    cls = _find(algo, {name: value for name, value in {**part, **arguments}.items() if name != "n_envs"})
    weight = None if cls is None else describe(cls).kl_argument
    if config.kl_coefs and (doubled := arguments.keys() & {weight, "kl_coef", "kl_target"}):
        raise ValueError(f"{label}: {' and '.join(sorted(doubled))} do not go with kl_coefs={config.kl_coefs}")
    if weight not in (None, "kl_coef") and 0 in config.kl_coefs:
        raise ValueError(f"{label}: kl_coefs={config.kl_coefs}: {weight} weighs its KL penalty, and has to be above 0")
    decoding, own = _decoding(config, algo, cls)

    def arm(name: str, kl_coef: float | None, kl: dict[str, Any]) -> Arm:
        given = _run_config(config, name, algo, {**decoding, **arguments, **kl}, cls is not None and holds(cls))
        resolved = given.resolved() if cls is None else resolve_config(given)
        if cls is not None:
            check_use(name, cls, resolved)
        return Arm(name, label, algo, kl_coef, own, given, resolved)

    if not config.kl_coefs or weight is None:
        return [arm(label, None, {})]
    # A name says nothing about the other arms: with more coefficients, finished arms keep their names.
    controller = {"kl_target": None} if weight == "kl_coef" else {}
    return [arm(f"{label}-kl{value}", value, {weight: value, **controller}) for value in config.kl_coefs]


def _find(algo: str, arguments: Mapping[str, Any]) -> type[Any] | None:
    """Return the class of an algorithm, with its arguments checked; None if it cannot be imported: its runs fail."""
    check_name(algo)
    try:
        cls = get_algorithm(algo)
    except Exception:  # whatever a plugin raises
        return None
    check_arguments(algo, arguments)
    return cls


def _decoding(config: CompareConfig, algo: str, cls: type[Any] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the decoding arguments that an algorithm gets, and the names of those in which it differs.

    All arms decode alike: as the comparison says, or as the environment's settings for ppo do. An algorithm gets what
    its policy takes. An argument in the algorithm's own signature is left to the algorithm.
    """
    if cls is None:
        return {}, ()
    shared, own = default_hyperparams(config.env_id, "ppo"), default_hyperparams(config.env_id, algo)
    given = config.model_dump(include=set(DECODING), exclude_none=True)
    wanted = {name: given.get(name, shared.get(name, usual)) for name, usual in DECODING.items()}
    algorithm = describe(cls)
    takes = algorithm.known - algorithm.own
    told = {name: value for name, value in wanted.items() if name in takes and (value != DECODING[name] or name in own)}
    policy = algorithm.parts.get("policy")
    theirs = DECODING | ({} if policy is None else describe(policy).defaults)
    return told, tuple(name for name, value in wanted.items() if name not in told and theirs[name] != value)


def _run_config(config: CompareConfig, name: str, algo: str, arguments: dict[str, Any], saves: bool) -> RunConfig:
    """Return the configuration of an arm's runs, which leave checkpoints if `saves`. None turns a default off."""
    fields = {name: arguments.pop(name) for name in (*AGENT_FIELDS, "n_envs") if name in arguments}
    hyperparams = arguments | {name: value for name, value in fields.items() if value is None}
    given = config.model_dump(include=SHARED) | {name: value for name, value in fields.items() if value is not None}
    folder, save_freq = config.path.absolute() / name, max(1, config.tokens // config.evaluations) if saves else 0
    given |= {"n_timesteps": config.tokens, "log_folder": str(folder), "save_freq": save_freq, **SAME}
    given |= {"tracker": config.tracker, "project": config.project}
    return RunConfig(**given, algo=algo, hyperparams=hyperparams)


def check_use(name: str, cls: type[Any], resolved: TrainConfig) -> None:
    """Raise ValueError, before anything loads, for arguments without a use and for groups that do not fit."""
    size = resolved.hyperparams.get("group_size")
    if size is None and getattr(cls, "min_group_size", 1) > 1:
        size = describe(cls).defaults.get("group_size")
    try:
        if issubclass(cls, TextAgent):
            cls.refuse_unused(resolved.agent_kwargs())
        if issubclass(cls, PolicyGradient) and size is not None:
            cls.check_groups(size, resolved.n_envs or 1)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_run_settings(folder: Path, resolved: TrainConfig, seed: int) -> None:
    """Raise ValueError if the run in a folder was started with other settings."""
    saved = read_config(folder)
    now = json.loads(resolved.model_dump_json()) | {"seed": seed}
    for name in (now.keys() & saved.keys()) - SHOWN:
        if saved[name] != now[name]:
            raise ValueError(
                f"the run in {folder} has {name}={saved[name]!r}, and now it would be {now[name]!r}: all runs of an "
                "experiment have the same settings. Choose another folder, or delete that run"
            )
