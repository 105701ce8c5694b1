"""Natural language policy optimisation (NLPO): PPO over the tokens that a lagging copy of the policy finds likely.

Paper: Ramamurthy et al. 2022, https://arxiv.org/abs/2210.01241, algorithm 1. The optimiser is `stable_baselines3.PPO`,
unmodified; `NLPOPolicy` masks the logits to the top-p nucleus of the mask policy, which becomes the policy again every
`target_update` rollouts.

Departures from the paper: the penalty is the KL between the masked policy and the starting model *under the same mask*,
as it is for every decoding option here, so that both are distributions over the same tokens; and the mask policy is
refreshed after an update, so that the rollout and the update of the same tokens always have the same mask.
"""

from __future__ import annotations

from typing import Any

from .nlpo_policy import NLPOPolicy
from .ppo import PPO

__all__ = ["NLPO"]


class NLPO(PPO):
    """`PPO` with `NLPOPolicy`.

    Args:
        target_update: rollouts (and updates) after which the mask policy becomes the policy; mu in the paper.

    The other arguments are those of `PPO`; `mask_top_p` is the policy's.

    Raises:
        ValueError: `target_update` is no whole number of at least 1.
        TypeError: the policy is no `NLPOPolicy`.
    """

    policy: NLPOPolicy

    def __init__(self, policy: Any = NLPOPolicy, env: Any = None, target_update: int = 5, **kwargs: Any) -> None:
        if isinstance(target_update, bool) or not isinstance(target_update, int) or target_update < 1:
            raise ValueError(f"target_update={target_update!r}: expected a number of rollouts, at least 1")
        self.target_update = target_update
        self.n_rollouts = 0
        super().__init__(policy, env, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        if not isinstance(self.policy, NLPOPolicy):
            raise TypeError(f"nlpo takes its mask from an NLPOPolicy, and this is a {type(self.policy).__name__}")

    def train(self) -> None:
        """SB3's update of PPO; after every `target_update`-th the mask policy is refreshed."""
        super().train()
        self.n_rollouts += 1
        if self.n_rollouts % self.target_update == 0:
            self.policy.refresh_mask()
        self.logger.record("train/mask_refreshes", self.n_rollouts // self.target_update)
