"""Load agents from bundles (`agents.saving.bundle`), and from SB3's zips if they are trusted."""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors.numpy import load_file as load_arrays

from rlhf_envs.files import BundleError
from rlhf_envs.models import has_tokenizer, load_tokenizer
from rlhf_envs.models.adapters import check_base, find_base
from rlhf_envs.models.devices import find_device

from ..core.base_policy import LanguageModelPolicy
from ..core.observations import PIXELS
from ..core.policy import TokenPolicy
from ..core.random_state import set_generators
from ..core.vec_env import score_by_rollout
from ..registry import MINIBATCHES, available, describe, get_algorithm
from .bundle import MODEL, OPTIMIZER, POLICY, STATE, read
from .description import reported
from .encoding import NAMED_CLASSES, decode
from .environment import remake_env
from .folders import DESCRIPTION, read_config
from .tensors import build_network, known_model, load_optimizer, load_state, put_adapters

__all__ = ["load", "load_policy", "load_weights", "run_algorithm"]

logger = logging.getLogger(__name__)

MAX_RATIO = 20  # bytes of a zip once unpacked, per byte of the zip
SERVER = ("engine", "engine_kwargs")  # a bundle's word for a server is not taken, see `PolicyGradient.set_engine`
NESTED = ("policy_kwargs", "rollout_buffer_kwargs", "replay_buffer_kwargs")  # overrides replace single entries


def load(
    path: str | Path,
    env: Any = None,
    *,
    algorithm: type[Any] | str | None = None,
    trust_pickle: bool = False,
    **overrides: Any,
) -> Any:
    """Load an agent. `agent.learn(n, reset_num_timesteps=False)` then trains for n more tokens, as if never stopped.

    The global generators of torch, NumPy and Python are set to their saved states, so load last. If the learning rate
    or the clip range changes over a run, n has to be what was left of the run.

    Args:
        path: a bundle's folder; or an SB3 zip, with `trust_pickle`.
        env: the environment; by default one like the one that was saved. It goes on in the middle of its episodes.
        algorithm: the agent's class or registered name, if the bundle does not know it; for a zip, if it lies in no
            run's folder.
        trust_pickle: load an SB3 zip. It holds pickles, which can run any code: set this only for files of your own.
        **overrides: arguments of the algorithm that replace the saved ones, such as `learning_rate` or `device`;
            `policy_kwargs`, `rollout_buffer_kwargs` and `replay_buffer_kwargs` replace the entries that they name.

    Raises:
        BundleError: the bundle is damaged.
        ValueError: something that cannot be in a bundle has to be passed; the message says what and how.
    """
    path = Path(path)
    if path.is_file():
        return _load_zip(path, env, algorithm, trust_pickle, overrides)
    folder, description = read(path)
    values, arrays = description["values"], _load_arrays(folder)
    cls = _algorithm(description["algorithm"], algorithm)
    device = description["device"]
    here = device == "cpu" or (device == "cuda" and torch.cuda.is_available())
    device = overrides.pop("device", device if here else "auto")
    find_device(device)
    _check_names(values["attributes"], overrides, cls)
    with reported(folder / DESCRIPTION):
        attributes = _attributes(values["attributes"], arrays, overrides)
    if attributes.get("tensorboard_log") is not None and "tensorboard_log" not in overrides:
        message = "the agent does not log to %r, which its bundle names: agents.load(..., tensorboard_log=...) does"
        logger.warning(message, attributes["tensorboard_log"])
        attributes["tensorboard_log"] = None
    env = _environment(description, env, folder)
    with reported(folder / DESCRIPTION):
        agent = _build(cls, env, device, attributes, description["model"], folder)
    supervised = getattr(agent.policy, "sft", None)
    if supervised is not None and "sft_data" not in (overrides.get("policy_kwargs") or {}):
        supervised.named_by = str(folder)
    _load_weights(agent.policy, folder, description)
    with reported(folder / OPTIMIZER):
        load_optimizer(agent.policy.optimizer, folder / OPTIMIZER, decode(values["optimizer"], arrays, "optimizer"))
    with reported(folder / DESCRIPTION):
        _continue_episodes(agent, decode({k: values[k] for k in ("env_state", "buffer_state")}, arrays))
        set_generators(decode(values["generators"], arrays))
    return agent


def _load_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a bundle."""
    with reported(folder / STATE):
        return load_arrays(folder / STATE)


def load_policy(directory: str | Path) -> tuple[LanguageModelPolicy, dict[str, Any]]:
    """Load the policy of a bundle without an environment; return it with the bundle's description.

    `policy.save_pretrained(folder, merge=True)` writes a plain model of it, with the chat template that the run had.

    Raises:
        BundleError: the bundle is damaged.
        ValueError: the bundle holds no policy of this package.
    """
    folder, description = read(directory)
    saved = description["model"]
    if saved is None:
        raise ValueError(f"{directory} holds no policy of this package: load the agent with agents.load")
    with reported(folder / DESCRIPTION):
        policy = _build_policy(folder, description, _load_arrays(folder))
    _load_weights(policy, folder, description)
    policy.model_name = known_model(saved["name"], folder / MODEL)
    if policy.model_name is not None and _has_own_template(folder / MODEL, policy.model_name):
        policy.model_name = str(folder / MODEL)
    return policy, description


def load_weights(policy: Any, directory: str | Path) -> None:
    """Give the policy of an agent the weights that it had when the bundle in `directory` was saved.

    Raises:
        BundleError: the bundle is damaged.
    """
    folder, description = read(directory)
    _load_weights(policy, folder, description)
    policy.set_training_mode(True)  # empties the KV cache
    policy.set_training_mode(False)


def _has_own_template(folder: Path, name: str) -> bool:
    """Return whether the tokenizer in a bundle has a chat template that the model's own does not have."""
    own = load_tokenizer(str(folder)).chat_template if has_tokenizer(str(folder)) else None
    return own is not None and not (has_tokenizer(name) and load_tokenizer(name).chat_template == own)


def _load_weights(policy: Any, folder: Path, description: Mapping[str, Any]) -> None:
    """Load the weights of a policy; what a base below its adapters has is there already, and is checked.

    Raises:
        BundleError: the file is damaged or forged.
        ValueError: the base is another model than it was.
    """
    base = (description["model"] or {}).get("base")
    with reported(folder / POLICY):
        if base is not None:
            check_base(policy.language_model.adapters.base_checksum(), base, folder)
            policy.base_name = find_base(base, folder)
        kept = () if base is None else policy.base_entries()
        load_state(policy, folder / POLICY, description["shared"], kept)


def _build_policy(
    folder: Path, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> LanguageModelPolicy:
    """Build the policy of a bundle; its weights are still to be loaded."""
    saved, encoded = description["model"], description["values"]["attributes"]
    arguments = decode(encoded["policy_kwargs"], arrays, "policy_kwargs")
    picture = saved.get("picture")
    boxes: dict[str, spaces.Space[Any]] = {
        "input_ids": spaces.Box(0, saved["n_actions"] - 1, (saved["length"],), np.int64),
        "attention_mask": spaces.Box(0, 1, (saved["length"],), np.int8),
    }
    if picture is not None:
        boxes[PIXELS] = spaces.Box(picture["low"], picture["high"], tuple(picture["shape"]))
    observation_space = spaces.Dict([*boxes.items()])
    arguments["model"] = build_network(folder / MODEL, saved, folder / POLICY)
    named = encoded["policy_class"]  # a user's own class has no name that is known, and is never imported
    policy_class = NAMED_CLASSES.get(str(named.get("name")), TokenPolicy) if isinstance(named, dict) else TokenPolicy
    if not issubclass(policy_class, LanguageModelPolicy):
        policy_class = TokenPolicy
    return policy_class(observation_space, spaces.Discrete(saved["n_actions"]), lambda _: 0.0, **arguments)


def _algorithm(saved: Mapping[str, str | None], given: type[Any] | str | None) -> type[Any]:
    """Return the agent's class: the given one, else the one that the bundle names."""
    registered, named = saved.get("registered"), saved.get("named")
    chosen = given or (registered if registered in available() else NAMED_CLASSES.get(str(named)))
    if chosen is not None:
        return get_algorithm(chosen) if isinstance(chosen, str) else chosen
    name = registered or saved.get("class") or named
    raise ValueError(
        f"the agent's class {name} has no name that is known here: pass it, agents.load(..., algorithm=...)"
    )


def _check_names(encoded: Mapping[str, Any], overrides: Mapping[str, Any], cls: type[Any]) -> None:
    """Raise TypeError for an override that is no argument of the agent's class."""
    if unknown := overrides.keys() - encoded.keys() - describe(cls).own:
        raise TypeError(
            f"{cls.__name__} takes no argument {sorted(unknown)[0]!r}; there are {', '.join(sorted(describe(cls).own))}"
        )


def _attributes(
    encoded: Mapping[str, Any], arrays: Mapping[str, np.ndarray], overrides: dict[str, Any]
) -> dict[str, Any]:
    """Return the agent's attributes, with the overrides in place of the saved values."""
    overrides = {"policy_class" if name == "policy" else name: value for name, value in overrides.items()}
    chosen = {name: value for name, value in overrides.items() if name not in NESTED}
    return chosen | {
        name: decode(value, arrays, "policy" if name == "policy_class" else name, overrides.get(name))
        for name, value in encoded.items()
        if name not in chosen and name not in SERVER
    }


def _environment(description: Mapping[str, Any], env: Any, folder: Path) -> Any:
    """Return the given environment, or make the saved one, after checking its spaces and its tokenizer."""
    saved = dict(description["env"])
    if env is None:
        if "model" in (kwargs := saved.get("kwargs", {})):
            saved["kwargs"] = {**kwargs, "model": known_model(kwargs["model"], folder / MODEL)}
        env = remake_env(saved)
    here = [str(env.observation_space), str(env.action_space)]
    vocabulary, known = (description["model"] or {}).get("vocabulary"), getattr(env.action_space, "vocabulary", None)
    if here != description["spaces"] or (vocabulary and known and vocabulary != known):
        raise ValueError(
            f"the agent was trained on {' and '.join(description['spaces'])}, the environment has {' and '.join(here)}"
            + ("" if here != description["spaces"] else ", and another tokenizer")
            + ": make it with the same model, max_prompt_tokens and max_new_tokens"
        )
    return env


def _build(
    cls: type[Any], env: Any, device: str, attributes: dict[str, Any], model: Mapping[str, Any] | None, folder: Path
) -> Any:
    """Build an agent with these attributes, as SB3's own `load` does; its weights are still to be loaded."""
    given = dict(attributes["policy_kwargs"])
    passed = not isinstance(given.get("model"), str | None)  # a model that the caller built
    policy_class = attributes["policy_class"]
    ours = isinstance(policy_class, type) and issubclass(policy_class, LanguageModelPolicy)
    if model is None and not passed and ours:
        raise BundleError(f"{folder} describes no model for its policy: the bundle is damaged or forged")
    if model is not None and not passed:
        attributes["policy_kwargs"] = {**given, "model": build_network(folder / MODEL, model, folder / POLICY)}
    elif model is not None and isinstance(given["model"], torch.nn.Module):
        put_adapters(given["model"], folder / MODEL, folder / POLICY)
    accepted = (describe(cls).own - {"env", "policy", "device"}) & attributes.keys()
    arguments = {argument: attributes[argument] for argument in accepted}
    with warnings.catch_warnings():  # of stock buffers, as when an agent is made
        warnings.filterwarnings("ignore", MINIBATCHES)
        agent = cls(policy=policy_class, env=env, device=device, _init_setup_model=False, **arguments)
    vars(agent).update(attributes)
    agent._setup_model()
    if model is not None and not passed:
        agent.policy_kwargs = given
        agent.policy.model_name = _name_of(model["name"], folder / MODEL)
    return agent


def _name_of(name: str | None, folder: Path) -> str | None:
    """Return the name of an agent's model: `name`, or the model in the bundle, see `known_model`.

    A folder of weights alone stays the name: its tokens are the environment's, and a checkpoint may be deleted.
    """
    if name is not None and Path(name).is_dir() and not has_tokenizer(name):
        return name
    return known_model(name, folder)


def _continue_episodes(agent: Any, saved: Mapping[str, Any]) -> None:
    """Restore the environment and the buffer; if that is impossible, log it and begin new episodes."""
    env, observations = agent.get_env(), agent._last_obs
    rows = None if observations is None else len(next(iter(observations.values())))
    replay = getattr(agent, "replay_buffer", None)
    if replay is not None and saved["buffer_state"] is not None:  # its contents are of use in any environment
        replay.set_state(saved["buffer_state"])
    if rows == env.num_envs and saved["env_state"] is not None and hasattr(env, "set_state"):
        env.set_state(saved["env_state"])
        if saved["buffer_state"] is not None and replay is None:
            agent.rollout_buffer.set_state(saved["buffer_state"])
    else:
        if observations is not None:  # None: workers had the environments
            logger.warning("the environment does not go on where it was (%s rows then, %s now)", rows, env.num_envs)
        agent._last_obs = None
        if saved["env_state"] is not None and hasattr(env, "set_learned"):  # a constraint's price, a curriculum's level
            try:
                env.set_learned(saved["env_state"])
            except ValueError as error:  # it is of other tasks, where agents may go on too
                logger.warning("its mixture or curriculum begins anew: %s", error)
    score_by_rollout(env)  # unless the state said otherwise


def _load_zip(
    path: Path, env: Any, algorithm: type[Any] | str | None, trust_pickle: bool, overrides: Mapping[str, Any]
) -> Any:
    """Load an agent from an SB3 zip, if pickles are trusted."""
    if not zipfile.is_zipfile(path):
        raise BundleError(f"{path} is neither a bundle's folder nor an SB3 zip")
    if not trust_pickle:
        raise ValueError(
            f"{path} is an SB3 zip: it holds pickles, which can run any code. Pass trust_pickle=True (rlhf evaluate "
            "--trust) if it is your own, or load a bundle, which needs none"
        )
    with zipfile.ZipFile(path) as archive:
        claimed, size = sum(member.file_size for member in archive.infolist()), path.stat().st_size
    if claimed > MAX_RATIO * size:
        raise BundleError(
            f"{path} has {size:,} bytes, and {claimed:,} once unpacked. SB3 does not compress its zips: the file is "
            "damaged or forged"
        )
    if (algorithm := algorithm or run_algorithm(path)) is None:
        raise ValueError(
            f"{path} does not name its algorithm: pass it, agents.load(..., algorithm='ppo', trust_pickle=True)"
        )
    cls = get_algorithm(algorithm) if isinstance(algorithm, str) else algorithm
    with warnings.catch_warnings():  # SB3 builds the agent with default sizes before it sets the saved ones
        warnings.filterwarnings("ignore", MINIBATCHES)
        try:
            return cls.load(path, env=env, **overrides)
        except ModuleNotFoundError as error:  # a zip names its classes by modules of ours that have moved since
            if not (error.name or "").startswith(f"{__package__.split('.')[0]}."):
                raise
            parts = describe(cls).parts
            moved = {"policy_class": parts.get("policy"), "rollout_buffer_class": parts.get("rollout_buffer_class")}
            return cls.load(path, env=env, **{"custom_objects": moved, **overrides})


def run_algorithm(path: Path) -> str | None:
    """Return the algorithm of the run that a file belongs to; None if there is no such run or algorithm."""
    name = read_config(path).get("algo")
    return name if name in available() else None
