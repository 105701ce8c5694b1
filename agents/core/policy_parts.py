"""What a policy is made of beside its model: trunks with their caches, and copies of parameters as they were."""

from __future__ import annotations

import torch
from torch import nn

from .kv_cache import SlottedTrunk
from .language_model import LanguageModel, SplitTrunk

__all__ = ["Snapshot", "Trunk"]


class Trunk:
    """A trunk, its KV cache, and its frozen part where it has one. Not a module: the policy owns the parameters."""

    def __init__(
        self, module: nn.Module, max_length: int, language_model: LanguageModel, like: Trunk | None = None
    ) -> None:
        self.module = module
        self.cache: SlottedTrunk = SlottedTrunk(module, max_length, None if like is None else like.cache.enabled)
        self.split: SplitTrunk | None = None
        if like is None or like.split is not None:
            self.split = language_model.split(module)


class Snapshot(nn.Module):
    """Frozen copies of parameters. They are buffers: they move with the policy, are saved with it and never learn."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_buffer(name.replace(".", "/"), parameter.detach().clone())

    def parameters_by_name(self) -> dict[str, torch.Tensor]:
        """The copies, by the names of what they are copies of."""
        return {name.replace("/", "."): value for name, value in self.named_buffers()}

    @torch.no_grad()
    def take(self, parameters: dict[str, nn.Parameter]) -> None:
        """Copy parameters of the same names over."""
        for name, value in self.parameters_by_name().items():
            value.copy_(parameters[name])
