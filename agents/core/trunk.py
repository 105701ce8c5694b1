"""Define `Trunk`: what turns token ids into hidden states, with its KV cache and its frozen part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from .forward_pass import checkpointed, find_blocks, hidden_states
from .frozen_states import LastCall, SlotStates
from .graph_decode import DecodingGraphs
from .kv_cache import SlottedTrunk
from .language_model import LanguageModel
from .lora_layers import added_in_place
from .observations import gather_hidden, read_contexts, read_pixels
from .packing import keeps_apart
from .picture_grid import grid_of
from .split_trunk import SplitTrunk
from .trials import try_once

__all__ = ["Trunk"]


class Trunk:
    """Hold a trunk, its KV cache, and its frozen part if it has one. The policy owns the parameters.

    Args:
        module: the base model of `language_model`, or its copy.
        like: a trunk with the same architecture, so that cache and split need not be tried out again.
        checkpointing: keep only the inputs of blocks for the backward pass, which computes the rest again.

    Attributes:
        run: what encodes whole contexts: `hidden_states`, or its compiled form.
        packs: whether a pass over whole sequences puts several into a row, see `agents.core.packing`.
    """

    def __init__(
        self,
        module: nn.Module,
        max_length: int,
        language_model: LanguageModel,
        like: Trunk | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.module, self._nested = module, language_model.nests_pictures
        self.run: Callable[..., torch.Tensor] = hidden_states if like is None else like.run
        self.cache: SlottedTrunk = SlottedTrunk(module, max_length, None if like is None else like.cache.enabled)
        if like is None or like.cache.graphs is not None:
            self.cache.graphs = DecodingGraphs(module, self.cache.adapted)
        splits = like is None or like.split is not None
        self.split: SplitTrunk | None = language_model.split(module) if splits else None
        if like is None and self.split is not None:
            self.cache.frozen = SlotStates(self.split)
        apart = grid_of(module) is None and (self._keeps_apart(language_model) if like is None else like.packs)
        self.packs: bool = apart
        self._checkpointed = [*find_blocks(module, language_model.config.num_hidden_layers)] if checkpointing else []

    def hidden(self, obs: dict[str, torch.Tensor], needed: torch.Tensor | None = None) -> torch.Tensor:
        """Return the hidden states where actions are chosen, `(n, hidden_size)`; see `LanguageModelPolicy.hidden`."""
        if "rows" not in obs and not torch.is_grad_enabled():
            return self.cache(*read_contexts(obs), needed, self.pixels(obs))
        if self._checkpointed and torch.is_grad_enabled():
            with checkpointed(self._checkpointed):  # the layers are as they are: they compute again when it has ended
                return self._encode(obs)
        with added_in_place(self.cache.adapted):
            return self._encode(obs)

    @contextmanager
    def padded(self) -> Iterator[None]:
        """Give every sequence a row of its own while a `with` block runs."""
        packs, self.packs = self.packs, False
        try:
            yield
        finally:
            self.packs = packs

    def pixels(self, obs: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Return the pictures of an observation as the module takes them; None if it has none."""
        return read_pixels(obs, self._nested)

    def last_call(self) -> LastCall | None:
        """Return what reads the frozen blocks' output for the contexts that were just encoded; None if none is kept."""
        frozen = self.cache.frozen
        if frozen is None or not self.cache.enabled or torch.is_grad_enabled():  # without slots nothing is kept
            return None
        return LastCall(frozen)

    def _encode(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        split = self.split
        if "trunk_states" not in obs or split is None:
            pixels = self.pixels(obs)
            run = self.run if pixels is None else partial(self.run, pixels=pixels)
            return gather_hidden(partial(run, self.module), obs, self.packs and pixels is None)
        return gather_hidden(split.finish, obs, self.packs, obs["trunk_states"])

    def _keeps_apart(self, language_model: LanguageModel) -> bool:
        def run(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return hidden_states(self.module, ids, None, positions)

        def mixed() -> str:
            apart = keeps_apart(run, language_model.config, next(self.module.parameters()))
            return "" if apart else "it mixes sequences of one row"

        return not try_once(mixed, self.module, "packing")
