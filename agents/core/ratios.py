"""Turn log ratios of probabilities into ratios that stay finite."""

from __future__ import annotations

import torch

__all__ = ["MOST_NATS", "ratio_of"]

MOST_NATS = 30.0  # e^30 = 1e13: gradients a million times larger still have a norm in float32, which squares them


def ratio_of(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return `exp(log_ratio)` of log ratios of any shape, and at most `exp(MOST_NATS)`.

    Up to `MOST_NATS` values and gradients are those of `exp`. Beyond it the gradient is the ratio that is returned, and
    not 0 as after a clamp: what drifted farthest is still pulled back, as in https://github.com/huggingface/trl/pull/6637.
    """
    at_most = log_ratio - log_ratio.detach() + MOST_NATS  # a constant, with the gradient of log_ratio
    return torch.where(log_ratio > MOST_NATS, at_most, log_ratio).exp()
