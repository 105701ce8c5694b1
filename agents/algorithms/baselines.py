"""Hold the baselines that any claim has to beat: random tokens, and the best of n completions without training."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule

from ..core.policy import TokenPolicy
from ..core.rollout_buffer import SequenceRolloutBuffer
from .common.policy_gradient import PolicyGradient
from .common.text_agent import NO_CRITIC, NO_DATA, NO_KL, TextAgent

__all__ = ["BestOfN", "Random", "UniformPolicy", "Untrained"]


class UniformPolicy(TokenPolicy):
    """Choose every token with the same probability. The reference is the language model as it is.

    The model does not say how this policy acts, so a run keeps its bundle and no model.
    """

    is_language_model = False
    _is_reference = False

    def decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """Return equal logits `(n, n_actions)`, or the model's when the reference is asked."""
        decoded = self.reference_decoding_logits(logits, taken, *masks)
        return decoded if self._is_reference else torch.zeros_like(decoded)

    def reference_decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """Return the model's logits `(n, n_actions)`."""
        return super().decoding_logits(logits, taken, *masks)

    def _as_reference(self, function: Any, *args: Any) -> torch.Tensor:
        self._is_reference = True
        try:
            return super()._as_reference(function, *args)
        finally:
            self._is_reference = False


class Untrained(TextAgent, OnPolicyAlgorithm):
    """Collect rollouts, for the log, and never change the policy. A base class."""

    defaults = PolicyGradient.defaults | {"learning_rate": 0.0, "rollout_buffer_class": SequenceRolloutBuffer}
    kl_argument = None
    trains = False
    unused = {"gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.0} | NO_CRITIC | NO_DATA | NO_KL

    def train(self) -> None:
        """Do nothing."""


class Random(Untrained):
    """Write uniformly random tokens.

    No paper: every token of the vocabulary has the same probability after every context, and nothing is learned. The
    KL in an evaluation is that to the language model.

    When to use it: to see what reward, and which judges' scores, text without any sense gets.

    Defaults: `n_steps=32`, in tokens per environment. All other arguments are SB3's.
    """

    defaults = Untrained.defaults | {"policy": UniformPolicy}


class BestOfN(Untrained):
    """Draw n completions of each prompt and keep the best, without training.

    Papers: Stiennon et al. 2020, "Learning to summarize from human feedback", https://arxiv.org/abs/2009.01325,
    section 3. The KL to the starting model is at most `log n - (n - 1) / n`: Beirami et al. 2024, "Theoretical
    guarantees on the best-of-n alignment policy", https://arxiv.org/abs/2401.01879.

    `agents.evaluate` and `agents.generate` draw the n completions and keep the one with the best reward of the
    environment, the reward that other algorithms train against.

    Departures: none in what it does. With `deterministic=True` all n completions would be the same, so one is decoded.
    `predict` chooses one token, as the starting model does. The rollouts of `learn` are single completions for the log,
    and change nothing.

    When to use it: as the baseline that training has to beat, or where n times the tokens per answer cost less than
    training. At a KL of about 6 nats no policy gradient beats the best of 16.

    Args:
        best_of: completions drawn per prompt, n.

    Defaults: `best_of=16`, `n_steps=32`, in tokens per environment. All other arguments are SB3's.

    Raises:
        ValueError: `best_of` is below 1.
    """

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        best_of: int = 16,
        **kwargs: Any,
    ) -> None:
        if best_of < 1:
            raise ValueError(f"best_of={best_of}: expected at least one completion of a prompt")
        self.best_of = best_of
        super().__init__(policy, env, learning_rate, **kwargs)
