"""Find algorithms by name, built-in or of your own or of installed packages, and build agents.

This module imports no torch; the class of an algorithm is imported when it is first used.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_type_hints

from gymnasium import spaces

from rlhf_envs.models.devices import find_device

from .core.arguments import check_value

__all__ = ["available", "check_arguments", "check_name", "describe", "get_algorithm", "make", "register", "registered"]

ENTRY_POINTS = "rlhf_envs.algorithms"
_BUILT_IN = {
    "ppo": "ppo:PPO",
    "a2c": "a2c:A2C",
    "trpo": "trpo:TRPO",
    "maskable_ppo": "maskable_ppo:MaskablePPO",
    "nlpo": "nlpo:NLPO",
    "ppo_lagrangian": "ppo_lagrangian:PPOLagrangian",
    "reinforce": "reinforce:Reinforce",
    "rloo": "rloo:RLOO",
    "grpo": "grpo:GRPO",
    "random": "baselines:Random",
    "best_of_n": "baselines:BestOfN",
    "sft": "sft:SFT",
    "awr": "awr:AWR",
    "online_dpo": "online_dpo:OnlineDPO",
    "dpo": "dpo:DPO",
    "kto": "kto:KTO",
    "dqn": "dqn:DQN",
    "qrdqn": "qrdqn:QRDQN",
    "ilql": "ilql:ILQL",
}
_ALGORITHMS = {name: f"{__package__}.algorithms.{target}" for name, target in _BUILT_IN.items()}
# Names that users look for, and why there is nothing under them.
ABSENT = {
    "recurrent_ppo": "a context is the whole history and the transformer reads all of it, so that the state of an LSTM "
    "would carry nothing more; take ppo"
}
# The argument that takes the class of a part (policy or buffer), and the one that takes the part's own arguments.
PARTS = {
    "policy": "policy_kwargs",
    "rollout_buffer_class": "rollout_buffer_kwargs",
    "replay_buffer_class": "replay_buffer_kwargs",
}
# A None that stands for the default of a `TextAgent`'s class.
NO_DEFAULT = (("policy", None), ("learning_rate", None))
# Arguments of a part that SB3 passes itself, or that are the algorithm's.
NOT_OF_A_PART = {
    *("observation_space", "action_space", "lr_schedule", "use_sde", "buffer_size", "device", "n_envs"),
    *("gae_lambda", "gamma", "optimize_memory_usage", "handle_timeout_termination"),
}


def register(name: str, target: str) -> None:
    """Register an algorithm, a class with SB3's interface, as "module:Class". It is imported when it is first used.

    Raises:
        ValueError: the name belongs to another target, or the target does not have that form.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError(f"cannot register {target!r}: expected 'module:Class'")
    if _ALGORITHMS.get(name, target) != target:
        raise ValueError(f"the algorithm {name!r} is already registered, as {_ALGORITHMS[name]!r}")
    _ALGORITHMS[name] = target


def available() -> dict[str, str]:
    """Return all algorithms, name to "module:Class". A registered one hides an entry point of the same name."""
    return {point.name: point.value for point in _installed()} | _ALGORITHMS


def registered() -> dict[str, str]:
    """Return the built-in algorithms, and what `register` was given, which no other process finds by itself."""
    return dict(_ALGORITHMS)


def check_name(name: str) -> None:
    """Check that exactly one algorithm has this name. Imports neither the algorithm nor torch.

    Raises:
        ValueError: the name is unknown (the message has the nearest name and all names), or two plugins have it.
    """
    if name in _ALGORITHMS:  # it hides plugins, and finding those takes a walk over everything that is installed
        return
    algorithms = available()
    if name in ABSENT and name not in algorithms:
        raise ValueError(f"there is no {name!r}: {ABSENT[name]}")
    if name not in algorithms:
        near = difflib.get_close_matches(name, algorithms, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown algorithm {name!r}: {hint}there are {', '.join(sorted(algorithms))}")
    plugins = _plugins(name)
    if len(plugins) > 1:
        owners = " and ".join(sorted(f"{_owner(point)} ({point.value})" for point in plugins))
        raise ValueError(f"the algorithm {name!r} is in {owners}: uninstall one of them")


def get_algorithm(name: str) -> type[Any]:
    """Import the class of an algorithm and return it.

    Raises:
        ValueError: the name is unknown, see `check_name`.
        ImportError: a plugin cannot be imported; the message names distribution, entry point and cause.
    """
    check_name(name)
    for point in _plugins(name):
        where = f"the algorithm {name!r} of {_owner(point)}, entry point {name} = {point.value!r}"
        try:
            algorithm = point.load()
        except Exception as error:  # whatever a third party's module does when it is imported
            raise ImportError(f"{where}, cannot be imported: {type(error).__name__}: {error}") from error
        if not isinstance(algorithm, type):
            raise ImportError(f"{where}, is no class but {algorithm!r}")
        return algorithm
    module, _, attribute = _ALGORITHMS[name].partition(":")
    built_in: type[Any] = getattr(importlib.import_module(module), attribute)
    return built_in


def _plugins(name: str) -> list[EntryPoint]:
    """Return the entry points of a name; none if the name is registered."""
    return [] if name in _ALGORITHMS else [point for point in _installed() if point.name == name]


def _installed() -> tuple[EntryPoint, ...]:
    """Return the entry points of installed packages. They are looked for again when a folder of the path changes."""
    folders = ((folder, os.stat(folder or ".").st_mtime_ns) for folder in sys.path if os.path.exists(folder or "."))
    return _find_installed(tuple(folders))


@lru_cache(maxsize=1)  # a walk over everything that is installed, 6 ms, and a run asks a dozen times
def _find_installed(folders: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "a distribution without a name"


@dataclass(frozen=True)
class Description:
    """Hold what `describe` finds out about a class. `parts` and `of_part` have the keys of `PARTS`."""

    own: frozenset[str]  # names of the arguments of the class itself
    defaults: dict[str, Any]  # the values of its own arguments where none are given
    parts: dict[str, type[Any]]  # the classes of its policy and buffers
    of_part: dict[str, frozenset[str]]  # names of the arguments that each of these classes takes
    known: frozenset[str]  # names of all arguments that `make` takes
    kl_argument: str | None  # the argument that weighs the KL to the reference; None if none does
    hints: dict[str, Any]  # the types of all arguments, as far as they are known
    reads_masks: bool  # whether its policy chooses tokens under the environment's action masks


MINIBATCHES = "You have specified a mini-batch size"  # how SB3's warning of minibatches that are cut begins
PLAIN = (int, float, str, type(None))
NOT_OF_LEARNING = {
    *("_init_setup_model", "device", "env", "monitor_wrapper", "policy_kwargs", "replay_buffer_kwargs"),
    *("rollout_buffer_kwargs", "sde_sample_freq", "seed", "stats_window_size", "support_multi_env", "tensorboard_log"),
    *("use_sde", "verbose"),
}
_DESCRIPTIONS: dict[type[Any], Description] = {}  # kept, because saving asks for one per rollout


def describe(cls: type[Any]) -> Description:
    """Describe the arguments of an algorithm's class, or of any other, from its signature and its `defaults`.

    The policy and buffer of an algorithm are the default values of the arguments that take them. A class without such
    defaults, as a stock SB3 algorithm, gets `TokenPolicy` and `SequenceRolloutBuffer`.
    """
    if cls not in _DESCRIPTIONS:
        _DESCRIPTIONS[cls] = _describe(cls)
    return _DESCRIPTIONS[cls]


def plain_defaults(cls: type[Any]) -> dict[str, Any]:
    """Return the defaults of an algorithm that are numbers, texts or None and say how it learns."""
    defaults = describe(cls).defaults.items()
    return {name: value for name, value in defaults if isinstance(value, PLAIN) and name not in NOT_OF_LEARNING}


def _describe(cls: type[Any]) -> Description:
    from .core.policy import TokenPolicy
    from .core.rollout_buffer import SequenceRolloutBuffer

    own, defaults = _arguments(cls)
    fallback: dict[str, Any] = {"policy": TokenPolicy, "rollout_buffer_class": SequenceRolloutBuffer}
    parts: dict[str, type[Any]] = {}
    for name, part_kwargs in PARTS.items():
        part = default if isinstance(default := defaults.get(name), type) else fallback.get(name)
        if part is not None and {name, part_kwargs} <= own:
            parts[name] = part
    of_part = {name: _arguments(part)[0] - NOT_OF_A_PART for name, part in parts.items()}
    known = own.union(*of_part.values()) - {"env"}
    weight = getattr(cls, "kl_argument", "kl_coef")
    hints = {name: hint for part in (*parts.values(), cls) for name, hint in _hints(part).items()}
    reads_masks = bool(getattr(parts.get("policy"), "reads_action_masks", False))
    return Description(own, defaults, parts, of_part, known, weight if weight in known else None, hints, reads_masks)


def _arguments(cls: type[Any]) -> tuple[frozenset[str], dict[str, Any]]:
    """Return the names of the arguments that a class and its bases take, and the defaults."""
    names: set[str] = set()
    defaults: dict[str, Any] = {}
    for base in cls.__mro__[:-1]:
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values() if "__init__" in vars(base) else ()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        signature = {p.name: p.default for p in parameters if p.default is not p.empty}
        signature = {name: default for name, default in signature.items() if (name, default) not in NO_DEFAULT}
        defaults = signature | vars(base).get("defaults", {}) | defaults
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    names.discard("self")
    return frozenset(names), {name: default for name, default in defaults.items() if name in names}


def _hints(cls: type[Any]) -> dict[str, Any]:
    """Return the types of the arguments of a class and its bases; an argument of a class comes before its bases'."""
    hints: dict[str, Any] = {}
    for base in cls.__mro__[:-1]:
        with suppress(NameError):  # a type that is imported for type checkers only
            own = vars(base).get("__init__")
            # SB3's alias of environments names VecEnv in modules that do not import it.
            hints = ({} if own is None else get_type_hints(own, localns={"VecEnv": Any})) | hints
    return hints


def check_arguments(name: str, arguments: Iterable[str] | Mapping[str, Any]) -> None:
    """Check, before anything is built, that `make` takes these arguments (and values) for an algorithm.

    Raises:
        ValueError: the algorithm is unknown, or a value is outside its range.
        TypeError: an argument is unknown, with the nearest names or all; or a value has another type.
    """
    description = describe(get_algorithm(name))
    known = description.known
    for argument in arguments:
        if argument not in known:
            near = difflib.get_close_matches(argument, known, n=3)
            hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(sorted(known))}"
            raise TypeError(f"{name} takes no argument {argument!r}; {hint}")
        if isinstance(arguments, Mapping) and argument in description.hints:
            value = arguments[argument]
            if value is not None or description.defaults.get(argument) is not None:
                check_value(argument, value, description.hints[argument])


def make(name: str, env: Any, *, n_envs: int | None = None, seed: int | None = None, **kwargs: Any) -> Any:
    """Build an agent for a token environment.

    Args:
        name: an algorithm, see `available()`.
        env: an environment id, a Gymnasium environment or an SB3 `VecEnv`.
        n_envs: environments in the batch if `env` is an id; 32 by default.
        seed: seeds the environments, numpy and torch.
        **kwargs: arguments of the algorithm, of its policy (of `TokenPolicy`: `model`, `train`, `value`, `temperature`,
            `top_k`, ...) and of its buffer (of `SequenceRolloutBuffer`: `kl_coef`, `kl_target`, ...), all flat. By
            default a rollout is one episode long, an epoch has four minibatches, and `model` is the environment's. If
            `env` is an id, the environment gets the tokenizer of the given model.

    Returns:
        An SB3 agent; `agent.learn(total_timesteps)` counts tokens.

    Raises:
        ValueError: the algorithm is unknown, `batch_size` is smaller than one episode, the environment's actions are
            not tokens, its tokenizer is not the model's, `sft_data` cannot be learned, or the device is not here.
        FileNotFoundError: there is no file `sft_data`.
        TypeError: an argument is unknown; the message has the nearest name.
    """
    check_arguments(name, kwargs)
    cls = get_algorithm(name)
    find_device(kwargs.get("device", "auto"))  # SB3 takes the CPU instead
    description = describe(cls)
    model = kwargs.pop("model", None)
    from .core.supervised import open_data
    from .core.vec_env import make_vec_env, score_by_rollout

    if isinstance(env, str):
        chosen: dict[str, Any] = {"model": model} if isinstance(model, str) else {}
        env = make_vec_env(env, 32 if n_envs is None else n_envs, seed=seed, **chosen)
    elif n_envs is not None:
        raise TypeError(f"n_envs={n_envs} goes with an environment's id; this one has {getattr(env, 'num_envs', 1)}")
    if not isinstance(env.action_space, spaces.Discrete):
        raise ValueError(
            f"{name} writes text, one token an action, and this environment's actions are {env.action_space}: take a "
            "text environment, whose action space is Discrete(size of the vocabulary), or Stable-Baselines3 itself"
        )
    if not description.reads_masks:
        _warn_of_masks(name, env)
    score_by_rollout(env)
    model = _attribute(env, "model_name") if model is None else model
    kwargs = _sizes(kwargs, description, env)
    for argument, part in description.parts.items():
        takes = description.of_part[argument]
        given = {"model": model} if argument == "policy" and "model" in takes else {}
        given |= kwargs.pop(PARTS[argument], None) or {}
        given |= {key: kwargs.pop(key) for key in list(kwargs) if key in takes - description.own}
        kwargs = {argument: part, PARTS[argument]: given, **kwargs}
    with warnings.catch_warnings():  # of stock buffers: ours make minibatches of whole episodes, and cut none
        warnings.filterwarnings("ignore", MINIBATCHES)
        agent = cls(env=env, **({"seed": seed} if "seed" in description.own else {}), **kwargs)
    open_data(agent)
    return agent


def _warn_of_masks(name: str, env: Any) -> None:
    """Warn that an algorithm does not read the environment's action masks, if it has any."""
    from rlhf_envs.tasks import Task

    episodes = _attribute(env, "episodes")  # may be anything in an environment of somebody else's
    task = getattr(episodes, "task", None)
    given = [f"{key}={value}" for key, value in getattr(episodes, "mask_options", {}).items() if value]
    for one in (task, *task.subtasks.values()) if isinstance(task, Task) else ():
        if one.masks_bind and one.has_masks:
            given.append(f"action_masks of the task {one.name!r}")
    if given:
        masks = " and ".join(given)
        warnings.warn(f"{name} reads no action masks, {masks} does not bind it: take maskable_ppo", stacklevel=3)


def _sizes(kwargs: dict[str, Any], description: Description, env: Any) -> dict[str, Any]:
    """Return the arguments with `n_steps` and `batch_size` filled in from the environment's horizon.

    A `batch_size` that is None by default (all of a rollout) stays. Raise ValueError for less than an episode.
    """
    horizon = _attribute(env, "max_new_tokens")
    if horizon is None or "n_steps" not in description.own or "replay_buffer_class" in description.own:
        return kwargs
    sizes = {"n_steps": horizon} | kwargs
    if description.defaults.get("batch_size") is not None:
        rollout = sizes["n_steps"] * getattr(env, "total_envs", getattr(env, "num_envs", 1))
        quarter = rollout // 4
        sizes = {"batch_size": quarter if rollout % 4 == 0 and quarter >= horizon else rollout} | sizes
        if sizes["batch_size"] is not None and sizes["batch_size"] < min(horizon, sizes["n_steps"]):
            raise ValueError(
                f"batch_size={sizes['batch_size']} is smaller than one episode of {horizon} tokens: minibatches are "
                f"made of whole episodes, so take at least {8 * horizon}"
            )
    return sizes


def _attribute(env: Any, name: str) -> Any:
    """Return an attribute of a Gymnasium environment, or of the first in a `VecEnv`; None without it."""
    from stable_baselines3.common.vec_env import VecEnv

    try:
        return env.get_attr(name, 0)[0] if isinstance(env, VecEnv) else env.get_wrapper_attr(name)
    except AttributeError:
        return None
