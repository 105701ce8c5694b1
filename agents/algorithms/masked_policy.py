"""`MaskableTokenPolicy`: a `TokenPolicy` whose tokens an environment's action masks restrict."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs

from ..core.distribution import TokenDistribution
from ..core.policy import TokenPolicy

__all__ = ["MaskableTokenPolicy"]

Masks = np.ndarray | torch.Tensor | None


class MaskableTokenPolicy(TokenPolicy):
    """A `TokenPolicy` for `sb3_contrib.MaskablePPO`: masked tokens have probability 0 wherever tokens are chosen.

    That is in sampling and in the log-probabilities of rollout, update and reference alike; the other tokens share the
    whole probability. Masks come with the call, as sb3-contrib passes them, `(n, n_actions)` and True where a token is
    allowed, or as `np.packbits` packs such rows, `(n, ceil(n_actions / 8))` uint8: those are unpacked as late as the
    logits are computed, a chunk of them at a time. Calls without masks restrict nothing. Top-k and top-p choose among
    the tokens that the mask leaves.

    The arguments are those of `TokenPolicy`.
    """

    reads_action_masks = True

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: Masks = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `TokenPolicy.forward`, under the masks."""
        return super().forward(self._with_masks(obs, action_masks), deterministic)

    def get_distribution(self, obs: PyTorchObs, action_masks: Masks = None) -> TokenDistribution:
        """As `TokenPolicy.get_distribution`, under the masks."""
        return super().get_distribution(self._with_masks(obs, action_masks))

    def _predict(
        self, observation: PyTorchObs, deterministic: bool = False, action_masks: Masks = None
    ) -> torch.Tensor:
        return self.get_distribution(observation, action_masks).get_actions(deterministic=deterministic)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As in `sb3_contrib.MaskablePPO`: actions for observations, under the masks."""
        predict: Any = MaskableActorCriticPolicy.predict
        actions: tuple[np.ndarray, None] = predict(
            self, observation, state, episode_start, deterministic, action_masks=action_masks
        )
        return actions

    def evaluate_actions(
        self, obs: PyTorchObs, actions: torch.Tensor, action_masks: Masks = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `TokenPolicy.evaluate_actions`, under the masks of the actions; without, under `obs["action_masks"]`.

        Raises:
            ValueError: an action is masked, so that it has no log-probability.
        """
        obs = self._with_masks(obs, action_masks)
        actions = actions.long().flatten()
        if "action_masks" in obs:
            self._check_taken(obs["action_masks"], actions)
        return super().evaluate_actions(obs, actions)

    def masks(self, obs: PyTorchObs) -> tuple[torch.Tensor, ...]:
        """The masks that go with an observation, packed or not; none where there are none."""
        assert isinstance(obs, dict)
        return (obs["action_masks"],) if "action_masks" in obs else ()

    def allowed(self, taken: torch.Tensor | None, *masks: torch.Tensor) -> torch.Tensor:
        """The masks, unpacked, `(n, n_actions)` bool.

        Raises:
            ValueError: a mask leaves no token.
        """
        (mask,) = masks
        if mask.shape[1] != self.n_actions:
            bits = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=mask.device)
            mask = (mask[:, :, None] & bits).ne(0).flatten(1)[:, : self.n_actions]
        mask = mask.bool()
        stuck = ~mask.any(dim=1)
        if stuck.any():
            raise ValueError(
                f"the action mask of row {int(stuck.nonzero()[0])} leaves no token: the environment's action_masks() "
                "must allow at least one"
            )
        return mask

    def _with_masks(self, obs: PyTorchObs, masks: Masks) -> dict[str, torch.Tensor]:
        """The observation with the masks, checked, under the key "action_masks"."""
        assert isinstance(obs, dict)
        if masks is None:
            return obs
        masks = torch.as_tensor(masks, device=self.device)
        if masks.ndim == 1:
            masks = masks[None]
        packed = masks.dtype == torch.uint8 and masks.shape[1] == -(-self.n_actions // 8)
        if masks.shape[1] != self.n_actions and not packed:
            raise ValueError(
                f"action masks of shape {tuple(masks.shape)} and {masks.dtype} do not fit {self.n_actions} tokens: "
                "action_masks() must give a bool a token"
            )
        return {**obs, "action_masks": masks if masks.shape[1] != self.n_actions else masks.bool()}

    def _check_taken(self, masks: torch.Tensor, actions: torch.Tensor) -> None:
        """Refuse actions that are masked, from one bit of each mask."""
        if masks.shape[1] == self.n_actions:
            bit = masks.gather(1, actions[:, None])
        else:
            byte = masks.gather(1, actions[:, None] // 8).int()
            bit = (byte >> (7 - actions[:, None] % 8)) & 1
        masked = (bit == 0).flatten()
        if masked.any():
            place = int(masked.nonzero()[0])
            raise ValueError(
                f"action {int(actions[place])} (number {place} of the batch) is masked, and has no log-probability: "
                "pass the masks under which the actions were chosen"
            )


MaskableActorCriticPolicy.register(MaskableTokenPolicy)  # what MaskablePPO asks for; its MLPs are not ours
