"""Advantage actor-critic for text.

Paper: Mnih et al. 2016, https://arxiv.org/abs/1602.01783. The algorithm is `stable_baselines3.A2C`, unmodified: one
gradient step a rollout, on all of it. Ours are the defaults: Adam and not RMSprop, which moves a pre-trained model too
far in its first steps, normalised advantages, gamma 1, and the KL penalty that `SequenceRolloutBuffer` charges.
"""

from __future__ import annotations

from typing import Any

import stable_baselines3
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from ..core.policy import TokenPolicy
from ..core.rollout_buffer import SequenceRolloutBuffer
from .common.text_agent import TextAgent

__all__ = ["A2C"]


class A2C(TextAgent, stable_baselines3.A2C):
    """`stable_baselines3.A2C` with `TokenPolicy`, `SequenceRolloutBuffer` and defaults for text.

    `n_steps` counts tokens an environment. All other arguments are SB3's.
    """

    def __init__(
        self,
        policy: Any = TokenPolicy,
        env: Any = None,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 32,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        vf_coef: float = 0.1,
        max_grad_norm: float = 1.0,
        use_rms_prop: bool = False,
        normalize_advantage: bool = True,
        rollout_buffer_class: type[Any] | None = SequenceRolloutBuffer,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_rms_prop=use_rms_prop,
            normalize_advantage=normalize_advantage,
            rollout_buffer_class=rollout_buffer_class,
            **kwargs,
        )

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "A2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> A2C:
        """As SB3's, but logging every rollout: SB3's default of every 100th is for rollouts of a few steps."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
