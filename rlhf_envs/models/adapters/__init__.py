"""Put LoRA adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) on a model, read them from folders, merge them.

The adapters are peft's. Importing this package imports neither torch nor peft.

A folder of adapters has peft's `adapter_config.json` and `adapter_model.safetensors`. Ours also has the name, the place
and the checksum of the base model, in `adapter_base.json`.
"""

from .folders import (
    adapter_base,
    check_base,
    check_whole,
    find_base,
    is_adapter_folder,
    load_adapters,
    place_base,
    read_lora_config,
    save_adapters,
    save_config,
)
from .layers import (
    LORA,
    active_adapter,
    adapter_layers,
    add_adapters,
    base_checksum,
    base_weights,
    check_targets,
    has_adapters,
    inject,
    merge_adapters,
)

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
