"""Weigh people's labels by how reliable the people are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.feedback.reliability import rater_weights

__all__ = ["weigh_rows", "weighed_mean", "weights_of"]

LEAST = 0.01  # a label's weight: trainers take none of 0


def weights_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the weight of everybody who gave the labels of rows `{annotator, item_id, label}`."""
    return rater_weights((row["annotator"], row["item_id"], row["label"]) for row in rows)


def weighed_mean(labels: Sequence[tuple[str, float]], weights: Mapping[str, float]) -> float:
    """Return the mean of `(annotator, label)`, weighed; the plain mean where nobody has any weight."""
    given = np.array([weights.get(name, 1.0) for name, _ in labels])
    values = np.array([label for _, label in labels])
    return float(values @ given / given.sum()) if given.sum() > 0 else float(values.mean())


def weigh_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with the weight of their annotator in the column `weight`, at least 0.01."""
    weights = weights_of(rows)
    return [{**row, "weight": max(weights[row["annotator"]], LEAST)} for row in rows]
