"""Agents out of bundles (`agents.saving.bundle`), and out of SB3's zips where they are trusted."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays

from rlhf_envs.files import BundleError

from ..core.base_policy import LanguageModelPolicy
from ..core.policy import TokenPolicy
from ..core.random_state import set_generators
from ..registry import available, get_algorithm, own_arguments
from . import tensors as model_files
from .bundle import MODEL, OPTIMIZER, POLICY, STATE, read
from .encoding import decode, named_classes
from .environment import remake_env

__all__ = ["load", "load_policy", "run_algorithm"]

logger = logging.getLogger(__name__)


def load(
    path: str | Path,
    env: Any = None,
    *,
    algorithm: type[Any] | str | None = None,
    trust_pickle: bool = False,
    **overrides: Any,
) -> Any:
    """Load an agent; `agent.learn(n, reset_num_timesteps=False)` goes on with n more tokens as if it had never stopped.

    The global generators of torch, numpy and Python are put back to where they were, so load last. Under a learning
    rate or clip range that changes over a run, n has to be what was left of the run.

    Args:
        path: a bundle's folder; or an SB3 zip, with `trust_pickle`.
        env: the environment; by default one like the one it was saved with. It goes on in the middle of its episodes.
        algorithm: the agent's class or registered name, where the bundle does not know it; of a zip, where it is in no
            run's folder.
        trust_pickle: load an SB3 zip. It holds pickles, which can run any code: for files of your own only.
        **overrides: arguments of the algorithm that replace the saved ones, such as `learning_rate` or `device`;
            `policy_kwargs`, `rollout_buffer_kwargs` and `replay_buffer_kwargs` replace the entries they name.

    Raises:
        BundleError: the bundle is damaged.
        ValueError: something that cannot be in a bundle has to be passed; the message says what and how.
    """
    path = Path(path)
    if path.is_file():
        return _load_zip(path, env, algorithm, trust_pickle, overrides)
    folder, description = read(path)
    values, arrays = description["values"], load_arrays(folder / STATE)
    cls = _algorithm(description["algorithm"], algorithm)
    device = overrides.pop("device", description["device"] if _has_device(description["device"]) else "auto")
    attributes = _attributes(values["attributes"], arrays, overrides, cls)
    env = _environment(description, env, folder)
    agent = _build(cls, env, device, attributes, description["model"], folder)
    model_files.load_state(agent.policy, folder / POLICY, description["shared"])
    model_files.load_optimizer(
        agent.policy.optimizer, folder / OPTIMIZER, decode(values["optimizer"], arrays, "optimizer")
    )
    _continue_episodes(agent, decode({k: values[k] for k in ("env_state", "buffer_state")}, arrays))
    set_generators(decode(values["generators"], arrays))
    return agent


def load_policy(directory: str | Path) -> tuple[LanguageModelPolicy, dict[str, Any]]:
    """The policy of a bundle alone, without an environment, and the bundle's description.

    Raises:
        BundleError: the bundle is damaged.
        ValueError: it holds no policy of this package.
    """
    from gymnasium import spaces

    folder, description = read(directory)
    saved = description["model"]
    if saved is None:
        raise ValueError(f"{directory} holds no policy of this package: load the agent with agents.load")
    encoded = description["values"]["attributes"]
    arguments = decode(encoded["policy_kwargs"], load_arrays(folder / STATE), "policy_kwargs")
    observation_space = spaces.Dict(
        input_ids=spaces.Box(0, saved["n_actions"] - 1, (saved["length"],), np.int64),
        attention_mask=spaces.Box(0, 1, (saved["length"],), np.int8),
    )
    arguments["model"] = model_files.build_network(folder / MODEL, saved["dtype"], saved["attention"])
    policy_class = _policy_class(encoded["policy_class"])
    policy = policy_class(observation_space, spaces.Discrete(saved["n_actions"]), lambda _: 0.0, **arguments)
    model_files.load_state(policy, folder / POLICY, description["shared"])
    policy.model_name = model_files.known_model(saved["name"], folder / MODEL)
    return policy, description


def _policy_class(encoded: Any) -> type[LanguageModelPolicy]:
    """The class of a policy, where its name is known; `TokenPolicy` for a user's own, which is never imported."""
    name = encoded.get("name") if isinstance(encoded, dict) else None
    found = named_classes().get(str(name), TokenPolicy)
    return found if issubclass(found, LanguageModelPolicy) else TokenPolicy


def _algorithm(saved: Mapping[str, str | None], given: type[Any] | str | None) -> type[Any]:
    if given is not None:
        return get_algorithm(given) if isinstance(given, str) else given
    if saved.get("registered") in available():
        return get_algorithm(str(saved["registered"]))
    if saved.get("named") in named_classes():
        return named_classes()[str(saved["named"])]
    name = saved.get("registered") or saved.get("class") or saved.get("named")
    raise ValueError(
        f"the agent's class {name} has no name that is known here: pass it, agents.load(..., algorithm=...)"
    )


def _has_device(kind: str) -> bool:
    return kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())


def _attributes(
    encoded: Mapping[str, Any], arrays: Mapping[str, np.ndarray], overrides: dict[str, Any], cls: type[Any]
) -> dict[str, Any]:
    """The agent's attributes, with the overrides in the place of what was saved."""
    overrides = {{"policy": "policy_class"}.get(name, name): value for name, value in overrides.items()}
    if unknown := overrides.keys() - encoded.keys() - own_arguments(cls):
        raise TypeError(
            f"{cls.__name__} takes no argument {sorted(unknown)[0]!r}; there are {sorted(own_arguments(cls))}"
        )
    nested = ("policy_kwargs", "rollout_buffer_kwargs", "replay_buffer_kwargs")
    chosen = {name: value for name, value in overrides.items() if name not in nested}
    for name, value in encoded.items():
        if name not in chosen:
            shown = "policy" if name == "policy_class" else name  # as the argument is called
            chosen[name] = decode(value, arrays, shown, overrides.get(name))
    return chosen


def _environment(description: Mapping[str, Any], env: Any, folder: Path) -> Any:
    saved = dict(description["env"])
    if env is None:
        if "model" in saved.get("kwargs", {}):
            known = model_files.known_model(saved["kwargs"]["model"], folder / MODEL)
            saved["kwargs"] = {**saved["kwargs"], "model": known}
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
    """An agent with these attributes, as SB3's own `load` builds it; its weights are still to come."""
    given = dict(attributes["policy_kwargs"])
    name = given.get("model")
    own_model = name is not None and not isinstance(name, str)
    policy_class = attributes["policy_class"]
    ours = isinstance(policy_class, type) and issubclass(policy_class, LanguageModelPolicy)
    if model is None and not own_model and ours:
        raise BundleError(f"{folder} describes no model for its policy: the bundle is damaged or forged")
    if model is not None and not own_model:
        network = model_files.build_network(folder / MODEL, model["dtype"], model["attention"])
        attributes["policy_kwargs"] = {**given, "model": network}
    accepted = own_arguments(cls, "env", "policy", "device") & attributes.keys()
    agent = cls(
        policy=attributes["policy_class"],
        env=env,
        device=device,
        _init_setup_model=False,
        **{name: attributes[name] for name in accepted},
    )
    vars(agent).update(attributes)
    agent._setup_model()
    if model is not None and not own_model:
        agent.policy_kwargs = given
        agent.policy.model_name = model_files.known_model(model["name"], folder / MODEL)
    return agent


def _continue_episodes(agent: Any, saved: Mapping[str, Any]) -> None:
    """Put the environment and the buffer where they were; where that is impossible, say so and begin new episodes."""
    env, observations = agent.get_env(), agent._last_obs
    rows = None if observations is None else len(next(iter(observations.values())))
    replay = getattr(agent, "replay_buffer", None)
    if replay is not None and saved["buffer_state"] is not None:  # what it holds is of use in any environment
        replay.set_state(saved["buffer_state"])
    if rows == env.num_envs and saved["env_state"] is not None and hasattr(env, "set_state"):
        env.set_state(saved["env_state"])
        if saved["buffer_state"] is not None and replay is None:
            agent.rollout_buffer.set_state(saved["buffer_state"])
    elif observations is not None:
        logger.warning("the environment does not go on where it was (%s rows then, %s now)", rows, env.num_envs)
        agent._last_obs = None


def _load_zip(
    path: Path, env: Any, algorithm: type[Any] | str | None, trust_pickle: bool, overrides: Mapping[str, Any]
) -> Any:
    if not zipfile.is_zipfile(path):
        raise BundleError(f"{path} is neither a bundle's folder nor an SB3 zip")
    if not trust_pickle:
        raise ValueError(
            f"{path} is an SB3 zip: it holds pickles, which can run any code. Pass trust_pickle=True (rlhf evaluate "
            "--trust) if it is your own, or load a bundle, which needs none"
        )
    algorithm = algorithm or run_algorithm(path)
    if algorithm is None:
        raise ValueError(
            f"{path} does not say which algorithm it is of: pass it, agents.load(..., algorithm='ppo', "
            "trust_pickle=True)"
        )
    cls = get_algorithm(algorithm) if isinstance(algorithm, str) else algorithm
    with warnings.catch_warnings():  # SB3 builds the agent with default sizes before it sets those in the file
        warnings.filterwarnings("ignore", "You have specified a mini-batch size")
        return cls.load(path, env=env, **overrides)


def run_algorithm(path: Path) -> str | None:
    """The algorithm that the run folder around a file says."""
    config = next((p / "config.json" for p in path.parents if (p / "config.json").is_file()), None)
    name = json.loads(config.read_text(encoding="utf-8")).get("algo") if config is not None else None
    return name if name in available() else None
