"""`QuantilePolicy`: a Hugging Face causal language model as the quantile network of a stock QR-DQN."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .common.q_policy import QPolicy

__all__ = ["QuantilePolicy"]


class QuantilePolicy(QPolicy):
    """A `QPolicy` for a stock `sb3_contrib.QRDQN`: `n_quantiles` heads, whose mean is Q.

    QR-DQN's `train` wants all quantiles of all tokens, `(batch_size, n_quantiles, n_actions)` floats, of the network
    (with gradients) and of the target: 50 MB each for a batch of 512, 8 quantiles and a vocabulary of 3,072. So there
    are few of them by default, where the paper has 200.
    """

    def __init__(self, *args: Any, n_quantiles: int = 8, **kwargs: Any) -> None:
        if n_quantiles < 1:
            raise ValueError(f"n_quantiles={n_quantiles}: expected at least 1")
        self.n_heads = self.n_quantiles = n_quantiles
        super().__init__(*args, **kwargs)

    @property
    def quantile_net(self) -> nn.Module:
        """What QR-DQN trains: observations to `(n, n_quantiles, n_actions)`."""
        return self._nets[0]

    @property
    def quantile_net_target(self) -> nn.Module:
        """What QR-DQN bootstraps from, with -inf for tokens outside the base."""
        return self._nets[1]

    def _heads_of(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"n_quantiles": self.n_quantiles}
