"""Proximal policy optimisation for text.

Paper: Schulman et al. 2017, https://arxiv.org/abs/1707.06347; for language models Ziegler et al. 2019,
https://arxiv.org/abs/1909.08593. The algorithm is `stable_baselines3.PPO`, unmodified. Departures from the paper are
SB3's; ours are the defaults (gamma 1, few epochs over whole-episode minibatches, a small weight of the value loss) and
the KL penalty to the starting model, which `SequenceRolloutBuffer` charges.
"""

from __future__ import annotations

from typing import Any

import stable_baselines3
from stable_baselines3.common.type_aliases import Schedule

from ..core.policy import TokenPolicy
from ..core.rollout_buffer import SequenceRolloutBuffer
from .common.text_agent import TextAgent

__all__ = ["PPO"]


class PPO(TextAgent, stable_baselines3.PPO):
    """`stable_baselines3.PPO` with `TokenPolicy`, `SequenceRolloutBuffer` and defaults for text.

    `n_steps` and `batch_size` count tokens, `n_steps` an environment. All other arguments are SB3's.
    """

    def __init__(
        self,
        policy: Any = TokenPolicy,
        env: Any = None,
        learning_rate: float | Schedule = 1e-4,
        n_steps: int = 32,
        batch_size: int = 512,
        n_epochs: int = 4,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        vf_coef: float = 0.1,
        max_grad_norm: float = 1.0,
        rollout_buffer_class: type[Any] | None = SequenceRolloutBuffer,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            rollout_buffer_class=rollout_buffer_class,
            **kwargs,
        )
