"""`NLPOPolicy`: a `TokenPolicy` that chooses among the tokens which an older copy of itself finds likely."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from ..core.distribution import keep_top
from ..core.kv_cache import Trunk
from ..core.language_model import Snapshot
from ..core.policy import TokenPolicy

__all__ = ["NLPOPolicy"]


class NLPOPolicy(TokenPolicy):
    """A `TokenPolicy` whose logits are masked to the top-p nucleus of its *mask policy* after the same context.

    The mask policy is the policy as it was at the last `refresh_mask`. It decodes through a KV cache of its own in
    rollouts, and an update costs one more forward pass, without gradients, a minibatch. The nucleus holds in sampling
    and in the log-probabilities of rollout, update and reference alike; the token that was taken always counts as
    inside, for where a recomputed probability falls on the other side of the boundary. Only the parameters that learn
    have a copy, and it is saved with the policy. The temperature divides the mask policy's logits as well; `top_k` and
    `top_p` choose among what the mask leaves.

    Args:
        mask_top_p: p of the mask policy's nucleus; 1 masks nothing.
        **kwargs: those of `TokenPolicy`.

    Raises:
        ValueError: `mask_top_p` is outside (0, 1].
    """

    is_language_model = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        mask_top_p: float = 0.9,
        **kwargs: Any,
    ) -> None:
        if not 0 < mask_top_p <= 1:
            raise ValueError(f"mask_top_p={mask_top_p}: expected a number in (0, 1]")
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.mask_top_p = mask_top_p
        self.mask_policy = Snapshot(self.language_model.trained_parameters())
        self._masker = Trunk(self._actor.module, self.max_length, self.language_model, like=self._actor)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"mask_top_p": self.mask_top_p}

    def start_parameters(self) -> dict[str, tuple[Any, torch.Tensor]]:
        """As in `TokenPolicy`; the mask policy was the model too."""
        first = self.reference.parameters_by_name()
        masks = self.mask_policy.parameters_by_name()
        return super().start_parameters() | {f"mask/{name}": (mask, first[name]) for name, mask in masks.items()}

    def refresh_mask(self) -> None:
        """Make the policy as it is now the mask policy; between an update and the next rollout, never within one."""
        self.mask_policy.take(self.language_model.trained_parameters())
        self._masker.cache.clear()

    def set_training_mode(self, mode: bool) -> None:
        """As in `TokenPolicy`; an update empties the mask policy's slots too."""
        super().set_training_mode(mode)
        if mode:
            self._masker.cache.clear()

    def masks(self, obs: PyTorchObs) -> tuple[torch.Tensor, ...]:
        """The mask policy's last hidden states where actions are chosen, `(n, hidden_size)`.

        No gradient passes: a snapshot's parameters are buffers, and the others are frozen.
        """
        return (self._with(self.mask_policy, self.hidden, obs, self._masker),)

    def allowed(self, taken: torch.Tensor | None, *masks: torch.Tensor) -> torch.Tensor:
        """The nucleus `(n, n_actions)`, bool, and the tokens `taken`."""
        logits = self._with(self.mask_policy, self.language_model.head, *masks)[..., : self.n_actions]
        return keep_top(logits / self.temperature, None, self.mask_top_p, taken) > -torch.inf
