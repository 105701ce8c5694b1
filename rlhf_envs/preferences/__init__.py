"""Preferences: what people would rather read, and reward models fitted to it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bradley_terry import PairMetrics, evaluate_pairs, fit_bradley_terry, normalise, pairwise_loss
    from .ensemble_fit import evaluate_ensemble, fit_ensemble
    from .pseudo_labels import pseudo_label
    from .regression import RatingMetrics, evaluate_ratings, fit_ratings
    from .training import load_backbone

__all__ = [
    "PairMetrics",
    "RatingMetrics",
    "evaluate_ensemble",
    "evaluate_pairs",
    "evaluate_ratings",
    "fit_bradley_terry",
    "fit_ensemble",
    "fit_ratings",
    "load_backbone",
    "normalise",
    "pairwise_loss",
    "pseudo_label",
]

_MODULES = {
    "PairMetrics": "bradley_terry",
    "evaluate_ensemble": "ensemble_fit",
    "evaluate_pairs": "bradley_terry",
    "fit_bradley_terry": "bradley_terry",
    "fit_ensemble": "ensemble_fit",
    "fit_ratings": "regression",
    "evaluate_ratings": "regression",
    "RatingMetrics": "regression",
    "pseudo_label": "pseudo_labels",
    "load_backbone": "training",
    "normalise": "bradley_terry",
    "pairwise_loss": "bradley_terry",
}


def __getattr__(name: str) -> object:
    # Resolved at use: these modules import torch.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
