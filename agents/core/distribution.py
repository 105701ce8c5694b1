"""Sample the next token, keep top-k and top-p, and compute log-probabilities without ever holding all logits.

A vocabulary is large. The memory of an update is filled not by the model but by logits, `(tokens, vocab_size)`, and by
what autograd keeps of them. `log_probs_and_entropies` computes them in chunks of `LOGITS_AT_ONCE`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.distributions import CategoricalDistribution
from torch.autograd.function import once_differentiable
from torch.distributions import Categorical
from torch.utils.checkpoint import checkpoint

__all__ = [
    "TokenDistribution",
    "check_rows",
    "in_chunks",
    "keep_top",
    "log_probs_and_entropies",
    "log_probs_without_gradients",
]

Logits = Callable[..., torch.Tensor]

LOGITS_AT_ONCE = 2**25  # tokens x vocabulary, 128 MB in float32
LOGITS_WITHOUT_GRADIENTS = 2**22  # nothing is computed twice there, so chunks may as well be small


class TokenDistribution(CategoricalDistribution):
    """Adapt SB3's categorical distribution to a large vocabulary: torch's checks, each a pass over it, are off."""

    def proba_distribution(self, action_logits: torch.Tensor, check: bool = True) -> TokenDistribution:
        """Set the logits, `(n, n_actions)`.

        Raises:
            FloatingPointError: a row is not a distribution, unless `check` is False.
        """
        self.distribution = Categorical(logits=action_logits, validate_args=False)
        if check:
            check_rows(self.distribution.logits.amax(dim=-1))  # NaN where there is a NaN or +inf, or nothing but -inf
        return self

    def sample(self, draws: torch.Tensor | None = None) -> torch.Tensor:
        """Draw one token per row, `(n,)`, by inverting the cumulated probabilities.

        That takes one random number per row, where `torch.multinomial` takes one for every token of the vocabulary.

        Args:
            draws: these numbers, `(n, 1)` float64 in [0, 1); None draws them.
        """
        cumulated = self.distribution.probs.double().cumsum(dim=-1)
        if draws is None:
            draws = torch.rand_like(cumulated[:, :1])
        threshold = draws * cumulated[:, -1:]
        tokens = torch.searchsorted(cumulated, threshold, right=True)  # right: never a token of probability 0
        return tokens.squeeze(1).clamp(max=cumulated.shape[1] - 1)  # where rounding took the threshold to the very end


def check_rows(log_probs: torch.Tensor) -> None:
    """Raise `FloatingPointError` where a log-probability, `(n,)`, is not finite, because its row is no distribution."""
    if not log_probs.isfinite().all():
        row = int((~log_probs.isfinite()).nonzero()[0])
        raise FloatingPointError(
            f"the policy's logits for environment {row} are not finite: its weights have diverged; lower "
            "learning_rate or max_grad_norm"
        )


def keep_top(
    logits: torch.Tensor, top_k: int | None, top_p: float | None, taken: torch.Tensor | None = None
) -> torch.Tensor:
    """Return logits `(n, n_actions)`, -inf outside the k most probable tokens and the smallest set of probability p.

    The tokens `taken`, `(n,)`, always stay. None for k or p lifts that restriction.
    """
    kept = None
    if top_k is not None and top_k < logits.shape[-1]:
        kept = logits >= logits.topk(top_k, dim=-1).values[..., -1:]
    if top_p is not None and top_p < 1.0:
        ordered, order = (logits if kept is None else logits.masked_fill(~kept, -torch.inf)).sort(-1, descending=True)
        probability = ordered.softmax(dim=-1)
        inside = probability.cumsum(dim=-1) - probability < top_p  # the mass before a token is below p
        nucleus = torch.zeros_like(inside).scatter(-1, order, inside)
        kept = nucleus if kept is None else kept & nucleus
    if kept is None:
        return logits
    if taken is not None:
        kept = kept.scatter(-1, taken[:, None], True)
    return logits.masked_fill(~kept, -torch.inf)


def log_probs_and_entropies(
    logits: Logits, hidden: torch.Tensor, actions: torch.Tensor, vocab_size: int, *more: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities `(n,)` and entropies `(n,)` of `n` actions, in nats.

    Args:
        logits: returns the logits `(m, n_actions)` of m hidden states, m actions and m rows of each of `more`.
        hidden, actions: `(n, hidden_size)`, and `(n,)` int64.
        vocab_size: the width of the logits. More than `LOGITS_AT_ONCE` of them are computed chunk by chunk, and again
            in the backward pass.
        *more: whatever else the logits of an action depend on, `(n, ...)` each; no gradient reaches it.
    """

    def evaluate(hidden: torch.Tensor, actions: torch.Tensor, *more: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _LogProbAndEntropy.apply(logits(hidden, actions, *more), actions)

    log_probs, entropies = in_chunks(evaluate, vocab_size, hidden, actions, *more)
    return log_probs, entropies


def in_chunks(
    evaluate: Callable[..., tuple[torch.Tensor, ...]], width: int, *tensors: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return what `evaluate` returns for tensors `(n, ...)`, evaluated for `LOGITS_AT_ONCE / width` rows at a time.

    Nothing of a chunk is kept for the backward pass, which evaluates it again.
    """
    size = max(1, LOGITS_AT_ONCE // width)
    if len(tensors[0]) <= size:
        return evaluate(*tensors)
    if torch.is_grad_enabled():
        evaluate = partial(checkpoint, evaluate, use_reentrant=False, preserve_rng_state=False)
    parts = [evaluate(*chunk) for chunk in zip(*(tensor.split(size) for tensor in tensors), strict=True)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


@torch.no_grad()
def log_probs_without_gradients(
    logits: Logits, hidden: torch.Tensor, actions: torch.Tensor, vocab_size: int, *more: torch.Tensor
) -> torch.Tensor:
    """Return the log-probabilities of actions, `(n,)`, without gradients: see `log_probs_and_entropies`."""
    size = max(1, LOGITS_WITHOUT_GRADIENTS // vocab_size)
    chunks = zip(*(tensor.split(size) for tensor in (hidden, actions, *more)), strict=True)
    return torch.cat([logits(h, a, *m).log_softmax(dim=-1).gather(1, a[:, None]).squeeze(1) for h, a, *m in chunks])


class _LogProbAndEntropy(torch.autograd.Function):
    """Compute log-probability and entropy of an action from its logits, keeping one array of the size of the logits.

    With p the probabilities, `d log p_a / dz = 1[a] - p` and `dH / dz = -p (log p + H)`. In that array -1e4 stands for
    -inf, so that 0 * log 0 is 0: exp(-1e4) is 0 in every type.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = logits.log_softmax(dim=-1)
        taken = log_probs.gather(1, actions[:, None]).squeeze(1)
        log_probs.clamp_(min=-1e4)  # in place: a second array costs as much time as the softmax
        entropy = -(log_probs.exp().mul_(log_probs)).sum(dim=-1)
        ctx.save_for_backward(log_probs, actions, entropy)
        return taken, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        log_probs, actions, entropy = ctx.saved_tensors
        grad_log_prob, grad_entropy = (grad[:, None] for grad in grads)
        grad = log_probs.exp()
        if grad_entropy.any():
            factor = (log_probs + entropy[:, None]).mul_(grad_entropy).add_(grad_log_prob)
            grad.mul_(factor).neg_()
        else:
            grad.mul_(-grad_log_prob)
        return grad.scatter_add_(1, actions[:, None], grad_log_prob), None
