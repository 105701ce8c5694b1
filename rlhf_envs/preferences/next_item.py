"""Score pairs that nobody has judged by how much a judgement would teach a reward model.

The model is a linear Bradley-Terry head on frozen embeddings, fitted anew to the judgements in seconds, and in several
bootstraps. "uncertainty" and "disagreement" are as in `rlhf_envs.preferences.queries`. "gain" is the expected gain:
how far one more judgement would lower the variance of the head's predictions, on average over all pairs (Cohn,
Ghahramani and Jordan, 1996, https://arxiv.org/abs/cs/9603104; for logistic regression Schein and Ungar, 2007,
https://doi.org/10.1007/s10994-007-5019-5). It is greedy: the second pair is chosen knowing the first.

On the bundled human ratings "gain" taught more than random order at equal labels, "disagreement" did at some numbers
of labels and "uncertainty" at none, see `benchmarks.feedback.next_item`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from rlhf_envs.models import no_progress_bars, resolve

from .queries import disagreement, uncertainty

__all__ = ["POLICIES", "Policy", "embed_texts", "fit_head", "fit_heads", "order_by_gain", "score_pairs"]

Policy = Literal["uncertainty", "disagreement", "gain"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


def embed_texts(texts: Sequence[str], model: str = "tiny-reward", batch_size: int = 64) -> np.ndarray:
    """Return mean-pooled hidden states of a frozen model, of norm 1, (texts, d). Similar lengths share a batch."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from .training import quiet_transformers

    folder = resolve(model)
    with no_progress_bars(), quiet_transformers():
        tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    order = np.argsort([len(text) for text in texts])
    embeddings = np.empty((len(texts), network.config.hidden_size))
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
            hidden = network(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))
            embeddings[rows] = pooled.double().numpy()
    return embeddings


def fit_head(
    features: np.ndarray, answers: np.ndarray, weights: np.ndarray, decay: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Fit a linear Bradley-Terry head by Newton's method.

    Args:
        features: (n, d), the embedding of each pair's first text less that of its second.
        answers: (n,), how likely the first text is the better one, 0 to 1.
        weights: (n,), how often each pair counts.
        decay: the penalty is decay / 2 times the squared length of the head.
        start: (d,), a head nearby, to be quicker.

    Returns:
        (d,), the minimum of the penalised log loss.
    """
    head = np.zeros(features.shape[1]) if start is None else start.copy()
    for _ in range(25):
        p = 1 / (1 + np.exp(-features @ head))
        gradient = features.T @ (weights * (p - answers)) + decay * head
        curvature = (features.T * (weights * p * (1 - p))) @ features + decay * np.eye(len(head))
        step = np.linalg.solve(curvature, gradient)
        head -= step
        if np.abs(step).max() < 1e-4 * max(1.0, np.abs(head).max()):
            break
    return head


def fit_heads(
    features: np.ndarray, answers: np.ndarray, members: int = 8, decay: float = 3.0, seed: int = 0
) -> np.ndarray:
    """Return heads fitted to bootstraps of the judged pairs, (members, d). See `fit_head`."""
    n = len(answers)
    counts = np.random.default_rng((seed, n)).multinomial(n, np.full(n, 1 / n), members).astype(float)
    whole = fit_head(features, answers, np.ones(n), decay)
    return np.stack([fit_head(features, answers, count, decay, start=whole) for count in counts])


def order_by_gain(
    features: np.ndarray, judged: np.ndarray, head: np.ndarray, n: int, decay: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Choose pairs one by one, each with the largest expected gain, given those chosen before it.

    Args:
        features: of the pairs to choose from, (pairs, d), see `fit_head`.
        judged: of the pairs that were judged, (m, d).
        head: (d,), fitted to the judged ones with this decay.
        n: how many to choose, at most all.
        decay: of the head.

    Returns:
        The chosen indices in order, (n,) int64, and the expected gain of every pair before the first choice, (pairs,).
    """
    slope = _slope(features @ head)  # how much a judgement of each pair tells, (pairs,)
    precision = (judged.T * _slope(judged @ head)) @ judged + decay * np.eye(len(head))
    everything = np.concatenate([features, judged])
    spread = everything.T @ everything / len(everything)  # (d, d)
    moved = np.linalg.solve(precision, features.T).T  # covariance times features, (pairs, d)
    own = np.einsum("nd,nd->n", features, moved)  # variance of each pair's prediction
    power = np.einsum("nd,nd->n", moved @ spread, moved)
    first, left, chosen = slope * power / (1 + slope * own), np.ones(len(features), bool), []
    for _ in range(n):
        k = int(np.where(left, slope * power / (1 + slope * own), -np.inf).argmax())
        chosen.append(k)
        left[k] = False
        direction = moved[k].copy()
        shift = slope[k] * (features @ direction) / (1 + slope[k] * own[k])  # the covariance after one judgement
        power += shift**2 * (direction @ spread @ direction) - 2 * shift * (moved @ (spread @ direction))
        own = own - shift * (features @ direction)
        moved = moved - np.outer(shift, direction)
    return np.array(chosen, dtype=np.int64), first


def score_pairs(
    policy: Policy, features: np.ndarray, judged: np.ndarray, answers: np.ndarray, *, batch: int = 64, seed: int = 0
) -> np.ndarray:
    """Return how soon to ask about each pair, (pairs,), at least 0, the highest first.

    Args:
        policy: one of `POLICIES`.
        features: of the pairs to score, (pairs, d), see `fit_head`.
        judged: of the pairs that were judged, (m, d); at least 2.
        answers: of these, (m,), how likely the first text is the better one.
        batch: "gain" puts so many in an order in which each knows the ones before it.
        seed: seeds the bootstraps.

    Raises:
        ValueError: the policy is unknown, or fewer than 2 pairs were judged.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}: one of {', '.join(POLICIES)}")
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} judged pairs teach no model: label at least 2 first, in random order")
    if len(features) == 0:
        return np.zeros(0)
    heads = fit_heads(judged, answers, seed=seed)
    if policy == "gain":
        chosen, gain = order_by_gain(features, judged, heads.mean(axis=0), min(batch, len(features)))
        scores = gain / (gain.max() or 1.0)
        scores[chosen] = 2.0 - np.arange(len(chosen)) / len(chosen)  # before all others, in their order
        return scores
    lead = heads @ features.T  # (members, pairs)
    both = np.stack([lead, np.zeros_like(lead)], axis=-1)
    return np.maximum(0.0, disagreement(both) if policy == "disagreement" else uncertainty(both))


def _slope(lead: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-lead))
    return np.asarray(p * (1 - p))
