"""Define `SplitTrunk`: a trunk in two parts, so that its frozen blocks run once and not in every epoch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .forward_pass import hidden_states, nearly_equal, replaced_forwards
from .precision import computing_type

__all__ = ["SplitTrunk"]


class SplitTrunk:
    """Run a trunk in two parts: first its frozen blocks, once; then, as often as needed, the other blocks.

    Both parts are calls of the whole trunk. In the first call, a hook on the first block that learns keeps that block's
    input (the *states*) and stops the call. In the second call, the frozen blocks do nothing, and a hook gives the
    first block that learns the states as its input. This works for every decoder whose blocks pass one hidden state
    from block to block.

    Args:
        n_frozen: how many of the first blocks never change. If that is all, the stored output is the trunk's own.
    """

    def __init__(self, trunk: nn.Module, blocks: nn.ModuleList, n_frozen: int) -> None:
        self.trunk: Any = trunk
        self.frozen = list(blocks[:n_frozen])
        self.entry = blocks[n_frozen] if n_frozen < len(blocks) else None
        self._n_outputs: int | None = None  # of a block that returns a tuple

    @torch.no_grad()
    def states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the frozen blocks' output, `(batch, length, hidden_size)`, for right-padded contexts."""
        if self.entry is None:
            return hidden_states(self.trunk, input_ids, attention_mask, pixels=pixels)
        taken: list[torch.Tensor] = []

        def take(states: torch.Tensor) -> None:
            taken.append(states)
            raise _Reached

        with self.watched(take), suppress(_Reached):
            hidden_states(self.trunk, input_ids, attention_mask, pixels=pixels)
            raise RuntimeError("the first block that learns was never called")
        return taken[0]

    def watched(self, take: Callable[[torch.Tensor], None]) -> RemovableHandle:
        """Call `take` with the frozen blocks' output in every pass of the trunk that runs in a `with` block."""
        if self.entry is None:
            return self.trunk.register_forward_hook(lambda module, args, output: take(output.last_hidden_state))

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            take(args[0] if args else kwargs["hidden_states"])

        return self.entry.register_forward_pre_hook(enter, with_kwargs=True)

    def finish(
        self,
        states: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states, `(batch, length, hidden_size)`, from what `states` returned.

        The other arguments are those of `hidden_states`.
        """
        if self.entry is None:
            return states

        def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

        def pass_on(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            return hidden if self._n_outputs is None else (hidden,) + (None,) * (self._n_outputs - 1)

        passing_on = replaced_forwards(self.frozen, lambda _: pass_on)
        with self.entry.register_forward_pre_hook(give, with_kwargs=True), passing_on:
            return hidden_states(self.trunk, input_ids, attention_mask, positions)

    @torch.no_grad()
    def try_out(self) -> str:
        """Return why the two parts do not make the whole; an empty string if they do."""

        def look(module: nn.Module, args: object, output: object) -> None:
            self._n_outputs = len(output) if isinstance(output, tuple) else None

        parameter = next(self.trunk.parameters())
        ids = torch.arange(6, device=parameter.device).reshape(2, 3) % 2
        mask = torch.tensor([[1, 1, 1], [1, 1, 0]], device=parameter.device)
        with self.frozen[0].register_forward_hook(look) if self.frozen else nullcontext():
            whole = hidden_states(self.trunk, ids, mask)
        try:
            parts = self.finish(self.states(ids, mask), ids, mask)
        except Exception as error:  # whatever a foreign model raises here means: it does not split
            return f"it does not split ({type(error).__name__}: {error})"
        equal = nearly_equal(parts[mask.bool()], whole[mask.bool()], computing_type(parameter))
        return "" if equal else "its two parts do not equal the whole"


class _Reached(Exception):
    """Stop a pass that has reached the first block that learns."""
