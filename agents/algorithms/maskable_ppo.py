"""Train with PPO under action masks: the algorithm, its policy and its rollout buffer."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import sb3_contrib
import torch
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableDictRolloutBufferSamples
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.type_aliases import PyTorchObs

from ..core.distribution import TokenDistribution
from ..core.policy import TokenPolicy
from ..core.rollout_buffer import SequenceRolloutBuffer
from ..core.segment_buffer import SegmentSamples
from .common.text_agent import TextAgent
from .ppo import PPO

__all__ = ["MaskablePPO", "MaskableSequenceRolloutBuffer", "MaskableTokenPolicy"]

Masks = np.ndarray | torch.Tensor | None


class MaskableTokenPolicy(TokenPolicy):
    """Act as `TokenPolicy` for `sb3_contrib.MaskablePPO`; masked tokens have probability 0 wherever tokens are chosen.

    That holds in sampling and in the log-probabilities of rollout, update and reference alike. The other tokens share
    the whole probability. Masks come with the call, as sb3-contrib passes them: `(n, n_actions)`, True where a token is
    allowed. Or they are packed by `np.packbits` into `(n, ceil(n_actions / 8))` uint8, and unpacked one chunk at a time
    where the logits are computed. Calls without masks restrict nothing. Top-k and top-p choose among the tokens that
    the mask leaves.

    The arguments are `TokenPolicy`'s.
    """

    reads_action_masks = True

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: Masks = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what `TokenPolicy.forward` does, under the masks."""
        return super().forward(self._with_masks(obs, action_masks), deterministic)

    def get_distribution(self, obs: PyTorchObs, action_masks: Masks = None) -> TokenDistribution:
        """Return what `TokenPolicy.get_distribution` does, under the masks."""
        return super().get_distribution(self._with_masks(obs, action_masks))

    def _predict(
        self, observation: PyTorchObs, deterministic: bool = False, action_masks: Masks = None
    ) -> torch.Tensor:
        return self.get_distribution(observation, action_masks).get_actions(deterministic=deterministic)

    predict: Any = MaskableActorCriticPolicy.predict  # it takes `action_masks`

    def evaluate_actions(
        self, obs: PyTorchObs, actions: torch.Tensor, action_masks: Masks = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what `TokenPolicy.evaluate_actions` does, under the masks, or else under `obs["action_masks"]`.

        Raises:
            ValueError: an action is masked, so that it has no log-probability.
        """
        obs = self._with_masks(obs, action_masks)
        actions = actions.long().flatten()
        if "action_masks" in obs:
            self._check_taken(obs["action_masks"], actions)
        return super().evaluate_actions(obs, actions)

    def masks(self, obs: PyTorchObs) -> tuple[torch.Tensor, ...]:
        """Return the masks that came with an observation, packed or not, as a tuple of one; empty without masks."""
        assert isinstance(obs, dict)
        return (obs["action_masks"],) if "action_masks" in obs else ()

    def allowed(self, taken: torch.Tensor | None, *masks: torch.Tensor) -> torch.Tensor:
        """Return the masks, unpacked, `(n, n_actions)` bool. Raise ValueError if one leaves no token."""
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
        """Return the observation with the masks, checked, under the key "action_masks"."""
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
                "action_masks() must give one bool per token"
            )
        return {**obs, "action_masks": masks if masks.shape[1] != self.n_actions else masks.bool()}

    def _check_taken(self, masks: torch.Tensor, actions: torch.Tensor) -> None:
        """Refuse actions that are masked. Reads one bit of each mask."""
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


class MaskableSequenceRolloutBuffer(SequenceRolloutBuffer):
    """Keep rollouts as `SequenceRolloutBuffer` does, with their action masks, for `sb3_contrib.MaskablePPO`.

    The masks of a rollout are kept as bits, `(n_steps, n_envs, ceil(V / 8))` uint8, and handed out as bits: the policy
    unpacks them where it computes the logits. The reference's log-probabilities are under the masks too.

    The arguments are `SequenceRolloutBuffer`'s.
    """

    def reset(self) -> None:
        """Empty the buffer. A step added without masks allows every token."""
        super().reset()
        self.mask_dims = int(self.action_space.n)  # type: ignore[attr-defined]
        self.action_masks = np.full((self.buffer_size, self.n_envs, -(-self.mask_dims // 8)), 255, dtype=np.uint8)

    def add(self, *args: Any, action_masks: np.ndarray | None = None, **kwargs: Any) -> None:
        """Store one step of all environments, and their masks `(n_envs, V)`, True (or not 0) where allowed."""
        if action_masks is not None:
            masks = np.asarray(action_masks).reshape(self.n_envs, self.mask_dims)
            self.action_masks[self.pos] = np.packbits(masks.astype(np.bool_), axis=1)
        super().add(*args, **kwargs)

    def get(  # type: ignore[override]
        self, batch_size: int | None = None
    ) -> Generator[MaskableDictRolloutBufferSamples, None, None]:
        """Yield what `SequenceRolloutBuffer.get` does, with the packed masks, `(n, ceil(V / 8))` uint8."""
        for samples in super().get(batch_size):
            yield MaskableDictRolloutBufferSamples(*samples, action_masks=samples.observations["action_masks"])

    def _segment_samples(self, chosen: np.ndarray) -> SegmentSamples:
        samples = super()._segment_samples(chosen)
        samples.observations["action_masks"] = torch.as_tensor(self.action_masks[samples.steps], device=self.device)
        return samples


# MaskablePPO asks for instances of its own classes: its policy has MLPs, and its buffer keeps masks as floats.
MaskableActorCriticPolicy.register(MaskableTokenPolicy)
MaskableDictRolloutBuffer.register(MaskableSequenceRolloutBuffer)


class MaskablePPO(TextAgent, sb3_contrib.MaskablePPO):  # type: ignore[misc]
    """Train with proximal policy optimisation (PPO) under action masks.

    Papers: PPO, Schulman et al. 2017, "Proximal Policy Optimization Algorithms", https://arxiv.org/abs/1707.06347;
    masks, Huang and Ontanon 2020, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms",
    https://arxiv.org/abs/2006.14171.

    Departures: the algorithm is `sb3_contrib.MaskablePPO`, unmodified. The defaults are `PPO`'s. The KL penalty
    compares with the starting model *under the same masks*: a token that the environment forbids has probability 0 in
    both.

    When to use it: where the environment forbids tokens, by its arguments `min_new_tokens` and `suppress_tokens` or by
    its task. Other algorithms ignore those masks, and `agents.make` warns of it.

    Defaults: `learning_rate=1e-4`, `n_steps=32`, `batch_size=512`, `n_epochs=4`, `gamma=1.0`, `gae_lambda=0.95`,
    `vf_coef=0.1`, `max_grad_norm=1.0`, in the units of `PPO`. All other arguments are sb3-contrib's.

    Raises:
        ValueError: the environment has no `action_masks()`.
    """

    data_parallel = True
    defaults = PPO.defaults | {"policy": MaskableTokenPolicy, "rollout_buffer_class": MaskableSequenceRolloutBuffer}

    def _setup_model(self) -> None:
        if self.env is not None and not is_masking_supported(self.env):
            raise ValueError(
                "maskable_ppo needs an environment with a method action_masks(), one bool per token, and this one has "
                "none: take one of agents.make_vec_env, wrap yours with sb3_contrib.common.wrappers.ActionMasker, or "
                "train with ppo"
            )
        super()._setup_model()
