"""Agents on the disk without pickle: a folder of safetensors and JSON from which training goes on exactly.

| file | what |
|---|---|
| `manifest.json` | format, version, and the SHA-256 of every other file |
| `agent.json` | the class by name, its arguments, counters, the environment, what callbacks keep |
| `policy.safetensors` | parameters and buffers: the model, the value head, the reference, the KL coefficient |
| `optimizer.safetensors` | the optimizer's tensors |
| `state.safetensors` | arrays of `agent.json`: observations, environments, generators |
| `model/` | the model's config and tokenizer; the weights are built from the config and then loaded |

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
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as arrays_to_bytes
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rlhf_envs.files import BundleError, atomic_folder, find_folder, verify

from ..core.base_policy import LanguageModelPolicy
from ..core.random_state import get_generators
from ..registry import available, own_arguments
from . import tensors as model_files
from .encoding import decode, encode, named_classes
from .environment import describe_env

__all__ = ["BundleError", "capture", "holds", "read", "read_extra", "save", "write"]

logger = logging.getLogger(__name__)

FORMAT, VERSION = "rlhf-envs agent", 1
AGENT, POLICY, OPTIMIZER, STATE, MODEL = (
    "agent.json",
    "policy.safetensors",
    "optimizer.safetensors",
    "state.safetensors",
    "model",
)
# Attributes of an agent that are made anew, or stand elsewhere in the bundle.
ELSEWHERE = {
    "policy",
    "rollout_buffer",
    "replay_buffer",
    "lr_schedule",
    "observation_space",
    "action_space",
    "n_envs",
    "start_time",
}


def save(agent: Any, directory: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Save an agent such that `load` gives one that trains on exactly; call it between rollouts (after `learn`).

    Args:
        agent: an SB3 agent, on-policy (ours, or stock PPO or A2C with `TokenPolicy`) or off-policy with a replay buffer
            that can be kept: `SequenceReplayBuffer`.
        directory: the bundle's folder; an older bundle there is replaced.
        extra: further plain values and arrays to keep, by name (see `read_extra`).

    Raises:
        FileExistsError: `directory` is a file, or a folder with something else in it.
        OSError: it could not be written; what was there before is intact.
        TypeError: the agent is of a kind that bundles do not hold.
        FloatingPointError: its weights are not finite.
    """
    write(capture(agent, extra), agent, directory)


def holds(cls: type[Any]) -> bool:
    """Whether bundles hold agents of a class: on-policy ones, and off-policy ones whose replay buffer can be kept.

    Of the latter only those which, like ours, let nothing but the environments and the buffer change in a rollout: what
    `resumable` says.
    """
    return issubclass(cls, OnPolicyAlgorithm) or (issubclass(cls, OffPolicyAlgorithm) and hasattr(cls, "resumable"))


def capture(agent: Any, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All that `save` writes but the weights and the optimizer: small, and cheap enough for every rollout.

    (Of a replay buffer it is a copy of the rows in use: 35 bytes a token of contexts.)

    Raises:
        TypeError: the agent is of a kind that bundles do not hold.
    """
    buffer: Any = getattr(agent, "rollout_buffer", None) or getattr(agent, "replay_buffer", None)
    keeps = isinstance(agent, OnPolicyAlgorithm) or hasattr(buffer, "get_state")
    if not holds(type(agent)) or not keeps or agent.get_vec_normalize_env() is not None:
        raise TypeError(
            "bundles hold on-policy agents, and this package's off-policy ones with a SequenceReplayBuffer, without "
            f"VecNormalize: save this {type(agent).__name__} with its own save()"
        )
    arguments = own_arguments(type(agent))
    skipped = ELSEWHERE | set(agent._excluded_save_params())
    attributes = {
        name: value if name in arguments else copy.deepcopy(value)
        for name, value in vars(agent).items()
        if name not in skipped
    }
    if hasattr(attributes.get("train_freq"), "unit"):  # SB3's own type
        frequency = attributes["train_freq"]
        attributes["train_freq"] = (frequency.frequency, frequency.unit.value)
    env = agent.get_env()
    return {
        "attributes": attributes,
        "env_state": env.get_state() if hasattr(env, "get_state") else None,
        "buffer_state": buffer.get_state() if hasattr(buffer, "get_state") else None,
        "buffers": {name: value.clone() for name, value in agent.policy.named_buffers(recurse=False)},
        "generators": get_generators(),
        "extra": copy.deepcopy(dict(extra or {})),
    }


def write(captured: Mapping[str, Any], agent: Any, directory: str | Path) -> None:
    """Write what `capture` gave, with the weights and the optimizer that the agent has now."""
    policy, env = agent.policy, agent.get_env()
    weights = {**policy.state_dict(), **captured["buffers"]}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and name != "kl_coef" and not torch.isfinite(tensor).all():
            raise FloatingPointError(f"{name} is not finite: the agent has diverged and is not saved")
    if captured["env_state"] is None:
        logger.warning(
            "%s does not say where its episodes stand: a run that goes on from %s begins new ones",
            type(env).__name__,
            directory,
        )
    arrays: dict[str, np.ndarray] = {}
    description: dict[str, Any] = {
        "algorithm": _algorithm_name(type(agent)),
        "device": agent.device.type,
        "spaces": [str(agent.observation_space), str(agent.action_space)],
        "env": describe_env(env),
        "model": None,
    }
    attributes = dict(captured["attributes"])
    if isinstance(policy, LanguageModelPolicy):
        model = attributes["policy_kwargs"].get("model")
        name = str(model) if isinstance(model, str | Path) else None  # a model that was built is in the bundle
        attributes["policy_kwargs"] = {**attributes["policy_kwargs"], "model": name}
        description["model"] = _describe_policy(policy)
    with atomic_folder(Path(directory), format=FORMAT, version=VERSION) as folder:
        description["shared"] = model_files.save_state(weights, folder / POLICY)
        values = {key: captured[key] for key in ("env_state", "buffer_state", "generators", "extra")}
        values["optimizer"] = model_files.save_optimizer(policy.optimizer, folder / OPTIMIZER)
        description["values"] = encode({**values, "attributes": attributes}, arrays)
        (folder / STATE).write_bytes(arrays_to_bytes(arrays))
        (folder / AGENT).write_text(json.dumps(description, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if isinstance(policy, LanguageModelPolicy):
            model_files.write_model(policy, _tokenizer(policy, env), folder / MODEL)


def _describe_policy(policy: LanguageModelPolicy) -> dict[str, Any]:
    """What it takes, beside the arguments and the config, to build the policy and its spaces."""
    network = policy.language_model.model
    return {
        "name": policy.model_name,
        "dtype": str(network.dtype).removeprefix("torch."),
        "attention": getattr(network.config, "_attn_implementation", None),
        "n_actions": policy.n_actions,
        "length": policy.max_length,
        "vocabulary": getattr(policy.action_space, "vocabulary", None),
    }


def _tokenizer(policy: LanguageModelPolicy, env: Any) -> Any:
    """The tokenizer of the token ids: the environment's, or that of the model's name."""
    from rlhf_envs.models import load_tokenizer

    try:
        return env.get_attr("tokenizer", 0)[0]
    except AttributeError:
        return None if policy.model_name is None else load_tokenizer(policy.model_name)


def _algorithm_name(cls: type[Any]) -> dict[str, str | None]:
    """The name an algorithm is found by: in the registry, or in the list of named classes. Imports nothing."""
    for name, target in available().items():
        module, _, attribute = target.partition(":")
        if getattr(sys.modules.get(module), attribute, None) is cls:
            return {"registered": name}
    known = next((name for name, known in named_classes().items() if known is cls), None)
    return {"named": known, "class": f"{cls.__module__}.{cls.__qualname__}"}


def read(directory: str | Path) -> tuple[Path, dict[str, Any]]:
    """Check a bundle; returns the folder it is in and its description, whose "values" are still encoded.

    Raises:
        BundleError: it is damaged, or of another format; the message names the file.
    """
    folder = find_folder(Path(directory))
    manifest = verify(folder)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise BundleError(
            f"{folder} is of the format {manifest.get('format')!r}, version {manifest.get('version')!r}; this release "
            f"reads {FORMAT!r}, version {VERSION}"
        )
    if missing := {AGENT, POLICY, OPTIMIZER, STATE} - manifest["files"].keys():
        raise BundleError(f"{folder / missing.pop()} is missing: the bundle is damaged")
    here = {path.relative_to(folder).as_posix() for path in (folder / MODEL).rglob("*") if path.is_file()}
    if added := here - manifest["files"].keys():
        raise BundleError(f"{folder / added.pop()} is no part of the bundle: remove it")
    return folder, json.loads((folder / AGENT).read_text(encoding="utf-8"))


def read_extra(directory: str | Path) -> dict[str, Any]:
    """What `save` was given as `extra`."""
    folder, description = read(directory)
    extra: dict[str, Any] = decode(description["values"]["extra"], load_arrays(folder / STATE), "extra")
    return extra
