"""Uniformly random tokens: what any claim must beat first.

No paper. Every token of the vocabulary is equally probable in every context, and nothing is learned. The reference, and
so the KL of an evaluation, is the language model's.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from ..core.policy import TokenPolicy
from ..core.rollout_buffer import SequenceRolloutBuffer
from .common.text_agent import NO_CRITIC, NO_KL, TextAgent

__all__ = ["Random", "UniformPolicy"]


class UniformPolicy(TokenPolicy):
    """A `TokenPolicy` that chooses every token with the same probability; its reference is the model as it is.

    The model does not say how it acts, so a run keeps its bundle alone.
    """

    is_language_model = False
    _is_reference = False

    def decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """Equal logits `(n, n_actions)`, but those of the model where the reference is asked."""
        decoded = self.reference_decoding_logits(logits, taken, *masks)
        return decoded if self._is_reference else torch.zeros_like(decoded)

    def reference_decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """The model's logits `(n, n_actions)`."""
        return super().decoding_logits(logits, taken, *masks)

    def _as_reference(self, function: Any, *args: Any) -> torch.Tensor:
        self._is_reference = True
        try:
            return super()._as_reference(function, *args)
        finally:
            self._is_reference = False


class Untrained(TextAgent, OnPolicyAlgorithm):
    """An agent that collects rollouts, for the log, and never changes its policy.

    Args:
        n_steps: tokens of a rollout, an environment.

    The other arguments are SB3's.
    """

    kl_argument = None
    trains = False
    unused = {"gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.0} | NO_CRITIC | NO_KL

    def __init__(
        self,
        policy: Any = TokenPolicy,
        env: Any = None,
        n_steps: int = 32,
        rollout_buffer_class: type[Any] | None = SequenceRolloutBuffer,
        **kwargs: Any,
    ) -> None:
        settled = {"learning_rate": 0.0, "gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.0, "vf_coef": 0.0}
        settled |= {"max_grad_norm": 1.0, "use_sde": False, "sde_sample_freq": -1}
        super().__init__(
            policy,
            env,
            n_steps=n_steps,
            rollout_buffer_class=rollout_buffer_class,
            supported_action_spaces=(spaces.Discrete,),
            **{**settled, **kwargs},
        )

    def train(self) -> None:
        """Nothing."""


class Random(Untrained):
    """Random tokens, with SB3's interface."""

    def __init__(self, policy: Any = UniformPolicy, env: Any = None, **kwargs: Any) -> None:
        super().__init__(policy, env, **kwargs)
