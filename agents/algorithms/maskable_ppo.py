"""Proximal policy optimisation for text under action masks.

Papers: PPO, Schulman et al. 2017, https://arxiv.org/abs/1707.06347; masks, Huang and Ontanon 2020,
https://arxiv.org/abs/2006.14171. The algorithm is `sb3_contrib.MaskablePPO`, unmodified. Ours are the defaults, those
of `ppo`, and the KL penalty to the starting model *under the same masks*: a token that the environment forbids has
probability 0 for both.
"""

from __future__ import annotations

from typing import Any

import sb3_contrib
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.type_aliases import Schedule

from .common.text_agent import TextAgent
from .masked_buffer import MaskableSequenceRolloutBuffer
from .masked_policy import MaskableTokenPolicy

__all__ = ["MaskablePPO"]


class MaskablePPO(TextAgent, sb3_contrib.MaskablePPO):
    """`sb3_contrib.MaskablePPO` with `MaskableTokenPolicy`, `MaskableSequenceRolloutBuffer` and defaults for text.

    `n_steps` and `batch_size` count tokens, `n_steps` an environment. All other arguments are sb3-contrib's. What is
    masked, the environment says: by its arguments `min_new_tokens` and `suppress_tokens`, and its task.

    Raises:
        ValueError: the environment has no `action_masks()`.
    """

    def __init__(
        self,
        policy: Any = MaskableTokenPolicy,
        env: Any = None,
        learning_rate: float | Schedule = 1e-4,
        n_steps: int = 32,
        batch_size: int = 512,
        n_epochs: int = 4,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        vf_coef: float = 0.1,
        max_grad_norm: float = 1.0,
        rollout_buffer_class: type[Any] | None = MaskableSequenceRolloutBuffer,
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

    def _setup_model(self) -> None:
        if self.env is not None and not is_masking_supported(self.env):
            raise ValueError(
                "maskable_ppo needs an environment with a method action_masks(), a bool a token, and this one has "
                "none: take one of agents.make_vec_env, wrap yours with sb3_contrib.common.wrappers.ActionMasker, or "
                "train with ppo"
            )
        super()._setup_model()
