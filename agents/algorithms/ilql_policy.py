"""`ILQLPolicy`: a Hugging Face causal language model with the two Q heads and the value head of ILQL."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from .common.q_policy import QPolicy

__all__ = ["ILQLPolicy"]


class ILQLPolicy(QPolicy):
    """A `QPolicy` for `ILQL`: two Q heads, whose smaller value counts, and a value head.

    It draws from `base(a) exp(beta (Q(s, a) - V(s)))`, normalised: V is the same for all tokens and drops out.

    Args:
        beta: as in `QPolicy`; None takes the best token.
        imitates: whether the language model's own head learns too, from the logged tokens, and is the base in the place
            of the reference: for data that the reference did not write.
    """

    n_heads = 2
    learns_value = True

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        beta: float | None = 4.0,
        imitates: bool = False,
        **kwargs: Any,
    ) -> None:
        self.imitates = imitates
        super().__init__(observation_space, action_space, lr_schedule, beta=beta, **kwargs)

    def _freeze_what_has_no_part(self) -> None:
        if not self.imitates:
            super()._freeze_what_has_no_part()

    def _heads_of(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def _acting_values(self, values: torch.Tensor) -> torch.Tensor:
        return values.amin(dim=1)

    @torch.no_grad()
    def base_log_probs(self, obs: PyTorchObs) -> torch.Tensor:
        """As in `QPolicy`, or by the language model as it is now, if that learns."""
        if not self.imitates:
            return super().base_log_probs(obs)
        with self.autocast():
            logits = self.language_model.head(self.hidden(obs))
        return self.decoding_logits(logits).log_softmax(dim=-1)

    @torch.no_grad()
    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """The value head's `(n, 1)`."""
        values: torch.Tensor = self.value_net(self.hidden(obs).float())
        return values

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"imitates": self.imitates}
