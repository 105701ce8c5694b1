"""Set small weights of linear layers to 0, by magnitude: a share of each matrix, or n of every m neighbours.

Each matrix is pruned by itself, as the magnitude baseline of Sun et al. 2023 (Wanda, https://arxiv.org/abs/2306.11695)
is. Embeddings and the head stay, as there. Nothing is trained afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

__all__ = ["check_pruning", "prune", "sparsity"]


def check_pruning(share: float | None, pattern: str | None) -> tuple[int, int] | None:
    """Return n and m of a pattern such as "2:4", which keeps n of every m; None without one.

    Raises:
        ValueError: there is no such share or pattern, or they contradict each other.
    """
    if share is not None and not 0 < share < 1:
        raise ValueError(f"prune={share}: expected a share of the weights between 0 and 1, such as 0.3")
    if pattern is None:
        return None
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", pattern)
    kept, group = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < kept < group:
        raise ValueError(f"prune_pattern={pattern!r}: expected how many weights of how many stay, such as 2:4")
    if share is not None and abs(share - (1 - kept / group)) > 1e-6:
        raise ValueError(
            f"prune={share} with prune_pattern={pattern!r}: that prunes {1 - kept / group:g}; leave prune out"
        )
    return kept, group


@torch.no_grad()
def prune(model: PreTrainedModel, share: float | None, pattern: str | None) -> None:
    """Prune the linear layers of a model, in place.

    Args:
        share: of the weights of every matrix, those of the smallest magnitude, ties by their place.
        pattern: instead of it, "n:m": of every m neighbours along the input the n largest stay.

    Raises:
        ValueError: an argument is wrong, the model has no linear layers, or rows of a length that m does not divide.
    """
    groups = check_pruning(share, pattern)
    matrices = dict(_matrices(model))
    if not matrices:
        raise ValueError(f"this {type(model).__name__} has no linear layers below its head to prune: leave prune out")
    for name, weight in matrices.items():
        if groups is None:
            assert share is not None
            flat = weight.reshape(-1)
            flat[flat.abs().argsort(stable=True)[: round(share * flat.numel())]] = 0
            weight.copy_(flat.view_as(weight))
            continue
        kept, size = groups
        if weight.shape[1] % size:
            raise ValueError(f"prune_pattern={pattern!r}: {name} has {weight.shape[1]} inputs, no multiple of {size}")
        parts = weight.unflatten(1, (-1, size))
        small = parts.abs().argsort(dim=-1, stable=True)[..., : size - kept]
        weight.copy_(parts.scatter(-1, small, 0.0).flatten(1))


def sparsity(model: PreTrainedModel) -> float:
    """Return the share of the weights of the linear layers that are 0; NaN of a model without such layers."""
    weights = [weight for _, weight in _matrices(model)]
    zeros, all_of_them = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    return zeros / all_of_them if all_of_them else float("nan")


def _matrices(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of the linear layers below the head, `(out, in)`, by name. They share the model's memory."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear):
            yield f"{name}.weight", module.weight.data
        elif isinstance(module, Conv1D):
            yield f"{name}.weight", module.weight.data.T
