"""Run the trunk of a language model: its passes, its list of blocks, and blocks that run otherwise for a while."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache

from .picture_grid import picture_arguments, positions_of
from .pictures import decoder_of

__all__ = ["cache_argument", "checkpointed", "find_blocks", "hidden_states", "nearly_equal", "replaced_forwards"]


def cache_argument(trunk: nn.Module) -> str:
    """Return the name under which a trunk takes its KV cache: transformers 5.24 renamed it to "cache"."""
    return "cache" if "cache" in inspect.signature(trunk.forward).parameters else "past_key_values"


def hidden_states(
    trunk: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    positions: torch.Tensor | None = None,
    cache: Cache | None = None,
    pixels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the last hidden states `(batch, length, hidden_size)` of right-padded contexts; fill the empty cache.

    With `positions`, `(batch, length)`, and without a mask a row holds several sequences, see `agents.core.packing`.
    `pixels` are the contexts' pictures, in the form that the trunk takes.
    """
    if positions is None:
        positions = positions_of(trunk, input_ids)
    use: dict[str, Any] = {"use_cache": False} if cache is None else {"use_cache": True, cache_argument(trunk): cache}
    use |= picture_arguments(trunk, pixels)
    return trunk(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, **use).last_hidden_state


@contextmanager
def replaced_forwards(
    blocks: Sequence[nn.Module], replace: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Let blocks run `replace(forward)` in place of their own `forward` while a `with` block runs."""
    own = [vars(block).get("forward") for block in blocks]  # accelerate gives an instance its own
    for block in blocks:
        block.forward = replace(block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def checkpointed(blocks: Sequence[nn.Module]) -> AbstractContextManager[None]:
    """Return a context in which autograd keeps of each block only its input, and computes the rest again when needed.

    transformers' own `gradient_checkpointing_enable` does this in training mode alone, where dropout is on.
    """
    plain = not torch.backends.cuda.flash_sdp_enabled()  # attention was told to take its plain kernel

    def replace(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
                return forward(*args, **kwargs)

        return partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)

    return replaced_forwards(blocks, replace)


def find_blocks(trunk: nn.Module, n_blocks: int) -> nn.ModuleList:
    """Return the list of a trunk's `n_blocks` blocks, found by its length; raise `ValueError` if there is none."""
    for module in decoder_of(trunk).modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return module
    raise ValueError(
        f"{type(trunk).__name__} has no list of {n_blocks} blocks: neither train=k nor gradient_checkpointing fits it"
    )


def nearly_equal(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether two ways to compute the same in `dtype` agree: to 1e-3, or to 16 steps of a coarser type.

    Of a coarser type the norm of the difference counts: single numbers may differ more.
    """
    if dtype.itemsize >= 4:
        return torch.allclose(a, b, atol=1e-3, rtol=1e-3)
    return bool((a - b).norm() <= 16 * torch.finfo(dtype).eps * b.norm())
