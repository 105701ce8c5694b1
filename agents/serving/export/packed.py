"""Write a language model as safetensors with 8- or 4-bit weights, as compressed-tensors does ("pack-quantized").

Weights of linear layers and of the embedding are integers with a float16 scale for every 32 of a row. A head that
shares its weights with the embedding is stored with it, once. Norms, biases and learned positions stay float32.
The configuration asks transformers for plain weights, which it makes as it loads: layers of GPT-2 and shared heads
then load as in any model. So the file is small, and the model in memory is not.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf_envs.models import no_progress_bars

__all__ = ["check_packed", "write_packed"]

BITS = {"int8": 8, "int4": 4}
GROUP = 32  # weights that share a scale, as in GGUF
READS = (5, 23)  # of transformers: the first that is known to read a quantised GPT-2 and shared heads
SHRINK = torch.linspace(1.0, 0.7, 13)  # of the range, to try with 4 bits: clipping the largest rounds the others less
FORMAT = "pack-quantized"


def check_packed(config: Any = None) -> None:
    """Raise an error with the fix if packed weights cannot be written and read here.

    Args:
        config: of a model that is to be read; those that are not packed this way need nothing.

    Raises:
        ModuleNotFoundError: compressed-tensors is missing.
        ImportError: transformers is too old.
    """
    stored = getattr(config, "quantization_config", None) or {}
    if config is not None and (not isinstance(stored, dict) or stored.get("quant_method") != "compressed-tensors"):
        return
    if find_spec("compressed_tensors") is None:
        raise ModuleNotFoundError(
            "safetensors of int8 and int4 need the package compressed-tensors: pip install 'rlhf-envs[export]'"
        )
    if tuple(map(int, transformers.__version__.split(".")[:2])) < READS:
        raise ImportError(
            f"safetensors of int8 and int4 need transformers 5.23 or newer, and {transformers.__version__} is here: "
            "pip install 'transformers>=5.23'"
        )


def write_packed(model: PreTrainedModel, folder: Path, quantize: str) -> list[str]:
    """Write `model.safetensors` and the configuration of a plain model.

    Args:
        quantize: "int8" or "int4".

    Returns:
        What is to be known of the files, as sentences.

    Raises:
        ValueError: a weight is not finite, or too large for a float16 scale.
    """
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    bits = BITS[quantize]
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=True, strategy="group", group_size=GROUP)
    scheme = QuantizationScheme(targets=["Linear", "Conv1D", "Embedding"], weights=weights, format=FORMAT)
    packer = BaseCompressor.get_value_from_registry(FORMAT)
    chosen, ignored, kept = _chosen(model)
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in _once(model).items():
        if key in kept:
            tensors[key] = tensor.half()
        elif key not in chosen:
            tensors[key] = tensor
        else:
            scale = _scales(key, tensor, bits)
            packed = packer.compress({"weight": tensor, "weight_scale": scale.float()}, scheme)
            packed["weight_scale"] = scale
            tensors |= {key.removesuffix("weight") + name: part for name, part in packed.items()}
    saved = copy.copy(model)
    saved.config = copy.deepcopy(model.config)
    described = QuantizationConfig(
        config_groups={"group_0": scheme}, format=FORMAT, quantization_status="compressed", ignore=ignored
    )
    saved.config.quantization_config = described.model_dump() | {"dequantize": True}
    with no_progress_bars():
        saved.save_pretrained(folder, state_dict=tensors)
    notes = [
        "It needs compressed-tensors (`pip install 'rlhf-envs[export]'`) and transformers 5.23 or newer, which make "
        "plain weights of it as they load: the file is smaller, and the model in memory is not."
    ]
    if kept:
        notes.append(f"{len(kept)} tensors stay float16, as their rows are no multiples of {GROUP}: {kept[0]} is one.")
    return notes


def _chosen(model: PreTrainedModel) -> tuple[set[str], list[str], list[str]]:
    """Return the tensors to quantise, the layers that are not, and the matrices among these that become float16."""
    chosen, ignored, kept = set(), [], []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding | Conv1D):
            continue
        if isinstance(module, nn.Embedding) and module is not model.get_input_embeddings():
            ignored.append(name)  # learned positions
        elif module.weight.shape[-1] % GROUP:
            ignored.append(name)
            kept.append(f"{name}.weight")
        else:
            chosen.add(f"{name}.weight")
    return chosen, ignored, kept


def _once(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a model, float32 on the CPU, without a head that shares its weights."""
    head = next(key for key, module in model.named_modules() if module is model.get_output_embeddings())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    state = model.state_dict().items()
    return {key: t.detach().float().cpu() for key, t in state if not (tied and key == f"{head}.weight")}


def _scales(key: str, tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the step of every group, (rows, groups) float16: with 4 bits, the one with the smallest squared error."""
    groups = tensor.unflatten(1, (-1, GROUP))
    widest = groups.abs().amax(-1) / (127 if bits == 8 else 7.5)  # the integers of 4 bits go from -8 to 7
    best = widest.half().clamp(min=2.0**-24)  # a group of zeros has a step too
    if not best.isfinite().all():
        raise ValueError(f"the weights {key} are not finite, or too large for {bits} bits: take --quantize float16")
    if bits == 8:
        return best
    least = torch.full_like(widest, torch.inf)
    for share in SHRINK:
        scale = (widest * share).half().clamp(min=2.0**-24)
        step = scale.float()[..., None]
        error = ((groups / step).round().clamp(-8, 7) * step - groups).square().sum(-1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
