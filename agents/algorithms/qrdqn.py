"""Quantile-regression Q-learning for text.

Paper: Dabney et al. 2017, https://arxiv.org/abs/1710.10044. The update is `sb3_contrib.QRDQN`'s, unmodified, over
`QuantilePolicy` (few quantiles: 8 by default, the paper has 200; see there for what they cost) and
`SequenceReplayBuffer`. The departures of `dqn` hold here too: exploring by the reference, the restriction to its
`top_k` and `top_p`, `beta`, `n_steps`.
"""

from __future__ import annotations

from typing import Any

import sb3_contrib
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from .common.q_agent import Exploration, QAgent
from .common.replay_buffer import SequenceReplayBuffer
from .quantile_policy import QuantilePolicy

__all__ = ["QRDQN"]


class QRDQN(QAgent, sb3_contrib.QRDQN):
    """`sb3_contrib.QRDQN` with `QuantilePolicy`, `SequenceReplayBuffer` and defaults for text.

    The arguments are those of `agents.algorithms.dqn.DQN`; `n_quantiles` is the policy's.
    """

    def __init__(
        self,
        policy: Any = QuantilePolicy,
        env: Any = None,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 100_000,
        learning_starts: int = 2048,
        batch_size: int = 512,
        tau: float = 1.0,
        gamma: float = 1.0,
        train_freq: int | tuple[int, str] = 32,
        gradient_steps: int = 8,
        replay_buffer_class: type[Any] | None = SequenceReplayBuffer,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        n_steps: int = 1,
        target_update_interval: int = 4096,
        exploration_fraction: float = 0.5,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float | None = 1.0,
        exploration: Exploration = "reference",
        **kwargs: Any,
    ) -> None:
        self._choose_exploration(exploration)
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs={"n_steps": n_steps, "gamma": gamma, **(replay_buffer_kwargs or {})},
            target_update_interval=target_update_interval,
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            **kwargs,
        )

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "QRDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> QRDQN:
        """As SB3's; `total_timesteps` counts tokens and `log_interval` rollouts."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
