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
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from .language_model import LanguageModel, SplitTrunk, float_tolerance, hidden_states
from .observations import gather_hidden, read_contexts

__all__ = ["SlottedTrunk", "Trunk"]


_steps = Counter[str]()  # of all optimisers, because a fused one changes weights without raising their version
register_optimizer_step_post_hook(lambda *_: _steps.update(["all"]))


class SlotLayer(CacheLayerMixin):
    """Hold keys and values of one block, `(slots, heads, capacity, head_dim)`, written at each slot's own position."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slots: int, capacity: int) -> None:
        super().__init__()
        shape = (slots, keys.shape[1], capacity)
        self.keys: torch.Tensor = keys.new_zeros((*shape, keys.shape[3]))
        self.values: torch.Tensor = values.new_zeros((*shape, values.shape[3]))
        self.is_initialized = True
        self.slots = torch.arange(slots, device=keys.device)
        self.positions = torch.zeros_like(self.slots)  # (slots,) where the next token goes
        self.length = 0  # the longest slot, this token included

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the slots are allocated at construction."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys[self.slots, :, self.positions] = key_states[:, :, 0]
        self.values[self.slots, :, self.positions] = value_states[:, :, 0]
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length, 0

    def get_seq_length(self) -> int:
        return max(self.length - 1, 0)

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class SlottedTrunk:
    """Return the last hidden state of every context of a batch, through one cache slot per row.

    Args:
        trunk: the base model of a causal language model.
        max_length: the longest context that will come.
        enabled: False for the plain path without a cache. By default the cache is tried out.
    """

    def __init__(self, trunk: nn.Module, max_length: int, enabled: bool | None = None) -> None:
        self.trunk: Any = trunk
        self.max_length = max_length
        self.enabled = self._fits() if enabled is None else enabled
        self.clear()

    def clear(self) -> None:
        """Forget every slot."""
        self._layers: list[SlotLayer] = []
        self._ids: torch.Tensor | None = None  # (slots, length)
        self._lengths: torch.Tensor | None = None  # (slots,), 0 for an empty slot
        self._hidden: torch.Tensor | None = None  # (slots, hidden_size)
        self._weights: tuple[Any, ...] = ()

    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the hidden states `(batch, hidden_size)` after the last tokens of right-padded contexts.

        The ids are `(batch, length)` int64, the lengths `(batch,)` int64 and at least 1.
        """
        if not self.enabled:
            return self._prefill(input_ids, lengths)[0]
        weights = (_steps["all"], *((p.data_ptr(), p._version) for p in self.trunk.parameters()))
        if self._ids is None or self._ids.shape != input_ids.shape or weights != self._weights:
            self.clear()
            self._weights = weights
            self._ids = torch.zeros_like(input_ids)
            self._lengths = torch.zeros_like(lengths)
        assert self._lengths is not None
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
        assert self._hidden is not None
        return self._hidden.clone()

    def _decode(self) -> None:
        """Decode one token in every slot.

        A slot that did not grow decodes its last token again, or `_fill` replaces it afterwards.
        """
        assert self._ids is not None and self._lengths is not None
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
            past_key_values=Cache(layers=list(self._layers)),
            use_cache=True,
        )
        self._hidden = output.last_hidden_state[:, 0]

    def _fill(self, rows: torch.Tensor) -> None:
        """Encode whole contexts and put them into their slots."""
        assert self._ids is not None and self._lengths is not None
        cache = DynamicCache()
        hidden, length = self._prefill(self._ids[rows], self._lengths[rows], cache)
        layers: list[Any] = cache.layers
        if self._hidden is None:
            slots, capacity = self._ids.shape
            self._layers = [SlotLayer(layer.keys, layer.values, slots, capacity) for layer in layers]
            self._hidden = hidden.new_zeros((slots, hidden.shape[1]))
        for slot, layer in zip(self._layers, layers, strict=True):
            slot.keys[rows, :, :length] = layer.keys
            slot.values[rows, :, :length] = layer.values
        self._hidden[rows] = hidden

    def _prefill(
        self, input_ids: torch.Tensor, lengths: torch.Tensor, cache: DynamicCache | None = None
    ) -> tuple[torch.Tensor, int]:
        length = int(lengths.max())
        ids = input_ids[:, :length]
        mask = (torch.arange(length, device=ids.device) < lengths[:, None]).long()
        if cache is None:
            hidden = hidden_states(self.trunk, ids, mask)
        else:
            positions = torch.arange(length, device=ids.device)[None].expand_as(ids)
            hidden = self.trunk(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state
        return hidden[torch.arange(len(ids), device=ids.device), lengths - 1], length

    def _fits(self) -> bool:
        """Return whether this model's cache can be slotted: tried on the shortest and the longest context."""
        config = self.trunk.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        name = type(self.trunk).__name__
        if window and window < self.max_length and getattr(config, "use_sliding_window", True):
            reason = f"its attention slides over {window} tokens and contexts reach {self.max_length}"
        else:
            reason = self._try_slots()
        if reason:
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
        full = self._prefill(ids, lengths + 1)[0]
        self.clear()
        tolerance = float_tolerance(parameter.dtype)
        if not torch.allclose(slotted, full, atol=tolerance, rtol=tolerance):
            return "its slotted cache does not equal a full recompute"
        return ""


class Trunk:
    """Hold a trunk, its KV cache, and its frozen part if it has one. The policy owns the parameters.

    Args:
        module: the base model of a causal language model, or its copy.
        max_length: the longest context that will come.
        language_model: the language model, which knows what is frozen.
        like: a trunk with the same architecture, so that cache and split need not be tried out again.

    Attributes:
        run: what encodes whole contexts: `hidden_states`, or its compiled form.
    """

    def __init__(
        self, module: nn.Module, max_length: int, language_model: LanguageModel, like: Trunk | None = None
    ) -> None:
        self.module = module
        self.run: Callable[..., torch.Tensor] = hidden_states if like is None else like.run
        self.cache: SlottedTrunk = SlottedTrunk(module, max_length, None if like is None else like.cache.enabled)
        self.split: SplitTrunk | None = None
        if like is None or like.split is not None:
            self.split = language_model.split(module)

    def hidden(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the hidden states where actions are chosen, `(n, hidden_size)`; see `LanguageModelPolicy.hidden`."""
        if "rows" not in obs and not torch.is_grad_enabled():
            return self.cache(*read_contexts(obs))
        split = self.split
        if "trunk_states" not in obs or split is None:
            return gather_hidden(partial(self.run, self.module), obs)
        states = obs["trunk_states"]
        return gather_hidden(lambda ids, mask: split.finish(states[:, : ids.shape[1]], ids, mask), obs)
