"""Define `SlotLayer`: the keys and values of one block, with a slot per environment; and the mask that reads them."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from .precision import computing_type

__all__ = ["SlotLayer", "causal_mask"]


class SlotLayer(CacheLayerMixin):
    """Hold keys and values of one block, `(slots, heads, capacity, head_dim)`, written at each slot's own positions.

    Attributes:
        rows: `(n,)` the slots that the next pass reads and writes; None for all.
        columns: `(n, width)` where in them its tokens go.
        length: how many positions it reads.
    """

    is_sliding = False
    rows: torch.Tensor | None = None
    columns: torch.Tensor
    length = 0

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slots: int, capacity: int) -> None:
        super().__init__()
        shape, dtype = (slots, keys.shape[1], capacity), computing_type(keys)
        self.keys: torch.Tensor = keys.new_zeros((*shape, keys.shape[3]), dtype=dtype)
        self.values: torch.Tensor = values.new_zeros((*shape, values.shape[3]), dtype=dtype)
        self.is_initialized = True
        self.slots = torch.arange(slots, device=keys.device)
        self.columns = self.slots.new_zeros((slots, 0))

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the slots are allocated at construction."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        slots = (self.slots if self.rows is None else self.rows)[:, None]
        self.keys[slots, :, self.columns] = key_states.transpose(1, 2).to(self.keys.dtype)
        self.values[slots, :, self.columns] = value_states.transpose(1, 2).to(self.values.dtype)
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        return (keys, values) if self.rows is None else (keys[self.rows], values[self.rows])

    def copy(self, sources: torch.Tensor, targets: torch.Tensor, length: int) -> None:
        """Copy the first `length` positions of some slots into others."""
        self.keys[targets, :, :length] = self.keys[sources, :, :length]
        self.values[targets, :, :length] = self.values[sources, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length, 0

    def get_seq_length(self) -> int:
        return self.length - self.columns.shape[1]

    def get_max_length(self) -> int:
        return self.keys.shape[2]

    get_max_cache_shape = get_max_length  # its name in older transformers


def causal_mask(columns: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores, `(n, width, length)`: 0 up to each of the `columns` `(n, width)`.

    What lies behind it gets the smallest number.
    """
    edge = torch.zeros(2 * length, dtype=dtype, device=columns.device)
    edge[length:].fill_(torch.finfo(dtype).min)
    windows = edge.unfold(0, length, 1)  # window i has length - i zeros; copying one is faster than comparing numbers
    return windows.index_select(0, length - 1 - columns.flatten()).view(*columns.shape, length)
