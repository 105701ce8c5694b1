"""Trust region policy optimisation for text.

Paper: Schulman et al. 2015, https://arxiv.org/abs/1502.05477. The algorithm is `sb3_contrib.TRPO`, unmodified: one
natural-gradient step a rollout, its length set by a line search under a KL of `target_kl` nats a token to the policy
before it. Ours are the defaults, and the KL penalty to the starting model, which `SequenceRolloutBuffer` charges.

One hook is ours: sb3-contrib differentiates the KL once a parameter tensor, which for a transformer costs tens of times
the whole gradient, and leaves out parameters with "value" in their names (`query_key_value` of GPT-NeoX is none of the
critic's). Ours takes all gradients in one pass, to the same numbers.
"""

from __future__ import annotations

from typing import Any

import sb3_contrib
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from ..core.policy import TokenPolicy
from ..core.rollout_buffer import SequenceRolloutBuffer
from .common.text_agent import TextAgent

__all__ = ["TRPO"]


class TRPO(TextAgent, sb3_contrib.TRPO):
    """`sb3_contrib.TRPO` with `TokenPolicy`, `SequenceRolloutBuffer` and defaults for text.

    `n_steps` and `batch_size` count tokens, `n_steps` an environment; `learning_rate` is the critic's, of which with
    `value="shared"` only the linear head learns: the trunk is the actor's. A step is the natural gradient only where
    the conjugate gradients converge, which takes tens of `cg_max_steps` and a `cg_damping` far below 0.1
    (`benchmarks.closed_form`); fewer are faster and gain less. All other arguments are sb3-contrib's.
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
        if self.sub_sampling_factor != 1:
            raise ValueError(
                f"sub_sampling_factor={self.sub_sampling_factor}: sb3-contrib slices observations that are arrays, and "
                "contexts are dicts; take 1, and fewer n_steps"
            )
        super()._setup_model()
        regulariser: Any = getattr(self.policy, "adversarial", None)
        if regulariser is not None:
            raise ValueError(
                f"adversarial_coef={regulariser.coef}: TRPO's update never asks for the log-probabilities "
                "that the attack works on; take adversarial_coef=0, or ppo"
            )

    def _compute_actor_grad(
        self, kl_div: torch.Tensor, policy_objective: torch.Tensor
    ) -> tuple[list[nn.Parameter], torch.Tensor, torch.Tensor, list[tuple[int, ...]]]:
        """The parameters that the KL depends on; the gradients of objective and KL, flat; the parameters' shapes."""
        actor = [p for name, p in self.policy.named_parameters() if p.requires_grad and not name.startswith("value_")]
        kl = torch.autograd.grad(kl_div, actor, create_graph=True, allow_unused=True)
        used = [(p, grad) for p, grad in zip(actor, kl, strict=True) if grad is not None]
        params = [p for p, _ in used]
        objective = torch.autograd.grad(policy_objective, params, retain_graph=True)
        shapes = [tuple(p.shape) for p in params]
        return (
            params,
            torch.cat([grad.reshape(-1) for grad in objective]),
            torch.cat([grad.reshape(-1) for _, grad in used]),
            shapes,
        )
