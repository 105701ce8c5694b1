"""Read, check and write folders of LoRA adapters, in peft's form.

Nothing that a folder names is imported or fetched: the adapters are built from a fixed list of fields, and the base has
to be on this machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..layer_names import check_names, has_patterns, spell_out
from .layers import (
    FIELDS,
    active_adapter,
    adapter_layers,
    adapter_weights,
    base_checksum,
    import_peft,
    inject,
    make_config,
)

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel

__all__ = [
    "adapter_base",
    "check_base",
    "check_whole",
    "find_base",
    "is_adapter_folder",
    "load_adapters",
    "place_base",
    "read_lora_config",
    "save_adapters",
    "save_config",
]

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "adapter_base.json"
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
    defaults = import_peft().LoraConfig().to_dict()
    for name in fields.keys() - FIELDS - NOTES:
        if fields[name] and fields[name] != defaults.get(name):
            raise ValueError(
                f"{file}: {name}={fields[name]!r} is not supported: load the base and its adapters with peft, "
                "merge_and_unload() them, and save the model"
            )
    check_names(fields, weights, f"{file}: ")
    config = make_config({name: fields[name] for name in FIELDS & fields.keys()}, f"{file}: ")
    widest = max((size for tensor in weights.values() for size in tensor.shape), default=0)
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if not isinstance(rank, int) or rank > widest:  # it may not fit into memory
            raise ValueError(f"{file}: the rank is {rank!r}, and the file of weights has none of that size")
    return config


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
    here = adapter_weights(base)
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


def save_adapters(model: PreTrainedModel, folder: str | Path, base: str, checksum: str) -> None:
    """Write a folder of adapters that `load_adapters` and peft read, with the name and the checksum of its base."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.cpu().contiguous() for name, tensor in adapter_weights(model).items()}
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


def check_base(checksum: str, saved: Mapping[str, Any], where: str | Path) -> None:
    """Raise ValueError if the checksum of a base is not that of the base that adapters were trained on."""
    if checksum != saved.get("sha256"):
        raise ValueError(
            f"the adapters in {where} were trained on another model than the {saved.get('name')!r} that is here: its "
            "weights have another checksum; bring back the old ones, or train the adapters anew"
        )
