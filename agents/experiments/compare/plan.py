"""The runs of a comparison: an arm is an algorithm with its arguments, and every arm runs with every seed."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...training.config import AGENT_FIELDS, TrainConfig
from ...training.hyperparams import default_hyperparams
from .config import CONFIG, CompareConfig

__all__ = ["Arm", "Run", "RunConfig", "plan"]

DECODING = {"temperature": 1.0, "top_k": None, "top_p": None}  # with what means "as the model has it"
FIXED = {  # what no arm has of its own
    *("env", "env_kwargs", "model", "seed", "n_timesteps", "tokens", "device", "eval_freq"),
    *("test_episodes", "test_split"),
    *DECODING,
}
SHOWN = {"log_folder", "run_name", "progress", "verbose", "threads", "save_freq", "keep_checkpoints"}  # not learned


class RunConfig(TrainConfig):
    """The configuration of a run of a comparison: that of `rlhf train`, whose folder is `<log_folder>/<run_name>`."""

    def folder(self) -> Path:
        """The run's folder."""
        assert self.run_name is not None
        return Path(self.log_folder) / self.run_name


@dataclass(frozen=True)
class Arm:
    """What is compared: an algorithm with arguments, under a name.

    Attributes:
        name: of its folder, its runs in TensorBoard and its rows: the label and, of several, the KL coefficient.
        label: as in `CompareConfig.algos`.
        arguments: of its own, by name.
        holds: whether its agents leave checkpoints to go on from.
        own_decoding: what of the comparison's decoding it cannot be told, and decodes in its own way.
    """

    name: str
    label: str
    algo: str
    kl_coef: float | None
    arguments: dict[str, Any] = field(default_factory=dict)
    holds: bool = True
    own_decoding: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """An arm with a seed, and its files in the folder of the comparison."""

    arm: Arm
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """As TensorBoard has it."""
        return f"{self.arm.name}/{self.config.run_name}"

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.config.folder()

    @property
    def result(self) -> Path:
        """What it came to; written last."""
        return self.folder / "result.json"

    @property
    def error(self) -> Path:
        """Why it failed."""
        return self.folder.parent / f"{self.config.run_name}.error.json"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder.parent / f"{self.config.run_name}.log"


def plan(config: CompareConfig) -> list[Run]:
    """All runs, seed by seed, so that a comparison that is stopped has something of every arm.

    Raises:
        ValueError, TypeError: an environment, algorithm, argument or metric is unknown, or no arm's to choose.
    """
    from rlhf_envs.registration import check_environment

    check_environment(config.env)
    if not config.algos:
        raise ValueError("algos: name the algorithms to compare, such as ppo,a2c")
    for label in config.overrides:
        if label not in config.algos:
            near = difflib.get_close_matches(label, config.algos, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"overrides of {label!r}: {hint}the comparison has {', '.join(config.algos)}")
    _check_metric(config)
    arms = [arm for label in config.algos for arm in _arms(config, label)]
    _check_arms(config, arms)
    runs = [_run(config, arm, seed) for seed in range(config.seeds) for arm in arms]
    for run in runs:
        _check_unchanged(run)
    return runs


def _check_metric(config: CompareConfig) -> None:
    from rlhf_envs.registration import task_of

    if config.metric is None or config.metric.startswith("reward_"):
        return
    task = task_of(config.env_id)
    if task is None:
        return
    known = ["reward", *getattr(task, "judges", ())]
    if config.metric not in known:
        raise ValueError(f"unknown metric {config.metric!r} for {config.env_id}: there are {', '.join(known)}")


def _check_arms(config: CompareConfig, arms: list[Arm]) -> None:
    """Refuse, before anything loads, a budget below one episode, arguments without a use and groups that do not fit."""
    import gymnasium as gym

    from rlhf_envs.registration import task_of

    from ...algorithms.common.policy_gradient import PolicyGradient
    from ...algorithms.common.text_agent import TextAgent
    from ...registry import default_arguments, get_algorithm

    kwargs = {**gym.spec(config.env_id).kwargs, **config.env_kwargs}
    task = task_of(config.env_id, **config.env_kwargs)
    horizon = int(kwargs.get("max_new_tokens") or getattr(task, "max_new_tokens", None) or 1)
    if config.tokens < horizon:
        raise ValueError(f"tokens={config.tokens} is less than one episode of {horizon}: take at least that")
    for arm in arms:
        try:
            cls = get_algorithm(arm.algo)
        except Exception:  # it does not import, and its runs will say so
            continue
        found = resolve(_run(config, arm, 0).config)
        size = found.hyperparams.get("group_size")
        if size is None and getattr(cls, "min_group_size", 1) > 1:
            size = default_arguments(cls).get("group_size")
        try:
            if issubclass(cls, TextAgent):
                cls.refuse_unused(found.agent_kwargs())
            if issubclass(cls, PolicyGradient) and size is not None:
                cls.check_groups(size, found.n_envs or 1)
        except ValueError as error:
            raise ValueError(f"{arm.name}: {error}") from error


def _arms(config: CompareConfig, label: str) -> list[Arm]:
    """The arms of a label: one, or one for each KL coefficient."""
    from ...registry import kl_argument
    from ...saving.bundle import holds

    arguments = {**config.hyperparams, **config.overrides.get(label, {})}
    algo = arguments.pop("algo", label)
    for name in arguments:
        if name in FIXED:
            raise ValueError(f"{label}: {name} is equal for all of a comparison, set it for all: {name}=...")
    cls = _find(algo, arguments.keys() - {"n_envs"})
    leash = None if cls is None else kl_argument(cls)
    if config.kl_coefs and (doubled := arguments.keys() & {leash, "kl_coef", "kl_target"}):
        raise ValueError(f"{label}: {' and '.join(sorted(doubled))} do not go with kl_coefs={config.kl_coefs}")
    if leash not in (None, "kl_coef") and 0 in config.kl_coefs:
        raise ValueError(f"{label}: kl_coefs={config.kl_coefs}: its leash is {leash}, which has to be above 0")
    held = cls is not None and holds(cls)
    own = () if cls is None else _own_decoding(config, algo, cls)
    if not config.kl_coefs or leash is None:
        return [Arm(label, label, algo, None, arguments, held, own)]
    # Names say nothing of the other arms: with more coefficients those that are finished keep theirs.
    controller = {"kl_target": None} if leash == "kl_coef" else {}
    return [
        Arm(f"{label}-kl{value}", label, algo, value, {**arguments, leash: value, **controller}, held, own)
        for value in config.kl_coefs
    ]


def _find(algo: str, arguments: Any) -> type[Any] | None:
    """The class of an algorithm, whose arguments are checked.

    None for one that is known and does not import: that is left to its runs, which fail and say why.
    """
    from ...registry import check_arguments, check_name, get_algorithm

    check_name(algo)
    try:
        cls = get_algorithm(algo)
    except Exception:  # whatever a plugin raises: the others run
        return None
    check_arguments(algo, arguments)
    return cls


def _takes(algo: str, name: str) -> bool:
    """Whether an algorithm, its policy or its buffer takes an argument; decoding only where it is the policy's."""
    from ...registry import check_arguments, get_algorithm, own_arguments

    try:
        check_arguments(algo, [name])
        return name not in DECODING or name not in own_arguments(get_algorithm(algo))
    except Exception:  # a TypeError: no; anything else: it does not import, and its runs will say so
        return False


def _own_decoding(config: CompareConfig, algo: str, cls: type[Any]) -> tuple[str, ...]:
    """What of the comparison's decoding an algorithm is not told where its policy has it otherwise."""
    from ...registry import default_arguments, policy_class

    told = default_hyperparams(config.env_id, algo).keys()
    policy = policy_class(cls)
    theirs = DECODING | ({} if policy is None else default_arguments(policy))
    return tuple(
        name
        for name, value in _decoding(config).items()
        if not (_takes(algo, name) and (name in told or value != DECODING[name])) and theirs[name] != value
    )


def _run(config: CompareConfig, arm: Arm, seed: int) -> Run:
    defaults = default_hyperparams(config.env_id, arm.algo)
    decoding = {name: value for name, value in _decoding(config).items() if _takes(arm.algo, name)}
    decoding = {name: value for name, value in decoding.items() if value != DECODING[name] or name in defaults}
    arguments = {**decoding, **arm.arguments}
    fields = {name: arguments.pop(name) for name in (*AGENT_FIELDS, "n_envs") if name in arguments}
    equal = {"model": config.model, "train": config.train, "n_envs": config.n_envs}
    hyperparams = arguments | {name: value for name, value in fields.items() if value is None}  # over the table's
    given = {
        **{name: value for name, value in equal.items() if value is not None},
        **{name: value for name, value in fields.items() if value is not None},
        "algo": arm.algo,
        "env": config.env,
        "n_timesteps": config.tokens,
        "seed": seed,
        "hyperparams": hyperparams,
        "env_kwargs": config.env_kwargs,
        "log_folder": str(config.path.absolute() / arm.name),
        "run_name": f"seed_{seed:02d}",  # names sort as text, in TensorBoard too
        "eval_freq": 0,
        "save_freq": max(1, config.tokens // config.evaluations) if arm.holds else 0,
        "keep_checkpoints": 1,
        "test_episodes": config.test_episodes,
        "test_split": config.test_split,
        "device": config.device,
        "threads": 1,
        "progress": False,
    }
    return Run(arm, seed, RunConfig(**given))


def _decoding(config: CompareConfig) -> dict[str, Any]:
    """The decoding that all have alike: what is given, or that of the environment's row for ppo."""
    shared = default_hyperparams(config.env_id, "ppo")
    given = {name: getattr(config, name) for name in DECODING}
    return {name: shared.get(name, DECODING[name]) if value is None else value for name, value in given.items()}


def _check_unchanged(run: Run) -> None:
    """Refuse to go on with a run whose settings are no more what they were.

    Raises:
        ValueError: they differ; the message says in what.
    """
    path = run.folder / CONFIG
    if not path.is_file():
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(resolve(run.config).model_dump_json())
    for name in now.keys() - SHOWN:
        if name in saved and saved[name] != now[name]:
            raise ValueError(
                f"the run in {run.folder} has {name}={saved[name]!r}, and now it would be {now[name]!r}: runs of "
                "other settings are no part of one comparison. Choose another folder, or delete that run"
            )


def resolve(config: RunConfig) -> TrainConfig:
    """The configuration as `rlhf train` resolves it; as it stands where the algorithm does not import."""
    from ...training import run as train

    try:
        return train.resolve(config)
    except ImportError:
        return config.resolved()
