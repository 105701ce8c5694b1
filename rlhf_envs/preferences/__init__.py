"""Preferences: what people would rather read, and reward models fitted to it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .aggregation import dawid_skene, majority_vote
    from .bradley_terry import PairMetrics, evaluate_pairs, fit_bradley_terry, normalise, pairwise_loss
    from .crowd import aggregate_pairs
    from .ensemble_fit import evaluate_ensemble, fit_ensemble
    from .pseudo_labels import pseudo_label
    from .queries import select_pairs
    from .ratings import standardise_ratings
    from .regression import RatingMetrics, evaluate_ratings, fit_ratings
    from .spam import find_spammers
    from .training import load_backbone

__all__ = [
    "PairMetrics",
    "RatingMetrics",
    "aggregate_pairs",
    "dawid_skene",
    "evaluate_ensemble",
    "evaluate_pairs",
    "evaluate_ratings",
    "find_spammers",
    "fit_bradley_terry",
    "fit_ensemble",
    "fit_ratings",
    "load_backbone",
    "majority_vote",
    "normalise",
    "pairwise_loss",
    "pseudo_label",
    "select_pairs",
    "standardise_ratings",
]

_MODULES = {
    "PairMetrics": "bradley_terry",
    "RatingMetrics": "regression",
    "aggregate_pairs": "crowd",
    "dawid_skene": "aggregation",
    "evaluate_ensemble": "ensemble_fit",
    "evaluate_pairs": "bradley_terry",
    "evaluate_ratings": "regression",
    "find_spammers": "spam",
    "fit_bradley_terry": "bradley_terry",
    "fit_ensemble": "ensemble_fit",
    "fit_ratings": "regression",
    "load_backbone": "training",
    "majority_vote": "aggregation",
    "normalise": "bradley_terry",
    "pairwise_loss": "bradley_terry",
    "pseudo_label": "pseudo_labels",
    "select_pairs": "queries",
    "standardise_ratings": "ratings",
}


def __getattr__(name: str) -> object:
    # Resolved at use: many of these modules import torch.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
