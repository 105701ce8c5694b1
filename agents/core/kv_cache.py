"""Keep a KV cache with one slot per environment: a context costs only the tokens that its slot has not seen.

`SlottedTrunk` is a pure function of the contexts it is given. It remembers the ids that each slot has seen.

- Contexts that have not changed are answered from memory.
- Contexts whose last token alone is new are decoded in one batched step over all slots.
- Contexts that grew by more (a reply was appended), or whose slots hold at least half of them (a system prompt), are
  encoded from there on in one batch.
- All other contexts are prefilled in one batch.
- Equal contexts (the prompt of a group) are encoded once, and the slot is copied.
- A context with a picture is encoded whole, with its picture. The slot remembers the picture as it remembers the ids.

New weights empty the slots. So no caller can make it wrong, in whatever order it steps, resets or evaluates. (Only
weights that are changed through `.data`, which torch cannot see, need a call of `clear`.)
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import DynamicCache
from transformers.cache_utils import Cache

from rlhf_envs.models.adapters import adapter_layers

from .forward_pass import cache_argument, hidden_states, nearly_equal
from .frozen_states import SlotStates
from .graph_decode import DecodingGraphs
from .lora_layers import MergedLayers, adapters_in_use
from .picture_grid import grid_of
from .precision import computing_type
from .slot_layer import SlotLayer, causal_mask
from .trials import try_once
from .weight_versions import WeightVersions

__all__ = ["SlottedTrunk"]


STEPS_UNMERGED = 4  # merging costs a few steps' time, which a few tokens do not win back

_steps = Counter[str]()  # of all optimisers, because a fused one changes weights without raising their version
register_optimizer_step_post_hook(lambda *_: _steps.update(["all"]))


class SlottedTrunk:
    """Return the last hidden state of every context of a batch, through one cache slot per row.

    Args:
        trunk: the base model of a causal language model.
        max_length: the longest context that will come. For longer ones the cache is tried out again.
        enabled: False for the plain path without a cache. By default the cache is tried out.

    Attributes:
        frozen: where the output of the trunk's frozen blocks is kept; None if it is not.
        graphs: CUDA graphs that decode on a GPU; None to decode eagerly there too.
    """

    frozen: SlotStates | None = None
    graphs: DecodingGraphs | None = None
    _lengths: torch.Tensor

    def __init__(self, trunk: nn.Module, max_length: int, enabled: bool | None = None) -> None:
        self.trunk: Any = trunk
        self.max_length = max_length
        self._cache_argument = cache_argument(trunk)
        self._versions = WeightVersions(trunk)
        self.adapted = [*adapter_layers(trunk).values()]
        self.enabled = self._fits() if enabled is None else enabled
        self.clear()

    def clear(self) -> None:
        """Forget every slot. Graphs keep the memory of the slots, which they read and write where it is."""
        self._weights: tuple[Any, ...] = ()
        self._decoded = 0  # steps since the weights or all contexts changed
        self._merged: MergedLayers | None = None
        self._pixels: torch.Tensor | None = None  # (slots, ...)
        if self.graphs:
            self._lengths.zero_()
            return
        self._layers: list[SlotLayer] = []
        self._ids = torch.empty(0, 0)  # (slots, length)
        self._lengths = torch.empty(0)  # (slots,), 0 for an empty slot
        self._hidden = torch.empty(0, 0)  # (slots, hidden_size)
        if self.frozen is not None:
            self.frozen.clear()

    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(
        self,
        input_ids: torch.Tensor,
        lengths: torch.Tensor,
        needed: torch.Tensor | None = None,
        pixels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the hidden states `(batch, hidden_size)` after the last tokens of right-padded contexts.

        Args:
            input_ids: `(batch, length)` int64.
            lengths: `(batch,)` int64, at least 1.
            needed: `(batch,)` bool, the rows that matter; None for all. What is returned for the others may be of other
                contexts. Rows that matter are the same to the last digit.
            pixels: the contexts' pictures, `(batch, ...)` as the trunk takes them; None without any.
        """
        if self.frozen is not None:
            self.frozen.calls += 1
        if self.enabled and input_ids.shape[1] > self.max_length:
            self.max_length = input_ids.shape[1]
            self.enabled = self._fits()
        if not self.enabled:
            return self._prefill(input_ids, lengths, pixels=pixels)
        weights = (_steps["all"], *adapters_in_use(self.adapted), *self._versions.read())
        if self._ids.shape != input_ids.shape or weights != self._weights:
            if self.graphs is not None:
                self.graphs.fit(input_ids.device, input_ids.shape)
            self.clear()
            self._weights = weights
            if self._ids.shape != input_ids.shape:
                self._ids, self._lengths = torch.zeros_like(input_ids), torch.zeros_like(lengths)
                self._rows = torch.arange(len(lengths), device=lengths.device)
        self._take_pixels(pixels)
        if needed is not None and pixels is None:
            input_ids, lengths = self._spare(input_ids, lengths, needed)
        try:
            self._renew(*self._take(input_ids, lengths))
        except BaseException:  # out of memory, an interrupt: the slots do not hold the ids that were just written
            self.clear()
            raise
        return self._hidden.clone()

    def _take_pixels(self, pixels: torch.Tensor | None) -> None:
        """Take the pictures into `_pixels`, and empty the slots that were encoded with another picture, or without."""
        if pixels is None or self._pixels is None:
            if pixels is not self._pixels:
                self._lengths.zero_()
            self._pixels = None if pixels is None else pixels.clone()
            return
        changed = (self._pixels != pixels).flatten(1).any(dim=1)
        if changed.any():
            self._pixels[changed] = pixels[changed]
            self._lengths[changed] = 0

    def _spare(
        self, input_ids: torch.Tensor, lengths: torch.Tensor, needed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return contexts and lengths, with what the slots hold in the rows that are not needed.

        So these are not encoded, and the step of the other rows is as it would have been: it is as long as the longest
        of the contexts that were given. Where that cannot be, or a row is needed that grew by more than a step, all
        contexts stay.
        """
        held, longest = self._lengths, lengths.max()
        taken = torch.where(needed, lengths, torch.minimum(held, longest))
        steps = torch.where(needed, (lengths == held) | (lengths == held + 1), held > 0)
        if steps.all() and taken.max() == longest:
            return torch.where(needed[:, None], input_ids, self._ids), taken
        return input_ids, lengths

    def _take(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> tuple[list[int], list[int]]:
        """Take the contexts into `_ids` and `_lengths`.

        Return where each has to be encoded from (its length if it has not changed), and the lengths.
        """
        rows, held, held_lengths = map(as_array, (self._rows, self._ids, self._lengths))
        given, new_lengths = as_array(input_ids), as_array(lengths)
        like: Any = np if isinstance(given, np.ndarray) else torch
        last, grown = new_lengths - 1, new_lengths == held_lengths + 1
        held[rows, last] = like.where(grown, given[rows, last], held[rows, last])
        as_expected = grown & (held == given).all(1)  # by one token, and the rest is as it was
        expected, counts = like.stack([as_expected, new_lengths]).tolist()
        starts = [count - 1 for count in counts]
        if others := [row for row, one in enumerate(expected) if not one]:
            index = self._index(others)
            found = self._starts(index, input_ids[index], lengths[index]).tolist()
            for row, start in zip(others, found, strict=True):
                starts[row] = start
            self._ids[index] = input_ids[index]
        self._lengths.copy_(lengths)
        return starts, counts

    def _starts(self, rows: torch.Tensor, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return where the contexts of some slots have to be encoded from, `(n,)`; their lengths if unchanged."""
        columns, held = torch.arange(input_ids.shape[1], device=input_ids.device), self._lengths[rows]
        same = (input_ids == self._ids[rows]) & (columns < torch.minimum(lengths, held)[:, None])
        common = torch.where(same, len(columns), columns).amin(dim=1)  # the first column that differs
        kept = (common == held) | (2 * common >= lengths)
        starts = torch.where(kept, torch.minimum(common, lengths - 1), 0)
        if self._pixels is not None:  # a picture is encoded with the whole context
            marks = (input_ids == self.trunk.config.image_token_id) & (columns < lengths[:, None])
            starts = torch.where((marks & (columns >= starts[:, None])).any(dim=1), 0, starts)
        return torch.where((common == lengths) & (lengths == held), lengths, starts)

    def _renew(self, starts: list[int], lengths: list[int]) -> None:
        """Bring the slots up to their new ids, with the decoding step first.

        That step writes into every slot: a slot that stands still decodes its last token again, and what is written
        into the slots of rows that need more is overwritten.
        """
        if not any(starts):  # else a rollout would be rounded as the evaluation before it left this
            self._decoded, self._merged = 0, None
        if any(0 < start == length - 1 for start, length in zip(starts, lengths, strict=True)):
            self._extend(None, 1, max(lengths))
        rows = [i for i, start in enumerate(starts) if start == 0 or start < lengths[i] - 1]
        if not rows:
            return
        first: dict[bytes, int] = {}
        contexts = self._ids[self._index(rows)].cpu().numpy()
        keys = [ids[: lengths[i]].tobytes() for i, ids in zip(rows, contexts, strict=True)]
        if self._pixels is not None:
            pictures = self._pixels[self._index(rows)].cpu().numpy()
            keys = [key + picture.tobytes() for key, picture in zip(keys, pictures, strict=True)]
        like = [first.setdefault(key, i) for i, key in zip(rows, keys, strict=True)]
        if fresh := [i for i in first.values() if starts[i] == 0]:
            self._fill(self._index(fresh))
        if extended := [i for i in first.values() if starts[i] > 0]:
            width = max(lengths[i] - starts[i] for i in extended)
            self._extend(self._index(extended), width, max(lengths[i] for i in extended))
        if copies := [(source, row) for source, row in zip(like, rows, strict=True) if source != row]:
            sources, targets = self._index(copies).T
            for layer in self._layers:
                layer.copy(sources, targets, max(lengths[i] for i in rows))
            if self.frozen is not None:
                self.frozen.copy(sources, targets, max(lengths[i] for i in rows))
            self._hidden[targets] = self._hidden[sources]

    def _index(self, rows: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(rows, device=self._ids.device)

    def _recording(self, rows: torch.Tensor | None, columns: torch.Tensor) -> AbstractContextManager[object]:
        """Keep what the frozen blocks make of the pass in a `with` block: of tokens in these columns of the slots."""
        if self.frozen is None:
            return nullcontext()
        slots = torch.arange(len(self._ids), device=columns.device) if rows is None else rows
        return self.frozen.recording(self._ids.shape, slots, columns)

    def _extend(self, rows: torch.Tensor | None, width: int, length: int) -> None:
        """Encode the last `width` tokens of some contexts, or of all, against what their slots hold before them.

        A context with fewer tokens is encoded whole. The padding behind it is written where nothing reads it.

        Args:
            length: of the longest of these contexts.
        """
        self._decoded += 1
        if rows is None and width == 1 and self.graphs is not None and self.graphs.usable(self._ids.device):
            self.graphs.decode(partial(self._run, None, 1), length, self._ids.shape[1])
            return
        if self.adapted and self._merged is None and self._decoded > STEPS_UNMERGED:
            self._merged = MergedLayers(self.adapted)
        with nullcontext() if self._merged is None else self._merged.used():
            self._run(rows, width, length)

    def _run(self, rows: torch.Tensor | None, width: int, length: int) -> None:
        """Do what `_extend` does, on the device alone: no number comes back, so that a graph can repeat it."""
        chosen = slice(None) if rows is None else rows
        lengths = self._lengths[chosen]
        starts = (lengths - width).clamp(min=0)
        columns = starts[:, None] + torch.arange(width, device=starts.device)
        for layer in self._layers:
            layer.rows, layer.columns, layer.length = rows, columns, length
        mask = causal_mask(columns, length, self._layers[0].keys.dtype)
        positions = columns
        if (grid := grid_of(self.trunk)) is not None:
            positions = grid.positions(self._ids[chosen]).gather(2, columns.expand(3, -1, -1))
        with self._recording(rows, columns):
            output = self.trunk(
                input_ids=self._ids[chosen].gather(1, columns),
                attention_mask=mask[:, None],  # (n, 1, width, length)
                position_ids=positions,
                use_cache=True,
                **{self._cache_argument: Cache(layers=list(self._layers))},
            )
        self._hidden[chosen] = output.last_hidden_state[self._rows[: len(lengths)], lengths - 1 - starts]

    def _fill(self, rows: torch.Tensor) -> None:
        """Encode whole contexts and put them into their slots."""
        cache, length = DynamicCache(), int(self._lengths[rows].max())
        with self._recording(rows, torch.arange(length, device=rows.device)):
            pixels = None if self._pixels is None else self._pixels[rows]
            hidden = self._prefill(self._ids[rows], self._lengths[rows], cache, pixels)
        layers: list[Any] = cache.layers
        if not self._layers:
            slots, capacity = self._ids.shape
            self._layers = [SlotLayer(layer.keys, layer.values, slots, capacity) for layer in layers]
            self._hidden = hidden.new_zeros((slots, hidden.shape[1]))
        for slot, layer in zip(self._layers, layers, strict=True):
            slot.keys[rows, :, :length] = layer.keys.to(slot.keys.dtype)
            slot.values[rows, :, :length] = layer.values.to(slot.values.dtype)
        self._hidden[rows] = hidden

    def _prefill(
        self,
        input_ids: torch.Tensor,
        lengths: torch.Tensor,
        cache: DynamicCache | None = None,
        pixels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        ids = input_ids[:, : int(lengths.max())]
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        hidden = hidden_states(self.trunk, ids, mask, cache=cache, pixels=pixels)
        return hidden[torch.arange(len(ids), device=ids.device), lengths - 1]

    def _fits(self) -> bool:
        """Return whether this model's cache can be slotted: tried on short and on the longest contexts."""
        config = self.trunk.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        slides = window and window < self.max_length and getattr(config, "use_sliding_window", True)
        too_long = f"its attention slides over {window} tokens and contexts reach {self.max_length}"
        reason = too_long if slides else try_once(self._try_slots, self.trunk, "slots", self.max_length)
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
        steps = torch.tensor([[1, length - 3], [2, length - 2], [4, length]], device=parameter.device)
        steps = steps.clamp(1, length)  # contexts are prefilled, decoded, and extended by two tokens
        try:
            slotted = torch.stack([self(ids, lengths) for lengths in steps])
        except Exception as error:  # whatever a foreign model raises here means: not slottable
            return f"its cache cannot be slotted ({type(error).__name__}: {error})"
        mask = (torch.arange(length, device=ids.device) < steps[-1][:, None]).long()
        full = hidden_states(self.trunk, ids, mask)[torch.arange(2, device=ids.device), steps - 1]
        self.clear()
        equal = nearly_equal(slotted, full, computing_type(parameter))
        return "" if equal else "its slotted cache does not equal a full recompute"


def as_array(tensor: torch.Tensor) -> Any:
    """Return a CPU tensor as an array that shares its memory, and any other tensor as it is.

    For small operations numpy takes a fraction of torch's time, and it compares faster.
    """
    return tensor.numpy() if tensor.is_cpu else tensor
