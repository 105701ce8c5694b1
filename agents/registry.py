"""Algorithms by name: built in, registered at run time, or installed by third parties."""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = ["available", "check_arguments", "check_name", "get_algorithm", "known_arguments", "make", "register"]

ENTRY_POINTS = "rlhf_envs.algorithms"
_ALGORITHMS: dict[str, str] = {
    "ppo": f"{__package__}.algorithms.ppo:PPO",
    "a2c": f"{__package__}.algorithms.a2c:A2C",
    "trpo": f"{__package__}.algorithms.trpo:TRPO",
    "maskable_ppo": f"{__package__}.algorithms.maskable_ppo:MaskablePPO",
    "nlpo": f"{__package__}.algorithms.nlpo:NLPO",
    "ppo_lagrangian": f"{__package__}.algorithms.ppo_lagrangian:PPOLagrangian",
    "reinforce": f"{__package__}.algorithms.reinforce:Reinforce",
    "rloo": f"{__package__}.algorithms.rloo:RLOO",
    "grpo": f"{__package__}.algorithms.grpo:GRPO",
    "random": f"{__package__}.algorithms.baselines:Random",
    "best_of_n": f"{__package__}.algorithms.best_of_n:BestOfN",
    "sft": f"{__package__}.algorithms.sft:SFT",
    "awr": f"{__package__}.algorithms.awr:AWR",
    "online_dpo": f"{__package__}.algorithms.online_dpo:OnlineDPO",
    "dqn": f"{__package__}.algorithms.dqn:DQN",
    "qrdqn": f"{__package__}.algorithms.qrdqn:QRDQN",
    "ilql": f"{__package__}.algorithms.ilql:ILQL",
}
# Names that users look for, and why there is nothing under them.
ABSENT = {
    "recurrent_ppo": "a context is the whole history and the transformer reads all of it, so that the state of an LSTM "
    "would carry nothing more; take ppo",
}
# The arguments that an algorithm's parts are given by, and what the environment or the algorithm says of them itself.
PARTS = {
    "policy": "policy_kwargs",
    "rollout_buffer_class": "rollout_buffer_kwargs",
    "replay_buffer_class": "replay_buffer_kwargs",
}
FROM_SB3 = ("observation_space", "action_space", "lr_schedule", "use_sde", "buffer_size", "device", "n_envs")
FROM_ALGORITHM = {"gae_lambda", "gamma", "optimize_memory_usage", "handle_timeout_termination"}


def register(name: str, target: str) -> None:
    """Register an algorithm, a class with SB3's interface, as "module:Class". It is imported when it is first used.

    Raises:
        ValueError: the name is taken by another target, or the target is not of that form.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError(f"cannot register {target!r}: expected 'module:Class'")
    if _ALGORITHMS.get(name, target) != target:
        raise ValueError(f"the algorithm {name!r} is already registered, as {_ALGORITHMS[name]!r}")
    _ALGORITHMS[name] = target


def available() -> dict[str, str]:
    """All algorithms: name to "module:Class"; ours and registered ones come before entry points of the same name."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)} | _ALGORITHMS


def registered() -> dict[str, str]:
    """Ours and those given to `register`, without entry points: what another process does not find by itself."""
    return dict(_ALGORITHMS)


def check_name(name: str) -> None:
    """Check that there is one algorithm of this name. Imports neither it nor torch.

    Raises:
        ValueError: the name is unknown, and the message has the nearest and all the names; or two plugins have it.
    """
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
    """Import the class of an algorithm.

    Raises:
        ValueError: the name is unknown, see `check_name`.
        ImportError: a plugin cannot be imported; the message names distribution, entry point and cause.
    """
    check_name(name)
    for point in _plugins(name):
        return _load(point)
    module, _, attribute = _ALGORITHMS[name].partition(":")
    algorithm: type[Any] = getattr(importlib.import_module(module), attribute)
    return algorithm


def _plugins(name: str) -> list[EntryPoint]:
    """The entry points of a name; none where it is ours or registered."""
    return [] if name in _ALGORITHMS else [p for p in entry_points(group=ENTRY_POINTS) if p.name == name]


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "a distribution without a name"


def _load(point: EntryPoint) -> type[Any]:
    where = f"the algorithm {point.name!r} of {_owner(point)}, entry point {point.name} = {point.value!r}"
    try:
        algorithm = point.load()
    except Exception as error:  # whatever a third party's module does when it is imported
        raise ImportError(f"{where}, cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(algorithm, type):
        raise ImportError(f"{where}, is no class but {algorithm!r}")
    return algorithm


def make(name: str, env: Any, *, n_envs: int | None = None, seed: int | None = None, **kwargs: Any) -> Any:
    """Build an agent for a token environment.

    Args:
        name: an algorithm, see `available()`.
        env: an environment id, a Gymnasium environment or an SB3 `VecEnv`.
        n_envs: environments in the batch, where `env` is an id; 32 by default.
        seed: seeds the environments, numpy and torch.
        **kwargs: the algorithm's own arguments (by default a rollout is one episode long, and four minibatches make an
            epoch), and flat beside them those of its policy (of `TokenPolicy`: `model`, `train`, `value`,
            `temperature`, `top_k`, ...) and of its buffer (of `SequenceRolloutBuffer`: `kl_coef`, `kl_target`, ...).
            The classes of both are the defaults in the algorithm's own signature. `model` is the environment's own by
            default; where `env` is an id, the environment is made with the tokenizer of a given one.

    Returns:
        An SB3 agent; `agent.learn(total_timesteps)` counts tokens.

    Raises:
        ValueError: unknown algorithm, `batch_size` is smaller than one episode, the environment's actions are no
            tokens, or its tokenizer is not the model's.
        TypeError: an argument that nothing takes; the message has the nearest name.
    """
    check_arguments(name, kwargs)
    cls = get_algorithm(name)
    own = own_arguments(cls, "env")
    model = kwargs.pop("model", None)
    if isinstance(env, str):
        from .core.vec_env import make_vec_env

        chosen = {"model": model} if isinstance(model, str) else {}
        env = make_vec_env(env, 32 if n_envs is None else n_envs, seed=seed, **chosen)
    elif n_envs is not None:
        raise TypeError(f"n_envs={n_envs} goes with an environment's id; this one has {getattr(env, 'num_envs', 1)}")
    _check_actions(name, env)
    _warn_of_masks(name, env)
    model = _attribute(env, "model_name") if model is None else model
    kwargs = _sizes(kwargs, cls, env)
    for argument, part in _parts(cls).items():
        given = {"model": model} if argument == "policy" and "model" in _part_arguments(part) else {}
        given |= kwargs.pop(PARTS[argument], None) or {}
        given |= {key: kwargs.pop(key) for key in list(kwargs) if key in _part_arguments(part) - own}
        kwargs = {argument: part, PARTS[argument]: given, **kwargs}
    return cls(env=env, **({"seed": seed} if "seed" in own else {}), **kwargs)


def _check_actions(name: str, env: Any) -> None:
    from gymnasium import spaces

    if not isinstance(env.action_space, spaces.Discrete):
        raise ValueError(
            f"{name} writes text, one token an action, and this environment's actions are {env.action_space}: take a "
            "text environment, whose action space is Discrete(size of the vocabulary), or Stable-Baselines3 itself"
        )


def _warn_of_masks(name: str, env: Any) -> None:
    """Say where an environment masks tokens and the algorithm does not ask which."""
    from rlhf_envs.tasks import Task

    episodes = _attribute(env, "episodes")  # anything, in an environment that is not of ours
    task = getattr(episodes, "task", None)
    given = [f"{key}={value}" for key, value in getattr(episodes, "mask_options", {}).items() if value]
    if isinstance(task, Task) and type(task).action_masks is not Task.action_masks:
        given.append(f"action_masks of the task {task.name!r}")
    if given and not reads_masks(name):
        bound = " and ".join(given)
        warnings.warn(f"{name} reads no action masks, {bound} does not bind it: take maskable_ppo", stacklevel=3)


def _sizes(kwargs: dict[str, Any], cls: type[Any], env: Any) -> dict[str, Any]:
    """The arguments with `n_steps` and `batch_size` filled in from the environment's horizon.

    A `batch_size` that is None by default, all of a rollout, stays.

    Raises:
        ValueError: `batch_size` is smaller than one episode.
    """
    horizon, names = _attribute(env, "max_new_tokens"), own_arguments(cls)
    if horizon is None or "n_steps" not in names or "replay_buffer_class" in names:
        return kwargs
    sizes = {"n_steps": horizon} | kwargs
    if default_arguments(cls).get("batch_size") is not None:
        rollout = sizes["n_steps"] * getattr(env, "num_envs", 1)
        quarter = rollout // 4
        sizes = {"batch_size": quarter if rollout % 4 == 0 and quarter >= horizon else rollout} | sizes
        if sizes["batch_size"] is not None and sizes["batch_size"] < min(horizon, sizes["n_steps"]):
            raise ValueError(
                f"batch_size={sizes['batch_size']} is smaller than one episode of {horizon} tokens: minibatches are "
                f"made of whole episodes, so take at least {8 * horizon}"
            )
    return sizes


def check_arguments(name: str, arguments: Iterable[str]) -> None:
    """Check, before anything is built, that `make` knows what to do with these arguments.

    Raises:
        ValueError: the algorithm is unknown.
        TypeError: nothing takes an argument; the message has the nearest names, or all.
    """
    cls = get_algorithm(name)
    known = known_arguments(cls)
    for argument in arguments:
        if argument not in known:
            near = difflib.get_close_matches(argument, known, n=3)
            hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(sorted(known))}"
            raise TypeError(f"{name} takes no argument {argument!r}; {hint}")


def known_arguments(cls: type[Any]) -> set[str]:
    """Names of all arguments that `make` takes for an algorithm: its own, and those of its policy and buffers."""
    return own_arguments(cls, "env").union(*map(_part_arguments, _parts(cls).values()))


def default_arguments(cls: type[Any]) -> dict[str, Any]:
    """The defaults of the arguments that a class and its bases take by name, where they have one."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        parameters = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        found |= {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return {name: default for name, default in found.items() if name in own_arguments(cls)}


def _parts(cls: type[Any]) -> dict[str, type[Any]]:
    """The classes of an algorithm's policy and buffers, by the argument that takes them.

    They are the defaults of its own signature; where that has none, ours for on-policy algorithms.
    """
    from .core.policy import TokenPolicy
    from .core.rollout_buffer import SequenceRolloutBuffer  # here: names are known without the import of torch

    parts = {name: _default(cls, name) for name in PARTS if {name, PARTS[name]} <= own_arguments(cls)}
    ours: dict[str, type[Any]] = {"policy": TokenPolicy, "rollout_buffer_class": SequenceRolloutBuffer}
    return {name: found for name, part in parts.items() if (found := part or ours.get(name)) is not None}


def _default(cls: type[Any], argument: str) -> type[Any] | None:
    """The class that an algorithm takes for an argument by default, if it says so."""
    for base in cls.__mro__:
        parameters = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        if argument in parameters:
            default = parameters[argument].default
            return default if isinstance(default, type) and default is not inspect.Parameter.empty else None
    return None


def reads_masks(algorithm: str) -> bool:
    """Whether an algorithm's policy chooses under the environment's action masks."""
    try:
        policy = policy_class(get_algorithm(algorithm)) if algorithm in available() else None
    except ImportError:  # of a plugin that is gone; what it trained is a plain model
        return False
    return bool(getattr(policy, "reads_action_masks", False))


def policy_class(cls: type[Any]) -> type[Any] | None:
    """The class of an algorithm's policy where none is given; None where it says nothing of it."""
    return _parts(cls).get("policy")


def kl_argument(cls: type[Any]) -> str | None:
    """The argument that weighs the KL to the reference in an algorithm; None where nothing does."""
    name = getattr(cls, "kl_argument", "kl_coef")
    return name if name in known_arguments(cls) else None


def _part_arguments(part: type[Any]) -> set[str]:
    """The arguments of a policy or a buffer that `make` takes beside those of the algorithm."""
    return own_arguments(part, *FROM_SB3) - FROM_ALGORITHM


def own_arguments(cls: type[Any], *without: str) -> set[str]:
    """Names of the arguments that a class and its bases take by name."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self", *without}


def _attribute(env: Any, name: str) -> Any:
    """An attribute of a Gymnasium environment or of the first of a `VecEnv`, or None."""
    from stable_baselines3.common.vec_env import VecEnv

    try:
        return env.get_attr(name, 0)[0] if isinstance(env, VecEnv) else env.get_wrapper_attr(name)
    except AttributeError:
        return None
