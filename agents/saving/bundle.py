"""Save agents as folders of safetensors and JSON, without pickle; training goes on from them exactly.

| file | contents |
|---|---|
| `manifest.json` | format, version, what made the bundle, and the SHA-256 of every other file |
| `agent.json` | the class by name, its arguments, counters, the environment, the states of callbacks |
| `policy.safetensors` | parameters and buffers: the model, the value head, the reference, the KL coefficient |
| `optimizer.safetensors` | the optimizer's tensors |
| `state.safetensors` | arrays of `agent.json`: observations, environments, generators |
| `model/` | the model's config and tokenizer, and the adapters' config; the weights are built from it and then loaded |

Of a model with adapters a bundle holds the adapters alone, if their base has a name. The base is then loaded by its
name, or from the same place beside the bundle, and must have the same checksum.

Saving is atomic (`rlhf_envs.files`). Loading imports nothing that a bundle names: classes come from a fixed list
(`agents.saving.encoding`) or the registry of algorithms, environments from Gymnasium's registry.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as arrays_to_bytes
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rlhf_envs.files import BundleError, atomic_folder, check_size, find_folder, verify
from rlhf_envs.models import load_tokenizer
from rlhf_envs.models.adapters import place_base

from ..core.base_policy import LanguageModelPolicy
from ..core.random_state import get_generators
from ..registry import available, describe
from .description import read_description, reported
from .encoding import class_name, decode, encode
from .environment import describe_env
from .folders import DESCRIPTION
from .provenance import MADE, provenance
from .tensors import save_model_config, save_optimizer, save_state

__all__ = ["BundleError", "capture", "holds", "read", "read_extra", "save", "write"]

logger = logging.getLogger(__name__)

FORMAT, VERSION = "rlhf-envs agent", 1
POLICY, OPTIMIZER, STATE, MODEL = "policy.safetensors", "optimizer.safetensors", "state.safetensors", "model"
# Attributes of an agent that loading makes anew, besides those that SB3 excludes.
ANEW = {"lr_schedule", "observation_space", "action_space", "n_envs", "start_time"}


def save(agent: Any, directory: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Save an agent so that `load` returns one that continues the training exactly. Call it between rollouts.

    Args:
        agent: an SB3 agent: on-policy (ours, or stock PPO or A2C with `TokenPolicy`), or one of our off-policy agents
            with a `SequenceReplayBuffer`.
        directory: the bundle's folder; an older bundle there is replaced.
        extra: further plain values and arrays to save, by name (see `read_extra`).

    Raises:
        FileExistsError: `directory` is a file, or a folder that holds something else.
        OSError: the bundle could not be written; what was there before is intact.
        TypeError: bundles do not hold agents of this kind.
        FloatingPointError: the agent's weights are not finite.
    """
    write(capture(agent, extra), agent, directory)


def holds(cls: type[Any]) -> bool:
    """Return whether bundles hold agents of a class: on-policy agents, and off-policy ones with a `resumable`.

    The attribute says that a rollout changes nothing but the environments and the replay buffer, as in our agents.
    """
    return issubclass(cls, OnPolicyAlgorithm) or (issubclass(cls, OffPolicyAlgorithm) and hasattr(cls, "resumable"))


def capture(agent: Any, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return everything that `save` writes except the weights and the optimizer; it is cheap enough for every rollout.

    A replay buffer's rows in use are copied: 35 bytes per token of the contexts.

    Raises:
        TypeError: bundles do not hold agents of this kind.
    """
    buffer: Any = getattr(agent, "rollout_buffer", None) or getattr(agent, "replay_buffer", None)
    keeps = isinstance(agent, OnPolicyAlgorithm) or hasattr(buffer, "get_state")
    if not holds(type(agent)) or not keeps or agent.get_vec_normalize_env() is not None:
        raise TypeError(
            "bundles hold on-policy agents, and this package's off-policy ones with a SequenceReplayBuffer, without "
            f"VecNormalize: save this {type(agent).__name__} with its own save()"
        )
    env = agent.get_env()
    return {
        "attributes": _attributes_of(agent),
        "env_state": env.get_state() if hasattr(env, "get_state") else None,
        "buffer_state": buffer.get_state() if hasattr(buffer, "get_state") else None,
        "buffers": {name: value.clone() for name, value in agent.policy.named_buffers(recurse=False)},
        "generators": get_generators(),
        "extra": copy.deepcopy(dict(extra or {})),
    }


def _attributes_of(agent: Any) -> dict[str, Any]:
    """Return the attributes of an agent to save; all but its arguments are copied, because training changes them."""
    arguments = describe(type(agent)).own
    skipped = ANEW.union(agent._excluded_save_params())
    kept = {name: value for name, value in vars(agent).items() if name not in skipped}
    attributes = {name: value if name in arguments else copy.deepcopy(value) for name, value in kept.items()}
    if hasattr(attributes.get("train_freq"), "unit"):  # SB3's own type
        frequency = attributes["train_freq"]
        attributes["train_freq"] = (frequency.frequency, frequency.unit.value)
    return attributes


def write(captured: Mapping[str, Any], agent: Any, directory: str | Path) -> None:
    """Write what `capture` returned, with the present weights and optimizer of the agent."""
    policy, env, attributes = agent.policy, agent.get_env(), captured["attributes"]
    weights = {**policy.state_dict(), **captured["buffers"]}
    if getattr(policy, "base_name", None) is not None:  # the base is loaded by its name
        base = policy.base_entries()
        weights = {name: tensor for name, tensor in weights.items() if name not in base}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and name != "kl_coef" and not torch.isfinite(tensor).all():
            raise FloatingPointError(f"{name} is not finite: the agent has diverged and is not saved")
    if captured["env_state"] is None:
        message = "%s cannot save the state of its episodes: a run that goes on from %s begins new ones"
        logger.warning(message, type(env).__name__, directory)
    if isinstance(policy, LanguageModelPolicy):
        model = attributes["policy_kwargs"].get("model")
        name = str(model) if isinstance(model, str | Path) else None  # a model that was built is in the bundle
        attributes = {**attributes, "policy_kwargs": {**attributes["policy_kwargs"], "model": name}}
    description = _describe(agent, Path(directory))
    arrays: dict[str, np.ndarray] = {}
    with atomic_folder(Path(directory), format=FORMAT, version=VERSION, **{MADE: provenance()}) as folder:
        description["shared"] = save_state(weights, folder / POLICY)
        values = {key: captured[key] for key in ("env_state", "buffer_state", "generators", "extra")}
        values["optimizer"] = save_optimizer(policy.optimizer, folder / OPTIMIZER)
        description["values"] = encode({**values, "attributes": attributes}, arrays)
        (folder / STATE).write_bytes(arrays_to_bytes(arrays))
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if isinstance(policy, LanguageModelPolicy):
            save_model_config(policy, _tokenizer(policy, env), folder / MODEL)


def _tokenizer(policy: LanguageModelPolicy, env: Any) -> Any:
    """Return the tokenizer of the token ids: the environment's, else the one of the model's name, else None."""
    if env is not None and env.has_attr("tokenizer"):
        return env.get_attr("tokenizer", 0)[0]
    return None if policy.model_name is None else load_tokenizer(policy.model_name)


def _describe(agent: Any, directory: Path) -> dict[str, Any]:
    """Return what `load` needs besides the values: the class, device, spaces, environment, and our policies' model."""
    policy = agent.policy
    model: dict[str, Any] | None = None
    if isinstance(policy, LanguageModelPolicy):
        network = policy.language_model.model
        model = {
            "name": policy.model_name,
            # With "bfloat16" the base was loaded in it, though embeddings are float32 since.
            "dtype": policy.dtype if policy.dtype == "bfloat16" else str(network.dtype).removeprefix("torch."),
            "attention": getattr(network.config, "_attn_implementation", None),
            "n_actions": policy.n_actions,
            "length": policy.max_length,
            **({} if policy.picture is None else {"picture": _picture(policy.picture)}),
            "vocabulary": getattr(policy.action_space, "vocabulary", None),
            "base": _base(policy, directory),
        }
    return {
        "algorithm": _algorithm_name(type(agent)),
        "device": agent.device.type,
        "spaces": [str(agent.observation_space), str(agent.action_space)],
        "env": describe_env(agent.get_env()),
        "model": model,
    }


def _picture(space: spaces.Box) -> dict[str, Any]:
    """Return the space of the pictures in observations, for `load`."""
    return {"shape": list(space.shape), "low": float(space.low.min()), "high": float(space.high.max())}


def _base(policy: LanguageModelPolicy, directory: Path) -> dict[str, str] | None:
    """Return name, place and checksum of the model below the adapters; None if it is in the bundle itself."""
    adapters = policy.language_model.adapters
    if adapters is None or policy.base_name is None:
        return None
    return {**place_base(policy.base_name, directory), "sha256": adapters.base_checksum()}


def _algorithm_name(cls: type[Any]) -> dict[str, str | None]:
    """Return the name by which `load` finds an algorithm: in the registry or the named classes. Imports nothing."""
    for name, target in available().items():
        module, _, attribute = target.partition(":")
        if getattr(sys.modules.get(module), attribute, None) is cls:
            return {"registered": name}
    return {"named": class_name(cls), "class": f"{cls.__module__}.{cls.__qualname__}"}


def read(directory: str | Path) -> tuple[Path, dict[str, Any]]:
    """Check a bundle, and return its folder and its description, whose "values" are still encoded.

    Raises:
        BundleError: the bundle is damaged or of another format; the message names the file.
    """
    folder = find_folder(Path(directory))
    manifest = verify(folder)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise BundleError(
            f"{folder} is of the format {manifest.get('format')!r}, version {manifest.get('version')!r}; this release "
            f"reads {FORMAT!r}, version {VERSION}"
        )
    if missing := {DESCRIPTION, POLICY, OPTIMIZER, STATE} - manifest["files"].keys():
        raise BundleError(f"{folder / missing.pop()} is missing: the bundle is damaged")
    for name in manifest["files"]:
        if name.endswith(".json"):
            check_size(folder / name)
    here = {path.relative_to(folder).as_posix() for path in (folder / MODEL).rglob("*") if path.is_file()}
    if added := here - manifest["files"].keys():
        raise BundleError(f"{folder / added.pop()} is no part of the bundle: remove it")
    return folder, read_description(folder / DESCRIPTION)


def read_extra(directory: str | Path) -> dict[str, Any]:
    """Return the `extra` values that `save` was given."""
    folder, description = read(directory)
    with reported(folder / STATE):
        arrays = load_arrays(folder / STATE)
    with reported(folder / DESCRIPTION):
        return decode(description["values"]["extra"], arrays, "extra")
