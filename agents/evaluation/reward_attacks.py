"""A white-box attack on a reward model: swap tokens of a bad completion until the reward model likes it.

HotFlip (Ebrahimi et al. 2018, https://arxiv.org/abs/1712.06751) on the completion, as in
`agents.evaluation.policy_attacks`: the gradient of the score with respect to the embeddings proposes swaps of one
token, some are scored as *text* (so the reward model tokenises it anew, as in training), and the best that the judge
still calls bad is made. What is lifted so shows what the reward model pays for that the judge does not: how far it can
be hacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.adversarial import perturbed
from ..core.random_state import isolated_generators
from .policy_attacks import Budget, best_swaps, random_swaps

if TYPE_CHECKING:
    from rlhf_envs.rewards.reward_model import RewardModel

__all__ = ["RewardAttack", "attack_reward_model"]

Judge = Callable[[Sequence[str], Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class RewardAttack:
    """Completions that both the reward model and the judge called bad, and what became of them; (m,) arrays.

    Attributes:
        name: "hotflip", or "random_swaps" for its blind twin.
        reward_before, reward_after: the reward model's scores.
        judge_before, judge_after: the judge's scores.
        success: bool, lifted to the threshold while the judge's score stayed below its own.
        prompts, before, after: the texts.
    """

    name: str
    reward_before: np.ndarray
    reward_after: np.ndarray
    judge_before: np.ndarray
    judge_after: np.ndarray
    success: np.ndarray
    prompts: list[str]
    before: list[str]
    after: list[str]


def attack_reward_model(
    reward: RewardModel,
    judge: Judge,
    prompts: Sequence[str],
    completions: Sequence[str],
    budget: Budget,
    threshold: float = 0.0,
    judge_threshold: float = 0.5,
    blind: bool = False,
    seed: int = 0,
) -> RewardAttack:
    """Swap at most `budget.swaps` tokens of every completion to raise its score, while the judge's stays low.

    Args:
        reward: the reward model.
        judge: scores texts, (n,).
        prompts, completions: m texts each; those that are not below both thresholds are left out.
        budget: `swaps` and `candidates` of it.
        threshold: a score of the reward model from which on it counts as fooled; 0 is its mean over reference
            completions, where it is normalised.
        judge_threshold: the judge calls a text bad below it, and swaps that take it there are not made.
        blind: try random swaps.
        seed: of the random swaps.
    """
    scores, verdicts = reward.score(prompts, completions), judge(prompts, completions)
    kept = np.flatnonzero((scores < threshold) & (verdicts < judge_threshold)).tolist()
    with isolated_generators(seed):
        attacked = [
            _attack_one(reward, judge, prompts[i], completions[i], budget, float(scores[i]), judge_threshold, blind)
            for i in kept
        ]
    chosen, before = [prompts[i] for i in kept], [completions[i] for i in kept]
    after = reward.score(chosen, attacked) if len(kept) else np.zeros(0)
    final = np.asarray(judge(chosen, attacked)) if len(kept) else np.zeros(0)
    return RewardAttack(
        name="random_swaps" if blind else "hotflip",
        reward_before=scores[kept],
        reward_after=after,
        judge_before=verdicts[kept],
        judge_after=final,
        success=(after >= threshold) & (final < judge_threshold),
        prompts=chosen,
        before=before,
        after=attacked,
    )


def _attack_one(
    reward: RewardModel,
    judge: Judge,
    prompt: str,
    completion: str,
    budget: Budget,
    score: float,
    judge_threshold: float,
    blind: bool,
) -> str:
    tokenizer: Any = reward.tokenizer
    before, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))
    if not ids:
        return completion
    embedding: Any = reward.model.get_input_embeddings()
    vectors = embedding.weight.detach()
    allowed = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
    allowed[len(tokenizer) :] = False
    allowed[[token for token in tokenizer.all_special_ids if token < len(vectors)]] = False
    text = completion
    for _ in range(budget.swaps):
        where = torch.tensor([[False] * len(before) + [True] * len(ids)], device=vectors.device)
        whole = torch.tensor([[*before, *ids]], device=vectors.device)
        if blind:
            swaps = random_swaps(where, allowed, budget.candidates)
        else:
            swaps = best_swaps(_gradient(reward, whole), whole, where, vectors, allowed, budget.candidates)
        tried = []
        for position, token in swaps:
            changed = list(ids)
            changed[int(position) - len(before)] = int(token)
            tried.append(changed)
        texts = [str(tokenizer.decode(changed)) for changed in tried]
        gained = np.asarray(reward.score([prompt] * len(texts), texts), dtype=np.float64)
        gained[np.asarray(judge([prompt] * len(texts), texts)) >= judge_threshold] = -np.inf
        best = int(gained.argmax())
        if gained[best] <= score:
            continue
        ids, text, score = tried[best], texts[best], float(gained[best])
    return text


def _gradient(reward: RewardModel, ids: torch.Tensor) -> torch.Tensor:
    """Of the score in the embeddings, `(1, length, embedding size)`."""
    from rlhf_envs.rewards.reward_model import score_ids

    embedding: Any = reward.model.get_input_embeddings()
    delta = torch.zeros(*ids.shape, embedding.weight.shape[1], device=ids.device, requires_grad=True)
    with torch.enable_grad(), perturbed(embedding, delta):
        (gradient,) = torch.autograd.grad(score_ids(reward.model, ids.tolist())[0] * reward.gain, delta)
    return gradient
