"""Train with proximal policy optimisation (PPO)."""

from __future__ import annotations

import stable_baselines3

from .common.text_agent import ON_POLICY, TextAgent

__all__ = ["PPO"]


class PPO(TextAgent, stable_baselines3.PPO):
    """Train with proximal policy optimisation (PPO).

    Papers: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", https://arxiv.org/abs/1707.06347; for
    language models Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences",
    https://arxiv.org/abs/1909.08593.

    Departures: the algorithm is `stable_baselines3.PPO`, unmodified. Only the defaults are ours (no discount, few
    epochs over minibatches of whole episodes, a small weight of the value loss), and the KL penalty to the starting
    model, which `SequenceRolloutBuffer` charges.

    When to use it: as the algorithm to start with and to compare with. Where one prompt can be completed several times,
    `rloo` and `online_dpo` often gain more from as many tokens.

    Defaults: `learning_rate=1e-4`, `n_steps=32`, `batch_size=512`, `n_epochs=4`, `gamma=1.0`, `gae_lambda=0.95`,
    `vf_coef=0.1`, `max_grad_norm=1.0`. `n_steps` counts tokens per environment, `batch_size` counts tokens. All other
    arguments are SB3's.
    """

    data_parallel = True
    defaults = ON_POLICY | {"batch_size": 512, "n_epochs": 4, "vf_coef": 0.1, "max_grad_norm": 1.0}
