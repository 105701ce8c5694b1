"""Stops for numbers that are none: before an optimiser step ruins the weights, and where ruined weights show."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .observations import read_contexts

__all__ = ["check_gradients", "check_results"]


def check_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Stop where the gradient of a named parameter is not finite.

    Raises:
        FloatingPointError: one is not.
    """
    named = [(name, p.grad) for name, p in parameters if p.grad is not None]
    finite = torch.stack(torch._foreach_norm([grad for _, grad in named])).isfinite() if named else torch.ones(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        # Clipping a gradient whose norm is not finite spoils all of it, so where all is spoilt none is to blame.
        which = "the gradient" if len(bad) == len(named) else f"the gradient of {named[bad[0]][0]}"
        raise FloatingPointError(
            f"{which} is not finite, and the step was not taken: the loss has overflowed; lower learning_rate, "
            "ent_coef or vf_coef, or look at the scale of the rewards"
        )


@torch.no_grad()
def check_results(
    obs: dict[str, torch.Tensor],
    values: torch.Tensor,
    log_probs: torch.Tensor,
    entropies: torch.Tensor,
    decode: Callable[[torch.Tensor], Any],
) -> None:
    """Name the context where the weights give something that is no number.

    Args:
        obs: of an update, see `TokenPolicy.evaluate_actions`, whose results the next three are.
        values: `(n, 1)`.
        log_probs: `(n,)`.
        entropies: `(n,)`.
        decode: makes a text of token ids.

    Raises:
        FloatingPointError: a value, a log-probability or an entropy is not finite.
    """
    results = torch.stack([values.flatten(), log_probs, entropies])  # (3, n)
    finite = results.isfinite()
    if finite.all():
        return
    what, action = (~finite).nonzero()[0].tolist()
    row, column = (int(obs[key][action]) if "rows" in obs else action for key in ("rows", "columns"))
    length = column + 1 if "rows" in obs else int(read_contexts(obs)[1][action])
    name = ("value", "log-probability", "entropy")[what]
    raise FloatingPointError(
        f"the {name} is {results[what, action].item()} in the update, after "
        f"{decode(obs['input_ids'][row, :length].long())!r}: the weights have diverged; lower "
        "learning_rate or max_grad_norm"
    )
