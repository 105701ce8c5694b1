"""Train with trust region policy optimisation (TRPO)."""

from __future__ import annotations

from typing import Any

import sb3_contrib
import torch
from torch import nn

from .common.text_agent import ON_POLICY, TextAgent

__all__ = ["TRPO"]


class TRPO(TextAgent, sb3_contrib.TRPO):
    """Train with trust region policy optimisation (TRPO).

    Paper: Schulman et al. 2015, "Trust Region Policy Optimization", https://arxiv.org/abs/1502.05477.

    Departures: the algorithm is `sb3_contrib.TRPO` with one method of ours: one natural-gradient step per rollout. A
    line search sets its length, so that the KL to the policy before it is at most `target_kl` nats per token. The
    defaults are ours, and so is the KL penalty to the starting model, which `SequenceRolloutBuffer` charges. The method
    of ours computes the gradients of KL and objective in one pass over all parameters. sb3-contrib differentiates the
    KL once per parameter tensor, which costs a transformer tens of times as much, and leaves out parameters with
    "value" in their names, such as `query_key_value` of GPT-NeoX, which does not belong to the critic. The numbers are
    the same.

    When to use it: where tokens are dear and computing is cheap. It needs the fewest tokens to come near the best
    objective, and the most time. A step is the natural gradient only if the conjugate gradients converge, which takes
    tens of `cg_max_steps` and a `cg_damping` far below 0.1 (`benchmarks/closed_form.py`). Fewer steps are faster and
    gain less.

    Defaults: `learning_rate=1e-4`, `n_steps=32`, `batch_size=512`, `gamma=1.0`, `gae_lambda=0.95`,
    `n_critic_updates=2`, `target_kl=0.01`. `n_steps` counts tokens per environment, `batch_size` counts tokens. All
    other arguments are sb3-contrib's.

    `learning_rate` is the critic's. With `value="shared"` only the critic's linear head learns, because the trunk
    belongs to the actor.

    Raises:
        ValueError: `sub_sampling_factor` is not 1, or `adversarial_coef` or `sft_coef` is not 0.
    """

    defaults = ON_POLICY | {"batch_size": 512, "n_critic_updates": 2, "target_kl": 0.01}

    def _setup_model(self) -> None:
        if self.sub_sampling_factor != 1:
            raise ValueError(
                f"sub_sampling_factor={self.sub_sampling_factor}: sb3-contrib slices observations that are arrays, and "
                "contexts are dicts; take 1, and fewer n_steps"
            )
        super()._setup_model()
        for name in ("adversarial", "sft"):
            added: Any = getattr(self.policy, name, None)
            if added is not None:
                raise ValueError(
                    f"{name}_coef={added.coef}: TRPO's update never asks for the log-probabilities that bring this "
                    f"loss in; take {name}_coef=0, or ppo"
                )

    def _compute_actor_grad(
        self, kl_div: torch.Tensor, policy_objective: torch.Tensor
    ) -> tuple[list[nn.Parameter], torch.Tensor, torch.Tensor, list[tuple[int, ...]]]:
        """Return the parameters that the KL depends on, the flat gradients of objective and KL, and their shapes."""
        actor = [p for name, p in self.policy.named_parameters() if p.requires_grad and not name.startswith("value_")]
        kl = torch.autograd.grad(kl_div, actor, create_graph=True, allow_unused=True)
        used = [(p, grad) for p, grad in zip(actor, kl, strict=True) if grad is not None]
        params = [p for p, _ in used]
        objective = torch.autograd.grad(policy_objective, params, retain_graph=True)
        flat_objective = torch.cat([grad.reshape(-1) for grad in objective])
        flat_kl = torch.cat([grad.reshape(-1) for _, grad in used])
        return params, flat_objective, flat_kl, [tuple(p.shape) for p in params]
