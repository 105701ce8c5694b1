"""Deep Q-learning for text.

Paper: Mnih et al. 2015, https://www.nature.com/articles/nature14236. The update is `stable_baselines3.DQN`'s,
unmodified, over `QPolicy` (Q heads on a language model) and `SequenceReplayBuffer` (one pass a sequence). Departures:

- exploring is the reference language model's, see `q_agent`;
- greedy actions, and the maximum in a target, stay among the tokens that the reference's `top_k` and `top_p` keep:
  BCQ's restriction (Fujimoto et al. 2019, https://arxiv.org/abs/1812.02900); `top_k=None` lifts it;
- with `beta` the agent does not take the best token but draws from the reference times `exp(beta Q)`;
- returns of `n_steps` rewards, as in Rainbow (Hessel et al. 2017, https://arxiv.org/abs/1710.02298); 1 is the paper's.

There is no KL penalty: what keeps the agent near its reference is the restriction, and `beta`.
"""

from __future__ import annotations

from typing import Any

import stable_baselines3
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from .common.q_agent import Exploration, QAgent
from .common.q_policy import QPolicy
from .common.replay_buffer import SequenceReplayBuffer

__all__ = ["DQN"]


class DQN(QAgent, stable_baselines3.DQN):
    """`stable_baselines3.DQN` with `QPolicy`, `SequenceReplayBuffer` and defaults for text.

    Args:
        buffer_size: tokens kept.
        learning_starts: tokens of the reference before the first update.
        batch_size: tokens a gradient step, of whole episodes.
        train_freq: steps of all environments, that is tokens each, between updates; as long as an episode keeps the KV
            caches warm.
        gradient_steps: of an update.
        n_steps: rewards in a return, see `SequenceReplayBuffer`.
        target_update_interval: tokens between updates of the target network.
        exploration_fraction: part of the training over which the exploration rate falls from its initial to its final
            value.
        exploration: "reference" draws random tokens from the reference language model, "uniform" from all.

    All other arguments are SB3's.
    """

    def __init__(
        self,
        policy: Any = QPolicy,
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
        max_grad_norm: float = 1.0,
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
        tb_log_name: str = "DQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> DQN:
        """As SB3's; `total_timesteps` counts tokens and `log_interval` rollouts."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
