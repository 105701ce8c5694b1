"""Train with deep Q-learning (DQN)."""

from __future__ import annotations

import stable_baselines3

from .common.q_agent import DEEP_Q, QAgent
from .common.q_policy import QPolicy

__all__ = ["DQN"]


class DQN(QAgent, stable_baselines3.DQN):
    """Train with deep Q-learning (DQN).

    Paper: Mnih et al. 2015, "Human-level control through deep reinforcement learning",
    https://www.nature.com/articles/nature14236. The update is `stable_baselines3.DQN`'s, unmodified, over `QPolicy` (Q
    heads on a language model) and `SequenceReplayBuffer` (one forward pass per sequence).

    Departures:

    - Exploration draws from the reference language model, see `QAgent`.
    - Greedy actions, and the maximum in a target, stay among the tokens that the reference's `top_k` and `top_p` keep.
      This is the restriction of BCQ (Fujimoto et al. 2019, https://arxiv.org/abs/1812.02900); `top_k=None` lifts it.
    - With `beta` the agent does not take the best token but draws from the reference times `exp(beta Q)`.
    - Returns may span `n_steps` rewards, as in Rainbow (Hessel et al. 2017, https://arxiv.org/abs/1710.02298).
    - There is no KL penalty. The restriction and `beta` keep the agent near its reference.

    When to use it: where only the reward counts. It reaches the highest rewards in the fewest tokens, at a large KL and
    with repetitive text.

    Args:
        buffer_size: tokens that the replay buffer keeps.
        learning_starts: tokens, drawn from the reference, before the first update.
        batch_size: tokens per gradient step, of whole episodes.
        train_freq: steps of all environments between updates. The KV caches stay warm if it is an episode's length.
        gradient_steps: gradient steps per update.
        target_update_interval: tokens between updates of the target network.
        n_steps: rewards in a return, see `SequenceReplayBuffer`.
        exploration_fraction: part of the training over which the exploration rate falls to its final value.
        exploration: "reference" draws random tokens from the reference language model, "uniform" from the vocabulary.

    Defaults: `learning_rate=1e-4`, `buffer_size=100_000`, `learning_starts=2048`, `batch_size=512`, `tau=1.0`,
    `gamma=1.0`, `train_freq=32`, `gradient_steps=8`, `n_steps=1`, `target_update_interval=4096`,
    `exploration_fraction=0.5`, `exploration_initial_eps=1.0`, `exploration_final_eps=0.05`, `max_grad_norm=1.0`,
    `exploration="reference"`. All other arguments are SB3's.

    Raises:
        ValueError: `exploration` is neither of the two.
    """

    defaults = DEEP_Q | {"policy": QPolicy}
