"""Train with advantage actor-critic (A2C)."""

from __future__ import annotations

import stable_baselines3

from .common.text_agent import ON_POLICY, TextAgent

__all__ = ["A2C"]


class A2C(TextAgent, stable_baselines3.A2C):
    """Train with advantage actor-critic (A2C).

    Paper: Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", https://arxiv.org/abs/1602.01783.

    Departures: the algorithm is `stable_baselines3.A2C`, unmodified: one gradient step per rollout, on all of it. Only
    the defaults are ours: Adam instead of RMSprop, which moves a pre-trained model too far in its first steps,
    normalised advantages, no discount, and the KL penalty that `SequenceRolloutBuffer` charges.

    When to use it: where you want the simplest actor-critic, with one pass over each rollout. `ppo` reuses a rollout
    for several steps and needs fewer tokens.

    Defaults: `learning_rate=3e-4`, `n_steps=32`, `gamma=1.0`, `gae_lambda=0.95`, `vf_coef=0.1`, `max_grad_norm=1.0`,
    `use_rms_prop=False`, `normalize_advantage=True`. `n_steps` counts tokens per environment. All other arguments are
    SB3's.
    """

    data_parallel = True
    defaults = ON_POLICY | {
        "learning_rate": 3e-4,
        "vf_coef": 0.1,
        "max_grad_norm": 1.0,
        "use_rms_prop": False,
        "normalize_advantage": True,
    }
