"""Train with natural language policy optimisation (NLPO): the algorithm and its policy."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from ..core.distribution import keep_top
from ..core.language_model import Snapshot
from ..core.policy import TokenPolicy
from ..core.trunk import Trunk
from .ppo import PPO

__all__ = ["NLPO", "NLPOPolicy"]


class NLPOPolicy(TokenPolicy):
    """Choose among the tokens that an older copy of this policy, its *mask policy*, finds likely.

    The logits are masked to the top-p nucleus of the mask policy after the same context. The mask policy is the policy
    as it was at the last `refresh_mask`. The nucleus holds in sampling, and in the log-probabilities of rollout, update
    and reference alike. The token that was taken always counts as inside the nucleus, in case a recomputed probability
    falls on the other side of its boundary. The temperature divides the mask policy's logits too; `top_k` and `top_p`
    choose among what the mask leaves.

    The mask policy decodes through a KV cache of its own in rollouts, and costs an update one more forward pass per
    minibatch, without gradients. Only the parameters that learn are copied. The copy is saved with the policy.

    Args:
        mask_top_p: p of the mask policy's nucleus; 1 masks nothing.
        **kwargs: arguments of `TokenPolicy`.

    Raises:
        ValueError: `mask_top_p` is outside (0, 1].
    """

    is_language_model = False
    shardable = False

    def __init__(
        self, observation_space: Any, action_space: Any, lr_schedule: Schedule, mask_top_p: float = 0.9, **kwargs: Any
    ) -> None:
        if not 0 < mask_top_p <= 1:
            raise ValueError(f"mask_top_p={mask_top_p}: expected a number in (0, 1]")
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.mask_top_p = mask_top_p
        self.mask_policy = Snapshot(self.language_model.trained_parameters())
        self._masker = Trunk(self._actor.module, self.max_length, self.language_model, like=self._actor)

    def start_parameters(self) -> dict[str, tuple[Any, torch.Tensor]]:
        """Return what `TokenPolicy` does, and the mask policy's parameters, which start as the model's."""
        first = self.reference.parameters_by_name()
        masks = self.mask_policy.parameters_by_name()
        return super().start_parameters() | {f"mask/{name}": (mask, first[name]) for name, mask in masks.items()}

    def refresh_mask(self) -> None:
        """Make the policy, as it is now, the mask policy. Call it between an update and the next rollout only."""
        self.mask_policy.take(self.language_model.trained_parameters())
        self._masker.cache.clear()

    def set_training_mode(self, mode: bool) -> None:
        """Set the mode as `TokenPolicy` does; an update empties the mask policy's cache too."""
        super().set_training_mode(mode)
        if mode:
            self._masker.cache.clear()

    def masks(self, obs: PyTorchObs) -> tuple[torch.Tensor, ...]:
        """Return the mask policy's last hidden states where actions are chosen, `(n, hidden_size)`.

        No gradient passes: a snapshot's parameters are buffers, and the others are frozen.
        """
        return (self._with(self.mask_policy, self.hidden, obs, self._masker),)

    def allowed(self, taken: torch.Tensor | None, *masks: torch.Tensor) -> torch.Tensor:
        """Return whether each token is in the nucleus or is the one in `taken`, `(n, n_actions)` bool."""
        logits = self._with(self.mask_policy, self.language_model.head, *masks)[..., : self.n_actions]
        return keep_top(logits / self.temperature, None, self.mask_top_p, taken) > -torch.inf


class NLPO(PPO):
    """Train with natural language policy optimisation (NLPO): PPO over the tokens that a lagging copy finds likely.

    Paper: Ramamurthy et al. 2022, "Is Reinforcement Learning (Not) for Natural Language Processing",
    https://arxiv.org/abs/2210.01241, algorithm 1. The optimiser is `stable_baselines3.PPO`, unmodified. `NLPOPolicy`
    masks the logits to the top-p nucleus of the mask policy, which becomes the policy again every `target_update`
    rollouts.

    Departures: the KL penalty is between the masked policy and the starting model *under the same mask*, as for every
    decoding option here, so that both are distributions over the same tokens. The mask policy is refreshed after an
    update, so that rollout and update of the same tokens always have the same mask.

    When to use it: where the vocabulary is large and exploring drifts into tokens that make no sense. It takes nearly
    twice as long as `ppo`.

    Args:
        target_update: rollouts, each with its update, after which the mask policy becomes the policy; mu in the paper.

    Defaults: `target_update=5`; the policy's `mask_top_p` is 0.9. All other arguments and defaults are as in `PPO`.

    Raises:
        ValueError: `target_update` is not a whole number of at least 1.
        TypeError: the policy is not an `NLPOPolicy`.
    """

    defaults = PPO.defaults | {"policy": NLPOPolicy}
    policy: NLPOPolicy

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        target_update: int = 5,
        **kwargs: Any,
    ) -> None:
        if isinstance(target_update, bool) or not isinstance(target_update, int) or target_update < 1:
            raise ValueError(f"target_update={target_update!r}: expected a number of rollouts, at least 1")
        self.target_update = target_update
        self.n_rollouts = 0
        super().__init__(policy, env, learning_rate, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        if not isinstance(self.policy, NLPOPolicy):
            raise TypeError(f"nlpo takes its mask from an NLPOPolicy, and this is a {type(self.policy).__name__}")

    def train(self) -> None:
        """Update as SB3's PPO does; after every `target_update`-th update refresh the mask policy."""
        super().train()
        self.n_rollouts += 1
        if self.n_rollouts % self.target_update == 0:
            self.policy.refresh_mask()
        self.logger.record("train/mask_refreshes", self.n_rollouts // self.target_update)
