"""Load and save what `rlhf sft` trains: a whole model, or adapters on one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from rlhf_envs.models import load_with_adapters, no_progress_bars, resolve
from rlhf_envs.models.adapters import (
    adapter_base,
    add_adapters,
    base_checksum,
    has_adapters,
    is_adapter_folder,
    merge_adapters,
    save_adapters,
)
from rlhf_envs.models.vision import is_vision_model, load_vision_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_flags", "load_network", "save_network"]


def load_network(model: str, lora: bool) -> PreTrainedModel:
    """Load a model to train: all of it, or with `lora` its adapters, which are new ones if it has none."""
    network = load_vision_model(model) if is_vision_model(model) else load_with_adapters(model)
    if not lora:
        return merge_adapters(network) if has_adapters(network) else network
    if not has_adapters(network):
        add_adapters(network)
    return network


def save_network(network: PreTrainedModel, output: str | Path, model: str = "", merge: bool = False) -> None:
    """Write a trained model, or its adapters alone unless `merge`; `model` is the name that it was loaded by."""
    if has_adapters(network) and not merge:
        base = adapter_base(resolve(model)) if is_adapter_folder(resolve(model)) else model
        return save_adapters(network, output, base, base_checksum(network))
    network = merge_adapters(network) if has_adapters(network) else network
    with no_progress_bars():
        network.save_pretrained(output)


def check_flags(checkpoint: str | None, lora: bool, merge: bool) -> None:
    """Raise ValueError for `merge` without adapters, and for a checkpoint that was saved with another `lora`."""
    if merge and not lora:
        raise ValueError("merge without lora: there are no adapters to merge")
    weights = Path(checkpoint or "") / "model.safetensors"
    if checkpoint is None or not weights.is_file():
        return
    with safe_open(weights, "pt") as file:
        names = list(file.keys())
    if any(".lora_" in name for name in names) != lora:
        raise ValueError(f"{checkpoint} was saved {'without' if lora else 'with'} lora: resume with the same settings")
