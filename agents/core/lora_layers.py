"""Compute layers with LoRA adapters faster than peft does, with the same result and with the weights left as they are.

Only plain LoRA on float32 layers is computed here, and peft computes all else: in bfloat16 a merged weight would be
rounded, DoRA scales the sum of both weights, dropout in training mode reads another input, and a module that learns as
a whole has no adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .forward_pass import replaced_forwards
from .precision import computing_type

__all__ = ["LayerCopies", "MergedLayers", "adapters_in_use", "added_in_place", "is_plain"]


class LayerCopies:
    """Hold copies of the weights of layers as passes without gradients multiply by them.

    The copies do not follow the weights: whoever holds them drops or renews them once weights or `adapters_in_use`
    change.

    Args:
        layers: modules that do the same as a linear layer.
        copy: returns `linear` with the weight and the bias of such a module.
    """

    def __init__(self, layers: Iterable[Any], copy: Callable[[Any], partial[torch.Tensor]]) -> None:
        self.layers = [*layers]
        self._copy = copy
        self._forwards = [copy(layer) for layer in self.layers]

    @torch.no_grad()
    def renew(self) -> None:
        """Bring the copies up to the weights, where they are in memory."""
        for layer, forward in zip(self.layers, self._forwards, strict=True):
            for name, new in self._copy(layer).keywords.items():
                if new is not None and new.data_ptr() != forward.keywords[name].data_ptr():
                    forward.keywords[name].copy_(new)

    def used(self) -> AbstractContextManager[None]:
        """Return a context in which the layers compute with the copies."""
        forwards = iter(self._forwards)
        return replaced_forwards(self.layers, lambda _: next(forwards))


class MergedLayers(LayerCopies):
    """Hold copies of weights with the adapters merged into them: one matrix product instead of three.

    Args:
        layers: what `adapter_layers` returns.
    """

    def __init__(self, layers: Iterable[Any]) -> None:
        super().__init__([layer for layer in layers if is_plain(layer)], _merged)


def added_in_place(layers: Iterable[Any]) -> AbstractContextManager[None]:
    """Return a context in which layers add their adapters' output in place, where peft makes two more tensors."""
    plain = [layer for layer in layers if is_plain(layer)]
    forwards = iter([partial(_added, layer) for layer in plain])
    return replaced_forwards(plain, lambda _: next(forwards))


def adapters_in_use(layers: Iterable[Any]) -> tuple[Any, ...]:
    """Return which adapters compute, and their scales: what layers depend on besides their weights."""
    return tuple(
        (layer.disable_adapters, *layer.active_adapters, *getattr(layer, "scaling", {}).values()) for layer in layers
    )


def is_plain(layer: Any) -> bool:
    """Return whether a layer with adapters is computed here, and not by peft."""
    from peft.tuners.lora import Linear  # late: peft is an extra

    if type(layer) is not Linear or layer.disable_adapters or layer.merged or layer.training:
        return False
    base: Any = layer.get_base_layer()
    return (
        type(base) in (nn.Linear, Conv1D)
        and base.weight.dtype == computing_type(base.weight) == torch.float32
        and not any(name in layer.lora_variant or layer.lora_bias[name] for name in _active(layer))
    )


def _active(layer: Any) -> list[str]:
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _weight(layer: Any) -> torch.Tensor:
    """Return the weight of the base, `(out, in)`."""
    weight: torch.Tensor = layer.get_base_layer().weight
    return weight.T if layer.fan_in_fan_out else weight


@torch.no_grad()
def _merged(layer: Any) -> partial[torch.Tensor]:
    weight = _weight(layer)
    for name in _active(layer):
        weight = weight.addmm(layer.lora_B[name].weight, layer.lora_A[name].weight, alpha=layer.scaling[name])
    return partial(nn.functional.linear, weight=weight, bias=layer.get_base_layer().bias)


def _added(layer: Any, x: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    output = nn.functional.linear(rows, _weight(layer), layer.get_base_layer().bias)
    for name in _active(layer):
        low = nn.functional.linear(rows, layer.lora_A[name].weight)
        output.addmm_(low, layer.lora_B[name].weight.T, alpha=layer.scaling[name])
    return output.view(*x.shape[:-1], output.shape[-1])
