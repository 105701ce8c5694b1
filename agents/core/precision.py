"""Know in which types weights are stored and passes computed: float32, or bfloat16 where rounding does no harm.

Two options compute in bfloat16, by autocast. `bf16=True` keeps all weights in float32. `dtype="bfloat16"` also stores
frozen matrices in bfloat16, which halves their memory. In both cases hidden states are added up in float32, and logits,
values, log-probabilities and entropies are computed in float32: logits rounded to bfloat16 would move log-probabilities
by several percent, and the first ratios of PPO with them.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

__all__ = [
    "ATTENTION",
    "check_device",
    "check_dtype",
    "computing_type",
    "keep_float32",
    "set_attention",
    "store_frozen",
]

logger = logging.getLogger(__name__)

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flex_attention")  # other names may be hub ids of kernels


def check_dtype(dtype: Any) -> None:
    """Raise `ValueError` if weights cannot be stored in a type."""
    if dtype == "float16":
        raise ValueError(
            "dtype='float16': its numbers end at 65,504, and gradients below 6e-8 vanish without a loss scale, which "
            "SB3's updates do not have; take 'bfloat16'"
        )
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r}: expected 'float32' or 'bfloat16'")


def check_device(device: torch.device) -> None:
    """Raise `ValueError` if a device does not compute in bfloat16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} does not compute in bfloat16: leave out dtype='bfloat16' and bf16"
        )


def computing_type(tensor: torch.Tensor) -> torch.dtype:
    """Return the type in which matrices are multiplied with a tensor: autocast's, or the tensor's own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def keep_float32(model: nn.Module) -> None:
    """Turn a model that learns into float32, in place and with a warning: small steps are lost in coarser weights.

    In bfloat16 a weight of 1 has neighbours at 1.0078 and 0.9961, so Adam's steps at a learning rate of 1e-5 round to
    nothing. transformers loads the type that the file has, often bfloat16.
    """
    coarse = {p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype.itemsize < 4}
    if coarse:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in coarse))
        logger.warning(
            "the weights of the given %s are %s, in which small updates are lost: they are turned into float32, in "
            "place; bf16=True still computes in bfloat16, and dtype='bfloat16' keeps what is frozen in it",
            type(model).__name__,
            names,
        )
        model.float()


def store_frozen(model: Any, trains_all: bool = False) -> None:
    """Store the frozen matrices of a causal language model in bfloat16, and everything else in float32, in place.

    What learns is float32, and so are norms and biases, which are small, and embeddings and head, so that hidden states
    and logits are not rounded.

    Raises:
        ValueError: all of the model learns, with `trains_all`.
    """
    if trains_all:
        raise ValueError(
            "dtype='bfloat16' with train='full': all weights learn, and what learns is float32, because small updates "
            "are lost in bfloat16; take train='lora', a number of last blocks or 'head', or take bf16=True, which "
            "computes in bfloat16 and keeps all weights in float32"
        )
    ends = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            coarse = not parameter.requires_grad and parameter.dim() > 1 and id(parameter) not in ends
            parameter.data = parameter.data.to(torch.bfloat16 if coarse else torch.float32)


def set_attention(model: Any, name: str) -> None:
    """Let a model compute attention in one of the ways of `ATTENTION`.

    Raises:
        ValueError: there is no such way, or the model or this machine does not have it.
    """
    if name not in ATTENTION:
        raise ValueError(f"attn_implementation={name!r}: expected one of {', '.join(ATTENTION)}")
    try:
        model.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"attn_implementation={name!r}: {str(error).splitlines()[0]}") from error
    if (own := model.config._attn_implementation) != name:
        raise ValueError(f"attn_implementation={name!r}: {type(model).__name__} only has {own!r}")
