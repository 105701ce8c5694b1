"""White-box attacks on what a policy says after a prompt: changes of its embeddings, and swaps of its tokens.

Both want the policy to leave the completion that it would have written. The embedding attack is the "maximal action
difference" of Zhang et al. 2020, https://arxiv.org/abs/2003.08938, as projected gradient ascent on the KL between the
policy and itself (`agents.core.adversarial.ascend`), on the prompt alone. The token attack is HotFlip (Ebrahimi et al.
2018, https://arxiv.org/abs/1712.06751): the gradient with respect to the embeddings ranks the swaps of a token by how
much they raise, to first order, the negative log-likelihood of the completion. First order says little of a swap, which
is a large step: so, as in GCG (Zou et al. 2023, https://arxiv.org/abs/2307.15043), some of the best at every position
are drawn and tried, and the best of those is made, one swap at a time. Each attack has a blind twin that may do as much
and does not look at the gradient: a random change of the same norm, and random swaps of which the best is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..core import distribution as token_distribution
from ..core.adversarial import ascend, hidden_at, radius_of, random_start

if TYPE_CHECKING:
    from ..core.base_policy import LanguageModelPolicy

__all__ = ["AttackedPolicy", "Budget", "attack_embeddings", "attack_tokens", "best_swaps", "random_swaps"]

Observations = dict[str, torch.Tensor]
PER_POSITION = 32  # swaps of a token that the gradient proposes


@dataclass(frozen=True)
class Budget:
    """How much an attacker may do.

    Attributes:
        epsilon: L2 norm of the change of a prompt token's embedding, in mean norms of the input embeddings.
        steps: gradient steps of the embedding attack.
        swaps: tokens that may be swapped.
        candidates: swaps that are tried for each one made.

    Raises:
        ValueError: one is out of range.
    """

    epsilon: float = 0.1
    steps: int = 10
    swaps: int = 2
    candidates: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise ValueError(
                f"epsilon={self.epsilon}: expected a number above 0, in mean norms of the input embeddings"
            )
        for name in ("steps", "swaps", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")


class AttackedPolicy:
    """A policy that reads other prompts than it is given: what `generate_in` asks of a policy, row by row.

    Args:
        policy: the policy.
        where: `(batch, length)` bool, the prompts' tokens.
        delta: `(batch, length, embedding size)`, added to the embeddings; contexts then go through without a cache.
        ids: `(batch, length)` int64, tokens instead of the prompts'.
    """

    reads_action_masks = False

    def __init__(
        self,
        policy: LanguageModelPolicy,
        where: torch.Tensor,
        delta: torch.Tensor | None = None,
        ids: torch.Tensor | None = None,
    ) -> None:
        self.policy, self.where, self.delta, self.ids = policy, where, delta, ids
        self.device = policy.device

    @torch.no_grad()
    def get_distribution(self, obs: Observations) -> Any:
        """The distribution of the next token of every context."""
        obs = {key: value.long() for key, value in obs.items()}
        if self.ids is not None:
            ids, width = obs["input_ids"].clone(), self.where.shape[1]
            ids[:, :width] = torch.where(self.where, self.ids, ids[:, :width])
            obs["input_ids"] = ids
        if self.delta is None:
            return self.policy.get_distribution(obs)
        room = obs["input_ids"].shape[1] - self.delta.shape[1]
        delta = torch.nn.functional.pad(self.delta, (0, 0, 0, max(room, 0)))  # no change after the prompt
        return self.policy.distribution_after(hidden_at(self.policy, obs, delta))


def attack_embeddings(
    policy: LanguageModelPolicy, obs: Observations, where: torch.Tensor, budget: Budget, blind: bool = False
) -> torch.Tensor:
    """The change `(batch, length, embedding size)` of the prompts' embeddings that raises the KL most.

    Args:
        policy: the policy.
        obs: prompts with their completions, `rows` and `columns` as in `evaluate_actions`.
        where: `(batch, length)` bool, the prompts' tokens.
        budget: of the attacker.
        blind: take the random start.
    """
    radius = radius_of(policy, budget.epsilon)
    with torch.no_grad():
        clean = hidden_at(policy, obs)
    start = random_start(policy, obs, radius)
    return ascend(policy, obs, clean, start, radius, 0 if blind else budget.steps, where)


def attack_tokens(
    policy: LanguageModelPolicy,
    obs: Observations,
    actions: torch.Tensor,
    where: torch.Tensor,
    budget: Budget,
    banned: Sequence[int] = (),
    blind: bool = False,
) -> torch.Tensor:
    """The ids `(batch, length)` with at most `budget.swaps` tokens a prompt swapped to make its completion improbable.

    A swap is made only where it raises the negative log-likelihood of the `actions` `(n,)` at their places in `obs`.
    `banned` tokens are never put in.
    """
    ids = obs["input_ids"].clone()
    best = _nll(policy, obs, actions).detach()
    embedding = policy.embedding()
    allowed = torch.ones(policy.n_actions, dtype=torch.bool, device=ids.device)
    allowed[[token for token in banned if token < policy.n_actions]] = False
    vectors = embedding(torch.arange(policy.n_actions, device=ids.device)).detach()
    for _ in range(budget.swaps):
        current = obs | {"input_ids": ids}
        if blind:
            swaps = random_swaps(where, allowed, budget.candidates)
        else:
            gradient = _gradient(policy, current, actions)
            swaps = best_swaps(gradient, ids, where, vectors, allowed, budget.candidates)
        for positions, tokens in swaps:  # (batch,) each: one swap a row
            tried = ids.scatter(1, positions[:, None], tokens[:, None])
            with torch.no_grad():
                nll = _nll(policy, obs | {"input_ids": tried}, actions)
            better = nll > best
            best = torch.where(better, nll, best)
            current["input_ids"] = torch.where(better[:, None], tried, current["input_ids"])
        ids = current["input_ids"]
    return ids


def best_swaps(
    gradient: torch.Tensor,
    ids: torch.Tensor,
    where: torch.Tensor,
    vectors: torch.Tensor,
    allowed: torch.Tensor,
    n: int,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw n swaps a row of those that raise a loss most, to first order: positions and tokens, `(batch,)` each.

    The first is the best of all; the others are drawn from the `PER_POSITION` best at every position.

    Args:
        gradient: of the loss, `(batch, length, embedding size)`.
        ids: `(batch, length)`.
        where: the tokens that may go, `(batch, length)` bool; one a row at least.
        vectors: the embeddings of the vocabulary, `(vocabulary, embedding size)`.
        allowed: the tokens that may come, `(vocabulary,)` bool.
        n: how many.
    """
    chosen = []
    for row in range(len(ids)):  # one row's positions x vocabulary at a time
        positions = where[row].nonzero().squeeze(1)
        slopes = gradient[row, positions]
        gains = slopes @ vectors.T - (slopes * vectors[ids[row, positions]]).sum(dim=-1, keepdim=True)
        gains = gains.masked_fill(~allowed, -torch.inf)
        gains = gains.scatter(1, ids[row, positions, None], -torch.inf)  # a token for itself is no swap
        top = gains.topk(min(PER_POSITION, int(allowed.sum()) - 1), dim=1)
        drawn = torch.randint(top.values.numel(), (n,), device=ids.device)
        drawn[0] = top.values.flatten().argmax()
        chosen.append(torch.stack([positions[drawn // top.values.shape[1]], top.indices.flatten()[drawn]]))
    return [(ranked[0], ranked[1]) for ranked in torch.stack(chosen, dim=-1).unbind(dim=1)]


def random_swaps(where: torch.Tensor, allowed: torch.Tensor, n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As many random swaps a row, as `best_swaps` gives them."""
    positions = torch.multinomial(where.float(), n, replacement=True)
    tokens = torch.multinomial(allowed.float(), positions.numel(), replacement=True).reshape(positions.shape)
    return list(zip(positions.unbind(dim=1), tokens.unbind(dim=1), strict=True))


def _nll(policy: LanguageModelPolicy, obs: Observations, actions: torch.Tensor, delta: Any = None) -> torch.Tensor:
    """The negative log-likelihood of each sequence's actions, `(batch,)`, decoded as the policy decodes."""
    hidden = hidden_at(policy, obs, delta)
    evaluate: Callable[..., Any] = token_distribution.log_probs_and_entropies
    with policy.autocast():
        log_probs = evaluate(policy.action_logits, hidden, actions, policy.language_model.vocab_size)[0]
    return log_probs.new_zeros(len(obs["input_ids"])).index_add(0, obs["rows"], -log_probs)


def _gradient(policy: LanguageModelPolicy, obs: Observations, actions: torch.Tensor) -> torch.Tensor:
    """Of every sequence's negative log-likelihood in its own embeddings, `(batch, length, embedding size)`."""
    ids = obs["input_ids"]
    size = policy.embedding().weight.shape[1]
    delta = torch.zeros(*ids.shape, size, device=ids.device, requires_grad=True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_nll(policy, obs, actions, delta).sum(), delta)
    return gradient
