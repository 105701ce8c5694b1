"""Write and read the tensors of a bundle, and the language model inside it: config, tokenizer, tied weights."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig

from rlhf_envs.files import BundleError
from rlhf_envs.models import (
    EMBEDDED,
    has_tokenizer,
    load_causal_lm,
    load_tokenizer,
    local_folder,
    vocabulary_fingerprint,
)
from rlhf_envs.models.adapters import find_base, has_adapters, inject, is_adapter_folder, read_lora_config
from rlhf_envs.models.vision import is_vision_config, load_vision_model, save_processor

from ..core.base_policy import LanguageModelPolicy
from ..core.precision import ATTENTION

__all__ = [
    "build_network",
    "known_model",
    "load_optimizer",
    "load_state",
    "put_adapters",
    "save_model_config",
    "save_optimizer",
    "save_state",
]


KERNELS = ("attn_implementation", "experts_implementation")  # which transformers may fetch; it writes neither


def save_state(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, str]:
    """Write a state dict, shared memory once. Return the names left out, each with the stored name it shares with."""
    shared = _find_shared(state)
    stored = {}
    for name, tensor in state.items():
        if name not in shared:
            whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
            tensor = tensor.detach().cpu().contiguous()
            stored[name] = tensor if whole else tensor.clone()  # a part of a larger storage is stored alone
    _save_tensors(stored, path)
    return shared


def load_state(module: torch.nn.Module, path: Path, shared: Mapping[str, str], kept: Collection[str] = ()) -> None:
    """Load what `save_state` wrote into a module whose tensors are tied the same way.

    The entries `kept` of the module's state are not in the file: they stay as they are.

    Raises:
        BundleError: the tensors do not fit the module, or are tied in another way.
    """
    tensors = load_file(path)
    state = module.state_dict()
    stays = {name: state.pop(name) for name in kept}
    here = _find_shared(state)
    if here != dict(shared):
        different = sorted(set(here.items()) ^ set(shared.items()))[0]
        raise BundleError(f"{path}: {' and '.join(different)} share their memory on one side only, saved or built now")
    try:
        module.load_state_dict({**stays, **tensors, **{name: tensors[owner] for name, owner in shared.items()}})
    except (RuntimeError, KeyError) as error:
        raise BundleError(f"{path} does not fit the agent that the bundle describes: {error}") from error


def _find_shared(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the names of tensors that share the memory of an earlier tensor, each with the earlier name."""
    first: dict[tuple[Any, ...], str] = {}
    shared = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage().data_ptr()
        place = (storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(place, name) != name:
            shared[name] = first[place]
    return shared


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Call `safetensors.torch.save_file`; raise failures of the disk as OSError."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


def save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> dict[str, Any]:
    """Write the tensors of an optimizer, and return the rest of its state, which is plain values."""
    state = optimizer.state_dict()
    plain = {f"{index}/{name}": value for index, values in state["state"].items() for name, value in values.items()}
    tensors = {key: plain.pop(key) for key, value in list(plain.items()) if isinstance(value, torch.Tensor)}
    _save_tensors({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
    return {"param_groups": state["param_groups"], "values": plain}


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path, rest: Mapping[str, Any]) -> None:
    """Load what `save_optimizer` wrote and returned.

    Raises:
        BundleError: it is the state of another optimizer.
    """
    state: dict[int, dict[str, Any]] = {}
    try:
        for key, value in {**load_file(path), **rest["values"]}.items():
            index, _, name = key.partition("/")
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
    except (ValueError, KeyError) as error:
        raise BundleError(f"{path} is the state of another optimizer: {error}") from error


def save_model_config(policy: LanguageModelPolicy, tokenizer: Any, folder: Path) -> None:
    """Write a language model without its weights: config, generation config, tokenizer, and its adapters' config."""
    model, adapters = policy.language_model.model, policy.language_model.adapters
    model.config.save_pretrained(folder)
    if adapters is not None:
        adapters.save_config(folder, policy.base_name)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    if policy.picture is not None and policy.model_name is not None:
        save_processor(policy.model_name, folder)
    if tokenizer is not None:
        try:
            tokenizer.save_pretrained(folder)
        except Exception as error:
            if type(error) is not Exception:
                raise
            raise OSError(f"{folder.name}: {error}") from error  # `tokenizers` raises nothing else for a full disk


def build_network(folder: Path, saved: Mapping[str, Any], weights: Path) -> Any:
    """Return the causal language model of a bundle, with new adapters if it has some.

    The model is that of the config in `folder`, and its weights, which are in the file `weights`, are not loaded yet. A
    base below adapters that the bundle names is loaded by its name.

    Raises:
        BundleError: the config asks for code of its own or a kernel, `transformers` has no such architecture or
            attention, the base is not here, or the model would have more weights than the file.
    """
    if saved["attention"] not in (*ATTENTION, None):
        raise BundleError(f"{folder}: the attention {saved['attention']!r} is none of {', '.join(ATTENTION)}")
    _check_code(folder)
    try:
        base = saved.get("base")
        model = (
            _build_from_config(folder, saved, weights)
            if base is None
            else _load_base(find_base(base, folder.parent), saved)
        )
        put_adapters(model, folder, weights)
    except BundleError:
        raise
    except (ValueError, KeyError, ImportError, OSError) as error:
        raise BundleError(
            f"the model of {folder} cannot be built ({error}): build it yourself and pass it, "
            "agents.load(..., policy_kwargs={'model': model})"
        ) from error
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()


def _check_code(folder: Path) -> None:
    """Raise BundleError if a file of a model asks for code: a module of its own, or a kernel from the hub."""
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "auto_map" in content:
            raise BundleError(f"{path} asks for code of its own (auto_map), which a bundle never runs")
        named = _entries(content) if path.name == "config.json" else ()
        if found := next((name for name, value in named if name.lstrip("_") in KERNELS and value), None):
            raise BundleError(f"{path} names a kernel ({found}), which a bundle never loads")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of an object and of all objects in it: configs hold configs."""
    for name, part in value.items() if isinstance(value, dict) else ():
        yield name, part
        yield from _entries(part)


def _build_from_config(folder: Path, saved: Mapping[str, Any], weights: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    kwargs = {} if saved["attention"] is None else {"attn_implementation": saved["attention"]}
    _check_claims(config, folder, weights)
    dtype = getattr(torch, saved["dtype"])
    return _auto_class(config).from_config(config, trust_remote_code=False, dtype=dtype, **kwargs)


def _auto_class(config: Any) -> Any:
    """Return what builds the model of a configuration: one that reads pictures, or text alone."""
    return AutoModelForImageTextToText if is_vision_config(config) else AutoModelForCausalLM


def _load_base(name: str, saved: Mapping[str, Any]) -> Any:
    folder, dtype = local_folder(name), getattr(torch, saved["dtype"])
    model = load_vision_model(folder, dtype) if saved.get("picture") else load_causal_lm(folder, dtype)
    if saved["attention"] is not None:
        model.set_attn_implementation(saved["attention"])
    return model


def put_adapters(model: Any, folder: Path, weights: Path) -> None:
    """Put the adapters of a bundle on a plain model, if it has any; their weights are still to be loaded."""
    if is_adapter_folder(folder) and not has_adapters(model):
        saved = load_file(weights)
        named = (key.partition(".lora_A.")[2].partition(".")[0] for key in saved if ".lora_A." in key)
        inject(model, read_lora_config(folder, saved), f"{folder}: ", next(named, "default"))


def _check_claims(config: Any, folder: Path, weights: Path) -> None:
    """Raise BundleError if a config describes more weights than a file has: they may not fit into memory."""
    with safe_open(weights, "pt") as file:
        sizes = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 (no mapping)
    blocks = getattr(config.get_text_config(), "num_hidden_layers", 0)
    has = f"{weights} has {weights.stat().st_size:,} bytes"
    if blocks > len(sizes):
        raise BundleError(f"{folder} describes {blocks:,} blocks, and {has}: the bundle is damaged or forged")
    with torch.device("meta"):  # shapes alone, no memory
        model = _auto_class(config).from_config(config, trust_remote_code=False)
    claimed = sum(parameter.numel() for parameter in model.parameters())
    if claimed > sum(sizes):
        raise BundleError(f"{folder} describes {claimed:,} weights, and {has}: the bundle is damaged or forged")


def known_model(name: str | None, folder: Path) -> str | None:
    """Return `name` if its tokenizer is at hand and still the same, else `folder`, the model in the bundle.

    Hub ids are never looked up: a bundle takes nothing from the network.

    Raises:
        BundleError: the bundle has no tokenizer, and `name` is neither one of our models nor a folder.
    """
    if name is None:
        return None
    at_hand = name in (*EMBEDDED, "smollm2", "tiny-vision") or Path(name).is_dir()
    if not has_tokenizer(str(folder)) and at_hand:
        return name
    if not has_tokenizer(str(folder)):
        raise BundleError(
            f"{folder} has no tokenizer, and {name!r} is neither a model of ours nor a folder here. A bundle takes "
            "nothing from the network: build the model and the environment, and pass them, agents.load(..., env, "
            "policy_kwargs={'model': model})"
        )
    if at_hand:
        try:
            saved = vocabulary_fingerprint(load_tokenizer(str(folder)))
            if has_tokenizer(name) and vocabulary_fingerprint(load_tokenizer(name)) == saved:
                return name
        except (ValueError, ModuleNotFoundError):
            pass
    return str(folder)
