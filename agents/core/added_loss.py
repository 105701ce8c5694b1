"""Add a loss to whatever loss an algorithm makes of a policy's log-probabilities.

It works by an identity on the log-probabilities, whose backward pass also sends `coef` into the added loss (as
Megatron-LM's `MoEAuxLossAutoScaler` does). So it reaches every algorithm that calls `evaluate_actions` and `backward`,
no matter how the algorithm scales its own loss, and an algorithm need not know of it.
"""

from __future__ import annotations

from typing import Any

import torch

from . import ranks

__all__ = ["add_loss"]


def add_loss(log_probs: torch.Tensor, loss: torch.Tensor, coef: float) -> torch.Tensor:
    """Return the log-probabilities `(n,)`, unchanged; their backward pass adds the gradient of `coef * loss`.

    In a data-parallel run each rank has a loss of its own, and what is added is their mean.

    Args:
        log_probs: what the algorithm's own loss is made of.
        loss: a scalar.
        coef: its weight beside the algorithm's loss.
    """
    added: torch.Tensor = _AddLoss.apply(log_probs, loss, coef / ranks.size())  # the ranks' gradients are summed
    return added


class _AddLoss(torch.autograd.Function):
    """Return `values` unchanged. The backward pass gives the scalar `loss` the gradient `coef`."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, loss: torch.Tensor, coef: float) -> torch.Tensor:
        ctx.coef, ctx.like = coef, loss.detach()
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return grads[0], torch.full_like(ctx.like, ctx.coef), None
