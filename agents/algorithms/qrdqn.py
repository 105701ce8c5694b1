"""Train with quantile-regression deep Q-learning (QR-DQN): the algorithm and its policy."""

from __future__ import annotations

from typing import Any

import sb3_contrib
import torch
from stable_baselines3.common.type_aliases import Schedule

from .common.q_agent import DEEP_Q, QAgent
from .common.q_policy import QPolicy

__all__ = ["QRDQN", "QuantilePolicy"]


class QuantilePolicy(QPolicy):
    """Act as `QPolicy` for a stock `sb3_contrib.QRDQN`, with `n_quantiles` heads whose mean is Q.

    QR-DQN's `train` needs all quantiles of all tokens, `(batch_size, n_quantiles, n_actions)` floats, from the network
    (with gradients) and from the target: 50 MB each for a batch of 512, 8 quantiles and a vocabulary of 3,072. So the
    default is few quantiles; the paper has 200.

    Args:
        n_quantiles: number of quantiles, and of heads.
        **kwargs: arguments of `QPolicy`.

    Raises:
        ValueError: `n_quantiles` is below 1.
    """

    def __init__(
        self, observation_space: Any, action_space: Any, lr_schedule: Schedule, *, n_quantiles: int = 8, **kwargs: Any
    ) -> None:
        if n_quantiles < 1:
            raise ValueError(f"n_quantiles={n_quantiles}: expected at least 1")
        self.n_heads = self.n_quantiles = n_quantiles
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    quantile_net, quantile_net_target = QPolicy.q_net, QPolicy.q_net_target  # as QR-DQN calls them

    def _heads_of(self, values: torch.Tensor) -> torch.Tensor:
        return values


class QRDQN(QAgent, sb3_contrib.QRDQN):
    """Train with quantile-regression deep Q-learning (QR-DQN).

    Paper: Dabney et al. 2017, "Distributional Reinforcement Learning with Quantile Regression",
    https://arxiv.org/abs/1710.10044. The update is `sb3_contrib.QRDQN`'s, unmodified, over `QuantilePolicy` and
    `SequenceReplayBuffer`.

    Departures: there are 8 quantiles by default, where the paper has 200 (`n_quantiles`, an argument of the policy).
    All departures of `DQN` hold here too.

    When to use it: as `dqn`, where rewards after the same context differ widely. It takes nearly twice as long.

    Defaults: all arguments and defaults are as in `DQN`.
    """

    defaults = DEEP_Q | {"policy": QuantilePolicy}
