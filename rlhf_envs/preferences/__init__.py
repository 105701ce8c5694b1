"""Preferences: what people would rather read, and reward models fitted to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bradley_terry import PairMetrics, evaluate_pairs, fit_bradley_terry, normalise, pairwise_loss

__all__ = ["PairMetrics", "evaluate_pairs", "fit_bradley_terry", "normalise", "pairwise_loss"]


def __getattr__(name: str) -> object:
    # Resolved at use: bradley_terry imports torch.
    if name in __all__:
        from . import bradley_terry

        return getattr(bradley_terry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
