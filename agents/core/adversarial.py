"""Adversarial training: the policy is held to what it says, also where its input embeddings are a little wrong.

Paper: SA-PPO, Zhang et al. 2020, https://arxiv.org/abs/2003.08938, whose regulariser is the largest KL between the
policy and itself at a state nearby; perturbed input embeddings are Miyato et al. 2017,
https://arxiv.org/abs/1605.07725, and for pre-trained language models SMART, Jiang et al. 2020,
https://arxiv.org/abs/1911.03437.

`coef * mean KL(pi(.|s) || pi(.|s + delta))` over the action positions is added to the loss of any algorithm that calls
`evaluate_actions` and `backward`: an identity on the log-probabilities has a backward pass that also sends `coef` into
the regulariser (as Megatron-LM's `MoEAuxLossAutoScaler` does). Values, log-probabilities and entropies stay what they
are. Departures from the papers:

- delta is found by projected gradient ascent (Madry et al. 2018), not by SGLD or convex relaxations: a random start,
  for the KL has no gradient at 0; steps of 2.5 radii over their number; the unit gradient a token; projection.
- The ball is an L2 ball a token. Its radius is relative, `epsilon` times the mean norm of the model's input embeddings
  as they are now, so that embeddings which grow buy no robustness.
- One delta a sequence, which all actions after it see: a state of its own an action would cost a pass a token.
- The KL is at the policy's temperature and over its action space, without top-k and top-p: what one set keeps and the
  other drops would make it infinite.
- Its gradient runs through both distributions, as the loss says; SMART's is symmetric, Miyato's holds the clean one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from . import distribution as token_distribution
from .base_policy import LanguageModelPolicy
from .observations import micro_batches, read_contexts

__all__ = [
    "AdversarialRegulariser",
    "ascend",
    "divergences",
    "hidden_at",
    "perturbed",
    "radius_of",
    "random_start",
]

Observations = dict[str, torch.Tensor]


class AdversarialRegulariser:
    """The regulariser of one policy. Not a module: it owns no parameters.

    Every call of `evaluate_actions` whose log-probabilities a loss differentiates adds it once, whatever the loss is
    multiplied with.

    Args:
        coef: what the mean KL is multiplied with, in the loss.
        epsilon: radius of a token's ball, in mean norms of the input embeddings.
        steps: gradient steps to find the worst delta, each one forward and backward pass.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, coef: float, epsilon: float, steps: int) -> None:
        if not 0 <= coef < float("inf"):
            raise ValueError(f"adversarial_coef={coef}: expected a number of at least 0; 0 is no adversarial training")
        if not 0 < epsilon < float("inf"):
            raise ValueError(
                f"adversarial_epsilon={epsilon}: expected a number above 0, in mean norms of the input embeddings; for "
                "no adversarial training take adversarial_coef=0"
            )
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"adversarial_steps={steps!r}: expected a whole number of at least 1")
        self.coef, self.epsilon, self.steps = coef, epsilon, steps
        self._kls: list[torch.Tensor] = []  # of the calls since `take_figures`

    def attach(
        self,
        policy: LanguageModelPolicy,
        obs: Observations,
        log_probs: torch.Tensor,
        micro_batch_size: int | None = None,
    ) -> torch.Tensor:
        """Return the log-probabilities `(n,)`, unchanged; their backward pass adds the regulariser's gradient.

        Args:
            policy: the policy.
            obs: as in `evaluate_actions`.
            log_probs: what `evaluate_actions` found, `(n,)`.
            micro_batch_size: as in `TokenPolicy`.
        """
        if not torch.is_grad_enabled():
            return log_probs
        radius = radius_of(policy, self.epsilon)
        obs = obs | {"start": random_start(policy, obs, radius)}  # drawn for all at once: parts do not change it
        if micro_batch_size is None:
            total = self._total(policy, obs, radius)
        else:
            parts = micro_batches(obs, micro_batch_size)
            total = torch.stack([self._total(policy, part, radius, recompute=True) for part, _ in parts]).sum()
        kl = total / len(log_probs)
        self._kls.append(kl.detach())
        result: torch.Tensor = _AddLoss.apply(log_probs, kl, self.coef)
        return result

    def _total(
        self, policy: LanguageModelPolicy, obs: Observations, radius: torch.Tensor, recompute: bool = False
    ) -> torch.Tensor:
        """Return the sum of the KLs of the actions in `obs`; with `recompute` no activations are kept for it."""
        obs = dict(obs)
        start = obs.pop("start")
        clean = hidden_at(policy, obs)
        delta = ascend(policy, obs, clean.detach(), start, radius, self.steps)
        if not recompute:
            return divergences(policy, clean, hidden_at(policy, obs, delta)).sum()
        del clean  # both passes are computed again in the backward pass: no part holds its activations until then

        def total(delta: torch.Tensor) -> torch.Tensor:
            return divergences(policy, hidden_at(policy, obs), hidden_at(policy, obs, delta)).sum()

        result: torch.Tensor = checkpoint(total, delta, use_reentrant=False)
        return result

    def take_figures(self) -> dict[str, float]:
        """`adversarial_kl`: the mean KL of the updates since the last call, in nats an action; nothing without any."""
        kls, self._kls = self._kls, []
        return {"adversarial_kl": float(torch.stack(kls).mean())} if kls else {}


class _AddLoss(torch.autograd.Function):
    """The identity on its first argument; the gradient of the second, a scalar, is the third."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, loss: torch.Tensor, coef: float) -> torch.Tensor:
        ctx.coef, ctx.like = coef, loss.detach()
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return grads[0], torch.full_like(ctx.like, ctx.coef), None


@torch.no_grad()
def radius_of(policy: LanguageModelPolicy, epsilon: float) -> torch.Tensor:
    """`epsilon` times the mean L2 norm of the input embeddings as the module gives them out, a scalar."""
    module = policy.embedding()
    some = torch.arange(min(64, len(module.weight)), device=module.weight.device)
    scale = module(some).float().norm() / module.weight[some].float().norm()  # not 1 where the module scales them
    radius: torch.Tensor = epsilon * scale * module.weight.float().norm(dim=-1).mean()
    return radius


def random_start(policy: LanguageModelPolicy, obs: Observations, radius: torch.Tensor) -> torch.Tensor:
    """A delta of norm `radius` in a random direction at every token, padding too, `(batch, length, embedding size)`."""
    ids = obs["input_ids"]
    noise = torch.randn(*ids.shape, policy.embedding().weight.shape[1], device=ids.device)
    return radius * _unit(noise)


def ascend(
    policy: LanguageModelPolicy,
    obs: Observations,
    clean: torch.Tensor,
    start: torch.Tensor,
    radius: torch.Tensor,
    steps: int,
    where: torch.Tensor | None = None,
) -> torch.Tensor:
    """The delta that raises the KL most, by projected gradient ascent; it leaves the parameters' `.grad` alone.

    Args:
        policy: the policy.
        obs: as in `evaluate_actions`.
        clean: the hidden states `(n, hidden_size)` of the actions without a delta.
        start: a delta to start from, `(batch, length, embedding size)`.
        radius: of the L2 ball of a token.
        steps: of size 2.5 radii over their number.
        where: the tokens that are perturbed, `(batch, length)` bool; all but padding by default.

    Returns:
        `(batch, length, embedding size)` float32, within the ball, and 0 outside `where`.
    """
    ids, lengths = read_contexts(obs)
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    inside = (real if where is None else real & where)[..., None]
    delta = _project(start * inside, radius)
    for _ in range(steps):
        delta.requires_grad_()
        with torch.enable_grad():
            total = divergences(policy, clean, hidden_at(policy, obs, delta)).sum()
            (gradient,) = torch.autograd.grad(total, delta)
        delta = _project(delta.detach() + 2.5 * radius / steps * _unit(gradient), radius) * inside
    return delta


def hidden_at(policy: LanguageModelPolicy, obs: Observations, delta: torch.Tensor | None = None) -> torch.Tensor:
    """The actor's hidden states `(n, hidden_size)` at the actions, with `delta` added to its input embeddings.

    With a delta the whole trunk runs: stored trunk states are those of the clean input.
    """
    if "rows" not in obs:  # the row's last token; with its place given, nothing goes through the KV cache
        lengths = read_contexts(obs)[1]
        obs = obs | {"rows": torch.arange(len(lengths), device=lengths.device), "columns": lengths - 1}
    if delta is None:
        return policy.hidden(obs)
    obs = {key: value for key, value in obs.items() if key != "trunk_states"}
    with perturbed(policy.embedding(), delta):
        return policy.hidden(obs)


@contextmanager
def perturbed(embedding: nn.Module, delta: torch.Tensor) -> Iterator[None]:
    """The output `(batch, length, size)` of an embedding gets `delta` added, which is cut to the contexts' length."""

    def add(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        return output + delta[:, : output.shape[1]].to(output.dtype)

    hook = embedding.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def divergences(policy: LanguageModelPolicy, clean: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(clean || other) of the next token, `(n,)` nats, from hidden states `(n, hidden_size)`; in chunks of logits."""

    def log_probs(hidden: torch.Tensor) -> torch.Tensor:
        logits = policy.language_model.head(hidden)[..., : policy.n_actions]
        return (logits / policy.temperature).log_softmax(dim=-1)

    def evaluate(clean: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        with policy.autocast():
            p, q = log_probs(clean), log_probs(other)
        return (p.exp() * (p - q)).sum(dim=-1)

    size = max(1, token_distribution.LOGITS_AT_ONCE // (2 * policy.language_model.vocab_size))
    if len(clean) <= size:
        return evaluate(clean, other)
    chunks = zip(clean.split(size), other.split(size), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(evaluate, *c, use_reentrant=False, preserve_rng_state=False) for c in chunks])
    return torch.cat([evaluate(*c) for c in chunks])


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of norm 1, and 0 for a vector of 0, such as the gradient of a token that no action sees."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def _project(delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return delta * (radius / torch.maximum(delta.norm(dim=-1, keepdim=True), radius))
