"""Keep a KV cache with one slot per environment: the last hidden state of each context costs one token.

`SlottedTrunk` is a pure function of the contexts it is given. It remembers the ids that each slot has seen. A context
that extends its slot by one token is decoded in one batched step over all slots. A context that has not changed is
answered from memory. All other contexts are prefilled in one batch. New weights empty the slots. So no caller can make
it wrong, in whatever order it steps, resets or evaluates. (Only weights that are changed through `.data`, which torch
cannot see, need a call of `clear`.)
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from rlhf_envs.models.adapters import adapter_layers

from .language_model import (
    LanguageModel,
    SplitTrunk,
    cache_argument,
    checkpointed,
    find_blocks,
    hidden_states,
    nearly_equal,
)
from .observations import gather_hidden, read_contexts
from .precision import computing_type

__all__ = ["SlottedTrunk", "Trunk"]


_steps = Counter[str]()  # of all optimisers, because a fused one changes weights without raising their version
register_optimizer_step_post_hook(lambda *_: _steps.update(["all"]))


class SlotLayer(CacheLayerMixin):
    """Hold keys and values of one block, `(slots, heads, capacity, head_dim)`, written at each slot's own position."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slots: int, capacity: int) -> None:
        super().__init__()
        shape, dtype = (slots, keys.shape[1], capacity), computing_type(keys)
        self.keys: torch.Tensor = keys.new_zeros((*shape, keys.shape[3]), dtype=dtype)
        self.values: torch.Tensor = values.new_zeros((*shape, values.shape[3]), dtype=dtype)
        self.is_initialized = True
        self.slots = torch.arange(slots, device=keys.device)
        self.positions = torch.zeros_like(self.slots)  # (slots,) where the next token goes
        self.length = 0  # the longest slot, this token included

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the slots are allocated at construction."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys[self.slots, :, self.positions] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[self.slots, :, self.positions] = value_states[:, :, 0].to(self.values.dtype)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length, 0

    def get_seq_length(self) -> int:
        return max(self.length - 1, 0)

    def get_max_length(self) -> int:
        return self.keys.shape[2]

    get_max_cache_shape = get_max_length  # its name in older transformers


class SlottedTrunk:
    """Return the last hidden state of every context of a batch, through one cache slot per row.

    Args:
        trunk: the base model of a causal language model.
        max_length: the longest context that will come. For longer ones the cache is tried out again.
        enabled: False for the plain path without a cache. By default the cache is tried out.
    """

    def __init__(self, trunk: nn.Module, max_length: int, enabled: bool | None = None) -> None:
        self.trunk: Any = trunk
        self.max_length = max_length
        self._adapted = [*adapter_layers(trunk).values()]
        self.enabled = self._fits() if enabled is None else enabled
        self.clear()

    def clear(self) -> None:
        """Forget every slot."""
        self._layers: list[SlotLayer] = []
        self._ids = torch.empty(0, 0)  # (slots, length)
        self._lengths = torch.empty(0)  # (slots,), 0 for an empty slot
        self._hidden = torch.empty(0, 0)  # (slots, hidden_size)
        self._weights: tuple[Any, ...] = ()

    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the hidden states `(batch, hidden_size)` after the last tokens of right-padded contexts.

        The ids are `(batch, length)` int64, the lengths `(batch,)` int64 and at least 1.
        """
        if self.enabled and input_ids.shape[1] > self.max_length:
            self.max_length = input_ids.shape[1]
            self.enabled = self._fits()
        if not self.enabled:
            return self._prefill(input_ids, lengths)
        switched_off = [layer.disable_adapters for layer in self._adapted]
        weights = (_steps["all"], *switched_off, *((p.data_ptr(), p._version) for p in self.trunk.parameters()))
        if self._ids.shape != input_ids.shape or weights != self._weights:
            self.clear()
            self._weights = weights
            self._ids, self._lengths = torch.zeros_like(input_ids), torch.zeros_like(lengths)
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        known = ((input_ids == self._ids) | (columns >= self._lengths[:, None])).all(dim=1) & (self._lengths > 0)
        grown = lengths - self._lengths
        fresh = ~(known & ((grown == 0) | (grown == 1)))
        extended, rows = (known & (grown == 1)).any(), fresh.nonzero().squeeze(1)
        self._ids.copy_(input_ids)
        self._lengths.copy_(lengths)
        try:
            if extended:
                self._decode()
            if len(rows):
                self._fill(rows)
        except BaseException:  # out of memory, an interrupt: the slots do not hold the ids that were just written
            self.clear()
            raise
        return self._hidden.clone()

    def _decode(self) -> None:
        """Decode one token in every slot.

        A slot that did not grow decodes its last token again, or `_fill` replaces it afterwards.
        """
        positions = self._lengths - 1
        length = int(self._lengths.max())
        for layer in self._layers:
            layer.positions, layer.length = positions, length
        visible = torch.arange(length, device=positions.device) <= positions[:, None]
        dtype = self._layers[0].keys.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
        mask.masked_fill_(~visible, torch.finfo(dtype).min)
        output = self.trunk(
            input_ids=self._ids.gather(1, positions[:, None]),
            attention_mask=mask[:, None, None],  # (slots, 1, 1, length)
            position_ids=positions[:, None],
            use_cache=True,
            **{cache_argument(self.trunk): Cache(layers=list(self._layers))},
        )
        self._hidden = output.last_hidden_state[:, 0]

    def _fill(self, rows: torch.Tensor) -> None:
        """Encode whole contexts and put them into their slots."""
        cache = DynamicCache()
        hidden = self._prefill(self._ids[rows], self._lengths[rows], cache)
        layers: list[Any] = cache.layers
        length = int(self._lengths[rows].max())
        if not self._layers:
            slots, capacity = self._ids.shape
            self._layers = [SlotLayer(layer.keys, layer.values, slots, capacity) for layer in layers]
            self._hidden = hidden.new_zeros((slots, hidden.shape[1]))
        for slot, layer in zip(self._layers, layers, strict=True):
            slot.keys[rows, :, :length] = layer.keys.to(slot.keys.dtype)
            slot.values[rows, :, :length] = layer.values.to(slot.values.dtype)
        self._hidden[rows] = hidden

    def _prefill(
        self, input_ids: torch.Tensor, lengths: torch.Tensor, cache: DynamicCache | None = None
    ) -> torch.Tensor:
        ids = input_ids[:, : int(lengths.max())]
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        hidden = hidden_states(self.trunk, ids, mask, cache)
        return hidden[torch.arange(len(ids), device=ids.device), lengths - 1]

    def _fits(self) -> bool:
        """Return whether this model's cache can be slotted: tried on the shortest and the longest context."""
        config = self.trunk.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        slides = window and window < self.max_length and getattr(config, "use_sliding_window", True)
        too_long = f"its attention slides over {window} tokens and contexts reach {self.max_length}"
        reason = too_long if slides else self._try_slots()
        if reason:
            name = type(self.trunk).__name__
            warnings.warn(f"{name} decodes without a KV cache, which is slow: {reason}", stacklevel=3)
        return not reason

    @torch.no_grad()
    def _try_slots(self) -> str:
        self.enabled = True
        self.clear()
        parameter = next(self.trunk.parameters())
        length = max(self.max_length, 2)
        ids = torch.arange(2 * length, device=parameter.device).reshape(2, length) % 2
        lengths = torch.tensor([1, length - 1], device=parameter.device)
        try:
            self(ids, lengths)
            slotted = self(ids, lengths + 1)
        except Exception as error:  # whatever a foreign model raises here means: not slottable
            return f"its cache cannot be slotted ({type(error).__name__}: {error})"
        full = self._prefill(ids, lengths + 1)
        self.clear()
        equal = nearly_equal(slotted, full, computing_type(parameter))
        return "" if equal else "its slotted cache does not equal a full recompute"


class Trunk:
    """Hold a trunk, its KV cache, and its frozen part if it has one. The policy owns the parameters.

    Args:
        module: the base model of `language_model`, or its copy.
        like: a trunk with the same architecture, so that cache and split need not be tried out again.
        checkpointing: keep only the inputs of blocks for the backward pass, which computes the rest again.

    Attributes:
        run: what encodes whole contexts: `hidden_states`, or its compiled form.
    """

    def __init__(
        self,
        module: nn.Module,
        max_length: int,
        language_model: LanguageModel,
        like: Trunk | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.module = module
        self.run: Callable[..., torch.Tensor] = hidden_states if like is None else like.run
        self.cache: SlottedTrunk = SlottedTrunk(module, max_length, None if like is None else like.cache.enabled)
        splits = like is None or like.split is not None
        self.split: SplitTrunk | None = language_model.split(module) if splits else None
        self._checkpointed = [*find_blocks(module, language_model.config.num_hidden_layers)] if checkpointing else []

    def hidden(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the hidden states where actions are chosen, `(n, hidden_size)`; see `LanguageModelPolicy.hidden`."""
        if "rows" not in obs and not torch.is_grad_enabled():
            return self.cache(*read_contexts(obs))
        with checkpointed(self._checkpointed) if torch.is_grad_enabled() else nullcontext():
            return self._encode(obs)

    def _encode(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        split = self.split
        if "trunk_states" not in obs or split is None:
            return gather_hidden(partial(self.run, self.module), obs)
        states = obs["trunk_states"]
        return gather_hidden(lambda ids, mask: split.finish(states[:, : ids.shape[1]], ids, mask), obs)
