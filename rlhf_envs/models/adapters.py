"""Put LoRA adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) on a model, read them from folders, merge them.

The adapters are peft's. Importing this module imports neither torch nor peft.

A folder of adapters has peft's `adapter_config.json` and `adapter_model.safetensors`. Ours also has the name, the place
and the checksum of the base model, in `adapter_base.json`. Nothing that a folder names is imported or fetched: the
adapters are built from a fixed list of fields, and the base has to be on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .layer_names import check_names, has_patterns, spell_out

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel

__all__ = [
    "LORA",
    "active_adapter",
    "adapter_base",
    "adapter_layers",
    "add_adapters",
    "base_checksum",
    "base_weights",
    "check_base",
    "check_targets",
    "check_whole",
    "find_base",
    "has_adapters",
    "inject",
    "is_adapter_folder",
    "load_adapters",
    "merge_adapters",
    "place_base",
    "read_lora_config",
    "save_adapters",
    "save_config",
]

LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}  # the defaults
LINEAR = ("Linear", "Conv1D")  # the classes that "all-linear" means
CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "adapter_base.json"
# What a user may choose and a folder may say. peft's other fields change the base or import modules.
FIELDS = {"r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora", "init_lora_weights"} | {
    *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
}
# Fields of a folder that say nothing about what the adapters compute.
NOTES = {"auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_type", "peft_version"} | {
    *("revision", "task_type"),
}


def is_adapter_folder(name: str | Path) -> bool:
    """Return whether a name is a folder of adapters, which are no model without their base."""
    return (Path(name) / CONFIG).is_file()


def check_whole(folder: str | Path, name: str) -> None:
    """Raise ValueError if the model called `name` is a folder of adapters, where a reward model is read or fitted."""
    if is_adapter_folder(folder):
        raise ValueError(
            f"{name!r} has adapters alone, and reward models are whole: merge them into their base first (with peft, "
            "model.merge_and_unload().save_pretrained(...); a policy's with policy.save_pretrained(..., merge=True))"
        )


def has_adapters(model: object) -> bool:
    """Return whether a model has adapters of peft on it, wrapped as a `PeftModel` or injected."""
    return hasattr(model, "peft_config")  # a PeftModel has it, and a model in which peft has injected adapters


def adapter_base(folder: str | Path) -> str:
    """Return the name of the base model that a folder of adapters records, or its folder, see `find_base`.

    Raises:
        ValueError: it records none, or the base is a folder of adapters too.
    """
    base = _read(Path(folder) / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{Path(folder) / CONFIG} does not say which model the adapters belong to: set base_model_name_or_path to "
            "its folder or name, or load the base and put the adapters on it (peft.PeftModel.from_pretrained)"
        )
    ours = _read(Path(folder) / BASE) if (Path(folder) / BASE).is_file() else {}
    if ours.get("name") == base:
        base = find_base(ours, folder)
    if is_adapter_folder(base):
        raise ValueError(f"{folder} has {base} as its base, which is a folder of adapters itself: merge those first")
    return base


def place_base(name: str, folder: str | Path) -> dict[str, str]:
    """Return what a folder of adapters records of its base: its name and, if that is a folder, the path to it."""
    if not Path(name).is_dir():
        return {"name": name}
    return {"name": name, "path": os.path.relpath(os.path.realpath(name), os.path.realpath(folder))}


def find_base(recorded: Mapping[str, Any], folder: str | Path) -> str:
    """Return the name of a base that `place_base` recorded; where it is no folder here, the folder at its path.

    So adapters load in another working directory, and after they were moved together with their base.
    """
    name, path = str(recorded["name"]), recorded.get("path")
    if not isinstance(path, str) or Path(name).is_dir():
        return name
    place = os.path.normpath(os.path.join(os.path.realpath(folder), path))
    return place if Path(place).is_dir() else name


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no JSON object")
    return content


def read_lora_config(folder: str | Path, weights: Mapping[str, torch.Tensor]) -> LoraConfig:
    """Return the configuration of the adapters in a folder, made of the fields that are understood here.

    Raises:
        ValueError: the adapters are of another kind than LoRA, need a field that is not understood, name their layers
            by a regular expression, or claim a higher rank than `weights`, the tensors in their file, can have.
    """
    file = Path(folder) / CONFIG
    fields = _read(file)
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type is {fields.get('peft_type')!r}: only LoRA adapters load from a folder")
    defaults = _peft().LoraConfig().to_dict()
    for name in fields.keys() - FIELDS - NOTES:
        if fields[name] and fields[name] != defaults.get(name):
            raise ValueError(
                f"{file}: {name}={fields[name]!r} is not supported: load the base and its adapters with peft, "
                "merge_and_unload() them, and save the model"
            )
    check_names(fields, weights, f"{file}: ")
    config = _config({name: fields[name] for name in FIELDS & fields.keys()}, f"{file}: ")
    widest = max((size for tensor in weights.values() for size in tensor.shape), default=0)
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if not isinstance(rank, int) or rank > widest:  # it may not fit into memory
            raise ValueError(f"{file}: the rank is {rank!r}, and the file of weights has none of that size")
    return config


def add_adapters(model: PreTrainedModel, lora: Mapping[str, Any] | None = None) -> None:
    """Put new adapters on a plain model; the model is frozen. The adapters' first output is 0.

    A vision-language model has them in its decoder alone, unless `lora` says what to exclude: its encoder of pictures
    and its projector stay as they are.

    Args:
        model: the base.
        lora: fields of `peft.LoraConfig` that replace those of `LORA`.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: a field is unknown or out of range, or no linear layer matches.
    """
    if unknown := sorted((lora or {}).keys() - FIELDS):
        raise ValueError(f"lora has the unknown entry {unknown[0]!r}; there are {', '.join(sorted(FIELDS))}")
    fields = {**LORA, **(lora or {})}
    if not fields.get("exclude_modules") and (others := _outside_decoder(model)):
        fields["exclude_modules"] = others
    inject(model, _config(fields, "lora: "), "lora: ")


def _outside_decoder(model: PreTrainedModel) -> list[str]:
    """Return the names of a vision-language model's linear layers outside its decoder; none of a model of text."""
    if getattr(model.config, "vision_config", None) is None:
        return []
    decoder = {id(module) for module in model.get_decoder().modules()}
    named = ((name, module) for name, module in model.named_modules() if type(module).__name__ in LINEAR)
    head = model.get_output_embeddings()
    return [name for name, module in named if id(module) not in decoder and module is not head]


def inject(model: PreTrainedModel, config: LoraConfig, where: str, name: str = "default") -> None:
    """Put adapters of this `name` on a plain model, in float32 whatever type the model has.

    The message of a ValueError begins with `where`.
    """
    peft = _peft()
    linear = {name.rpartition(".")[2] for name, m in model.named_modules() if type(m).__name__ in LINEAR}
    # The output of an experts' router is no tensor, and peft counts Llama 4's among the linear layers.
    routers = [name for name, m in model.named_modules() if type(m).__name__.endswith("Router")]
    if routers and config.target_modules == "all-linear" and not isinstance(config.exclude_modules, str):
        config.exclude_modules = sorted({*(config.exclude_modules or ()), *routers})
    try:
        with _quiet():
            peft.inject_adapter_in_model(config, model, name)
        for key, parameter in model.named_parameters():
            if _in_adapters(key):
                parameter.data = parameter.data.float()  # else they get the base's type
        check_targets(model)
    except (ValueError, TypeError) as error:
        _unload(model, merge=False)
        raise ValueError(
            f"{where}no adapters fit on this {type(model).__name__} ({str(error).splitlines()[0]}); its linear layers "
            f"are {', '.join(sorted(linear)) or 'none'}"
        ) from error


def adapter_layers(module: torch.nn.Module) -> dict[str, Any]:
    """Return the layers that have adapters, by name, each with `enable_adapters` and the flag `disable_adapters`."""
    # A PreTrainedModel has a method of that name.
    return {name: m for name, m in module.named_modules() if isinstance(getattr(m, "disable_adapters", None), bool)}


def check_targets(model: PreTrainedModel) -> None:
    """Raise ValueError if a tied head or embedding has adapters: peft 0.21 merges them twice, in silence."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight and (adapter_layers(head) or adapter_layers(embedding)):
        raise ValueError(
            f"head and embedding of this {type(model).__name__} share their weights, and the adapters of one would "
            "change both: leave them out of target_modules"
        )


def _config(fields: Mapping[str, Any], where: str) -> LoraConfig:
    """Return peft's configuration, after checking the fields that peft checks late or not at all."""
    peft = _peft()
    rank, how = fields.get("r", 8), fields.get("init_lora_weights", True)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"{where}r={rank!r}: expected a rank of at least 1")
    if not isinstance(how, bool) and how != "gaussian":
        raise ValueError(f"{where}init_lora_weights={how!r} changes the base model: expected True or 'gaussian'")
    try:
        return peft.LoraConfig(**fields, task_type="CAUSAL_LM")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}{error}") from error


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("adapters (train='lora') need peft: pip install 'rlhf-envs[train]'") from error
    return peft


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence peft about what is handled: the transposed layers of GPT-2 by peft, tied targets by `check_targets`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out|Model (has|with) `tie_word_embeddings=True`")
        yield


def load_adapters(base: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Put the adapters of a folder on their base, in place, and return it. They learn, and the base is frozen.

    Raises:
        ValueError: the adapters do not fit the base, or were trained on another one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if (folder / BASE).is_file():
        check_base(base_checksum(base), _read(folder / BASE), folder)
    try:
        saved = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    inject(base, read_lora_config(folder, saved), f"{folder}: ")
    here = _adapter_weights(base)
    shapes, expected = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (saved, here))
    if different := sorted(shapes.items() ^ expected.items()):
        name = different[0][0]
        raise ValueError(
            f"the adapters in {folder} belong to another base than {adapter_base(folder)!r}: {name} has the shape "
            f"{shapes.get(name, 'of nothing')} there and {expected.get(name, 'of nothing')} on this base"
        )
    for name, tensor in here.items():
        tensor.copy_(saved[name])
    return base


def _adapter_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights of the active adapters, by their names in peft's files; they share the model's memory."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=active_adapter(model), save_embedding_layers=False)
    return {f"base_model.model.{name}": tensor.detach() for name, tensor in state.items()}


def active_adapter(model: PreTrainedModel) -> str:
    """Return the name of the adapters that are in use."""
    return str(next(iter(adapter_layers(model).values())).active_adapters[0])


def save_adapters(model: PreTrainedModel, folder: str | Path, base: str, checksum: str) -> None:
    """Write a folder of adapters that `load_adapters` and peft read, with the name and the checksum of its base."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.cpu().contiguous() for name, tensor in _adapter_weights(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    save_config(model, folder, base)
    _write(folder / BASE, {**place_base(base, folder), "sha256": checksum})


def save_config(model: PreTrainedModel, folder: Path, base: str | None) -> None:
    """Write the configuration of a model's active adapters, which `read_lora_config` reads."""
    adapter = active_adapter(model)
    config: Any = model.peft_config[adapter]
    config.save_pretrained(str(folder))
    fields = _read(folder / CONFIG) | {"base_model_name_or_path": base}
    if has_patterns(fields) and hasattr(config, "lora_alpha"):  # other kinds than LoRA do not load from a folder
        fields |= spell_out(adapter_layers(model), config.r, config.lora_alpha, adapter)
    _write(folder / CONFIG, fields)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def base_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a model without its adapters, by the names that it has without them."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not _in_adapters(name)
    }


def _in_adapters(name: str) -> bool:
    """Return whether a name in the state of a model belongs to its adapters."""
    return any(part.startswith("lora_") for part in name.split("."))


def base_checksum(model: torch.nn.Module) -> str:
    """Return a SHA-256 of a model's weights, rounded to bfloat16, without its adapters.

    It is rounded so that a base loaded in bfloat16 has the checksum that it has in float32.
    """
    import torch

    digest, seen = hashlib.sha256(), set[int]()
    for name, tensor in sorted(base_weights(model).items()):
        if tensor.data_ptr() in seen:  # tied
            continue
        seen.add(tensor.data_ptr())
        values = tensor.detach().cpu().contiguous()
        values = values.to(torch.bfloat16).view(torch.int16) if values.is_floating_point() else values
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def check_base(checksum: str, saved: Mapping[str, Any], where: str | Path) -> None:
    """Raise ValueError if the checksum of a base is not that of the base that adapters were trained on."""
    if checksum != saved.get("sha256"):
        raise ValueError(
            f"the adapters in {where} were trained on another model than the {saved.get('name')!r} that is here: its "
            "weights have another checksum; bring back the old ones, or train the adapters anew"
        )


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Merge the adapters of a model into its weights, in place, and return it plain.

    The logits before and after are compared: peft 0.21 adds the adapters of tied embeddings twice, in silence.

    Raises:
        ValueError: the merged model computes something else.
    """
    import torch

    config = model.config.get_text_config()
    length = min(getattr(config, "max_position_embeddings", None) or 8, 8)
    ids = torch.arange(length, device=model.device)[None] % config.vocab_size
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        _unload(model, merge=True)
        logits = model(input_ids=ids, use_cache=False).logits
    tolerance = max(1e-3, 16 * torch.finfo(logits.dtype).eps)
    if not torch.allclose(logits, expected, atol=tolerance, rtol=tolerance):
        raise ValueError(
            f"the merged {type(model).__name__} has other logits than the model with its adapters (up to "
            f"{(logits - expected).abs().max():.2g}): keep head and embedding out of target_modules"
        )
    return model


def _unload(model: PreTrainedModel, merge: bool) -> None:
    """Take the adapters off a model, in place; with `merge` they are added to its weights."""
    for name, layer in adapter_layers(model).items():
        if hasattr(layer, "unload_and_optionally_merge_module"):  # a whole module that learns, beside the old one
            plain = layer.unload_and_optionally_merge_module(merge=merge, safe_merge=False, adapter_names=None)
        else:
            if merge:
                layer.merge()
            plain = layer.get_base_layer()
        model.set_submodule(name, plain)
    vars(model).pop("peft_config", None)
    model._hf_peft_config_loaded = False  # else transformers saves adapters alone
