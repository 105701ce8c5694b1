"""Attack a policy through its prompts, white-box: change their embeddings, or swap some of their tokens.

Both attacks want the policy to leave the completion that it would have written. The embedding attack is the "maximal
action difference" of Zhang et al. 2020, https://arxiv.org/abs/2003.08938: projected gradient ascent on the KL between
the policy and itself (`agents.core.adversarial.ascend`), on the prompt alone. The token attack is HotFlip (Ebrahimi et
al. 2018, https://arxiv.org/abs/1712.06751): the gradient with respect to the embeddings ranks the swaps of a token by
how much they raise, to first order, the negative log-likelihood of the completion. A swap is a large step, and the
first order says little about it. So some of the best swaps at every position are drawn and tried, and the best of these
is made, one swap at a time, as in GCG (Zou et al. 2023, https://arxiv.org/abs/2307.15043). Each attack has a blind twin
with the same budget that does not look at the gradient: a random change of the same norm, and the best of random swaps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlhf_envs.episodes import EpisodeBatch

from ..core.adversarial import ascend, divergences, hidden_at, perturbed, radius_of, random_start
from ..core.base_policy import LanguageModelPolicy
from ..core.distribution import log_probs_and_entropies
from ..core.random_state import isolated_generators
from .generate import Completion, generate_in, pad_completions

__all__ = [
    "ATTACKS",
    "AttackedPolicy",
    "Budget",
    "attack_embeddings",
    "attack_policy",
    "attack_tokens",
    "best_swaps",
    "embedding_gradient",
    "random_swaps",
]

Observations = dict[str, torch.Tensor]
ATTACKS = ("embeddings", "random_embeddings", "tokens", "random_tokens")
AT_ONCE = 64  # prompts attacked side by side
PER_POSITION = 32  # swaps of a token that the gradient proposes


@dataclass(frozen=True)
class Budget:
    """Limit what an attacker may do.

    Attributes:
        epsilon: the L2 norm of the change of a prompt token's embedding, in mean norms of the input embeddings.
        steps: gradient steps of the embedding attack.
        swaps: tokens that may be swapped.
        candidates: swaps that are tried for each one that is made.

    Raises:
        ValueError: a value is out of range.
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


@dataclass(frozen=True)
class AttackedPolicy:
    """Let a policy read attacked prompts in place of those it is given. `generate_in` takes it for a policy.

    Attributes:
        policy: the policy.
        where: `(batch, length)` bool, the prompts' tokens.
        delta: `(batch, length, embedding size)`, added to the embeddings; the KV cache is not used then.
        ids: `(batch, length)` int64, the tokens that replace the prompts'.
    """

    reads_action_masks = False

    policy: LanguageModelPolicy
    where: torch.Tensor
    delta: torch.Tensor | None = None
    ids: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.policy.device

    @torch.no_grad()
    def get_distribution(self, obs: Observations) -> Any:
        """Return the distribution of the next token of every context."""
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


def attack_policy(
    policy: LanguageModelPolicy,
    batch: EpisodeBatch,
    completions: list[Completion],
    name: str,
    budget: Budget,
    seed: int,
    deterministic: bool,
) -> tuple[np.ndarray, list[str], list[Completion]]:
    """Attack the prompt of every clean completion with the attack `name`, and let the policy complete the new prompts.

    Return the KL (n,) as `PolicyAttack` has it, the prompts as the policy read them, and the new completions.
    """
    kls, prompts, after = [], [], []
    for start in range(0, len(completions), AT_ONCE):
        chosen = completions[start : start + AT_ONCE]
        obs = pad_completions(chosen, policy.device)
        ids = obs["input_ids"]
        lengths = torch.tensor([int(c.columns[0]) + 1 for c in chosen], device=policy.device)
        where = torch.arange(ids.shape[1], device=policy.device) < lengths[:, None]
        blind = name.startswith("random")
        changed: dict[str, torch.Tensor] = {}
        with isolated_generators(seed + start):
            if name.endswith("embeddings"):
                changed["delta"] = attack_embeddings(policy, obs, where, budget, blind)
                prompts += [c.prompt for c in chosen]
            else:
                banned = getattr(batch.tokenizer, "all_special_ids", None) or [batch.tokenizer.eos_token_id]
                actions = ids[obs["rows"], obs["columns"] + 1]
                changed["ids"] = attack_tokens(policy, obs, actions, where, budget, banned, blind)
                read = zip(changed["ids"].tolist(), lengths.tolist(), strict=True)
                prompts += [str(batch.tokenizer.decode(row[:n])) for row, n in read]
        kls.append(_mean_kl(policy, obs, changed, len(chosen)))
        indices = np.array([c.index for c in chosen])
        after += generate_in(batch, AttackedPolicy(policy, where, **changed), indices, seed, deterministic, start)
    return np.concatenate(kls), prompts, after


@torch.no_grad()
def _mean_kl(policy: LanguageModelPolicy, obs: Observations, changed: Observations, n: int) -> np.ndarray:
    """Return the mean KL over the actions of each of n episodes, (n,)."""
    other = obs | {"input_ids": changed.get("ids", obs["input_ids"])}
    kl = divergences(policy, hidden_at(policy, obs), hidden_at(policy, other, changed.get("delta")))
    total = torch.zeros(n, device=kl.device).index_add(0, obs["rows"], kl)
    return (total / torch.bincount(obs["rows"], minlength=n)).double().cpu().numpy()


def attack_embeddings(
    policy: LanguageModelPolicy, obs: Observations, where: torch.Tensor, budget: Budget, blind: bool = False
) -> torch.Tensor:
    """Return the change `(batch, length, embedding size)` of the prompts' embeddings that raises the KL most.

    `obs` holds the prompts with their completions, as in `evaluate_actions`; `where` `(batch, length)` bool tells the
    prompts' tokens. A `blind` attack returns the random start.
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
    """Return ids `(batch, length)` with at most `budget.swaps` swaps per prompt that make its completion improbable.

    A swap is made only if it raises the negative log-likelihood of the `actions` `(n,)` at their places in `obs`.
    `banned` tokens are never put in.
    """
    ids, n_logits = obs["input_ids"].clone(), policy.language_model.vocab_size

    def nll(ids: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood `(batch,)` of each sequence's actions under the policy's decoding."""
        hidden = hidden_at(policy, obs | {"input_ids": ids})
        with policy.autocast():
            log_probs, _ = log_probs_and_entropies(policy.action_logits, hidden, actions, n_logits)
        return log_probs.new_zeros(len(ids)).index_add(0, obs["rows"], -log_probs)

    best = nll(ids).detach()
    allowed = torch.ones(policy.n_actions, dtype=torch.bool, device=ids.device)
    allowed[[token for token in banned if token < policy.n_actions]] = False
    vectors = policy.embedding()(torch.arange(policy.n_actions, device=ids.device)).detach()
    for _ in range(budget.swaps):
        if blind:
            swaps = random_swaps(where, allowed, budget.candidates)
        else:
            gradient = embedding_gradient(policy.embedding(), ids, lambda ids: nll(ids).sum())
            swaps = best_swaps(gradient, ids, where, vectors, allowed, budget.candidates)
        start = ids
        for positions, tokens in swaps:  # (batch,) each: one swap per row
            tried = start.scatter(1, positions[:, None], tokens[:, None])
            with torch.no_grad():
                loss = nll(tried)
            better = loss > best
            ids, best = torch.where(better[:, None], tried, ids), torch.where(better, loss, best)
    return ids


def best_swaps(
    gradient: torch.Tensor, ids: torch.Tensor, where: torch.Tensor, vectors: torch.Tensor, allowed: torch.Tensor, n: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw n swaps per row among those that raise a loss most, to first order: positions and tokens, `(batch,)` each.

    The first swap is the best of all. The others are drawn from the `PER_POSITION` best at every position.

    Args:
        gradient: `(batch, length, embedding size)`, of the loss with respect to the embeddings of `ids`.
        ids, where: `(batch, length)`, the tokens, and which of them may be replaced; at least one per row.
        vectors, allowed: `(vocabulary, embedding size)` and `(vocabulary,)` bool, the tokens that may replace them.
    """
    chosen = []
    for row in range(len(ids)):  # one row's positions x vocabulary at a time
        positions = where[row].nonzero().squeeze(1)
        slopes, old = gradient[row, positions], ids[row, positions]
        gains = slopes @ vectors.T - (slopes * vectors[old]).sum(dim=-1, keepdim=True)
        gains = gains.masked_fill(~allowed, -torch.inf).scatter(1, old[:, None], -torch.inf)  # no swap for itself
        top = gains.topk(min(PER_POSITION, int(allowed.sum()) - 1), dim=1)
        drawn = torch.randint(top.values.numel(), (n,), device=ids.device)
        drawn[0] = top.values.flatten().argmax()
        chosen.append(torch.stack([positions[drawn // top.values.shape[1]], top.indices.flatten()[drawn]]))
    return [(ranked[0], ranked[1]) for ranked in torch.stack(chosen, dim=-1).unbind(dim=1)]


def random_swaps(where: torch.Tensor, allowed: torch.Tensor, n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw n random swaps per row, in the form that `best_swaps` returns."""
    positions = torch.multinomial(where.float(), n, replacement=True)
    tokens = torch.multinomial(allowed.float(), positions.numel(), replacement=True).reshape(positions.shape)
    return list(zip(positions.unbind(dim=1), tokens.unbind(dim=1), strict=True))


def embedding_gradient(embedding: Any, ids: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return the gradient of a loss of `ids` with respect to their embeddings, `(batch, length, embedding size)`."""
    delta = torch.zeros(*ids.shape, embedding.weight.shape[1], device=ids.device, requires_grad=True)
    with torch.enable_grad(), perturbed(embedding, delta):
        (gradient,) = torch.autograd.grad(loss(ids), delta)
    return gradient
