"""Trust region policy optimisation for text.

Paper: Schulman et al. 2015, https://arxiv.org/abs/1502.05477. The algorithm is `sb3_contrib.TRPO`, unmodified: one
natural-gradient step a rollout, its length set by a line search under a KL of `target_kl` nats a token to the policy
before it. Ours are the defaults, and the KL penalty to the starting model, which `SequenceRolloutBuffer` charges.

sb3-contrib tells the critic's parameters by the "value" in their names: so a model that has that in its own names
(GPT-NeoX has `query_key_value`) would keep those of its blocks fixed.
"""

from __future__ import annotations

from typing import Any

import sb3_contrib
from stable_baselines3.common.type_aliases import Schedule

from ..buffers import SequenceRolloutBuffer
from ..policy import TokenPolicy
from .text_agent import TextAgent

__all__ = ["TRPO"]


class TRPO(TextAgent, sb3_contrib.TRPO):
    """`sb3_contrib.TRPO` with `TokenPolicy`, `SequenceRolloutBuffer` and defaults for text.

    `n_steps` and `batch_size` count tokens, `n_steps` an environment; `learning_rate` is the critic's. All other
    arguments are sb3-contrib's.

    Raises:
        ValueError: parameters of the language model would be taken for the critic's, and so stay as they are.
    """

    def __init__(
        self,
        policy: Any = TokenPolicy,
        env: Any = None,
        learning_rate: float | Schedule = 1e-4,
        n_steps: int = 32,
        batch_size: int = 512,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        n_critic_updates: int = 2,
        target_kl: float = 0.01,
        rollout_buffer_class: type[Any] | None = SequenceRolloutBuffer,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            gamma=gamma,
            gae_lambda=gae_lambda,
            n_critic_updates=n_critic_updates,
            target_kl=target_kl,
            rollout_buffer_class=rollout_buffer_class,
            **kwargs,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        named = self.policy.named_parameters()
        lost = [name for name, p in named if p.requires_grad and "value" in name and not name.startswith("value_")]
        if lost:
            raise ValueError(
                f"sb3-contrib's TRPO takes {lost[0]} (and {len(lost) - 1} more) for the critic's, by its name, and "
                "would not train it: take another algorithm for this model, such as ppo"
            )
