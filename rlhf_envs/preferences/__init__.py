"""Learn what people would rather read: aggregate their judgements and fit reward models to them.

Names are imported when they are first used, because many of these modules load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers; `_HOMES` says the same
    from .aggregation import dawid_skene as dawid_skene
    from .aggregation import majority_vote as majority_vote
    from .aspects.fitting import fit_aspects as fit_aspects
    from .aspects.rows import judged_aspects as judged_aspects
    from .bradley_terry import PairMetrics as PairMetrics
    from .bradley_terry import evaluate_pairs as evaluate_pairs
    from .bradley_terry import fit_bradley_terry as fit_bradley_terry
    from .bradley_terry import normalise as normalise
    from .bradley_terry import pairwise_loss as pairwise_loss
    from .crowd import aggregate_pairs as aggregate_pairs
    from .crowd import crowd_figures as crowd_figures
    from .crowd import dawid_skene_shares as dawid_skene_shares
    from .ensemble_fit import evaluate_ensemble as evaluate_ensemble
    from .ensemble_fit import fit_ensemble as fit_ensemble
    from .fitting import fit_reward as fit_reward
    from .forecasting import forecast as forecast
    from .forecasting import forecast_labels as forecast_labels
    from .forecasting import learning_curve as learning_curve
    from .pseudo_labels import pseudo_label as pseudo_label
    from .queries import select_pairs as select_pairs
    from .ratings import standardise_ratings as standardise_ratings
    from .regression import RatingMetrics as RatingMetrics
    from .regression import evaluate_ratings as evaluate_ratings
    from .regression import fit_ratings as fit_ratings
    from .spam import find_spammers as find_spammers
    from .training import load_backbone as load_backbone

_HOMES = {
    "PairMetrics": "bradley_terry",
    "RatingMetrics": "regression",
    "aggregate_pairs": "crowd",
    "crowd_figures": "crowd",
    "dawid_skene": "aggregation",
    "dawid_skene_shares": "crowd",
    "evaluate_ensemble": "ensemble_fit",
    "evaluate_pairs": "bradley_terry",
    "evaluate_ratings": "regression",
    "find_spammers": "spam",
    "fit_aspects": "aspects.fitting",
    "fit_bradley_terry": "bradley_terry",
    "fit_ensemble": "ensemble_fit",
    "fit_ratings": "regression",
    "fit_reward": "fitting",
    "forecast": "forecasting",
    "forecast_labels": "forecasting",
    "judged_aspects": "aspects.rows",
    "learning_curve": "forecasting",
    "load_backbone": "training",
    "majority_vote": "aggregation",
    "normalise": "bradley_terry",
    "pairwise_loss": "bradley_terry",
    "pseudo_label": "pseudo_labels",
    "select_pairs": "queries",
    "standardise_ratings": "ratings",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
