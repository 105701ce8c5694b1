"""Reward models from preferences, by the Bradley-Terry model.

Sources: Christiano et al., 2017 (https://arxiv.org/abs/1706.03741) for the loss; Touvron et al., 2023
(https://arxiv.org/abs/2307.09288, section 3.2.2) for the margin; Ziegler et al., 2019
(https://arxiv.org/abs/1909.08593, section 2.1) for the normalisation. Ours: batches hold pairs of like length.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from rlhf_envs.rewards.reward_model import encode, score_ids, score_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["PairMetrics", "evaluate_pairs", "fit_bradley_terry", "normalise", "pairwise_loss"]

Pair = Mapping[str, object]  # TRL's {"prompt", "chosen", "rejected"}, the prompt and a float "margin" optional


class PairMetrics(NamedTuple):
    """How well a reward model tells the chosen text from the rejected one."""

    accuracy: float  # share of pairs ordered rightly; a tie counts half
    loss: float  # mean Bradley-Terry loss, nats
    n: int  # pairs


def pairwise_loss(chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | None = None) -> torch.Tensor:
    """Return `-log sigmoid(chosen - rejected - margin)`, the mean over the pairs; all are (n,)."""
    difference = chosen - rejected
    return -logsigmoid(difference if margin is None else difference - margin).mean()


def evaluate_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], batch_size: int = 64
) -> PairMetrics:
    """Measure a reward model on pairs (without their margins)."""
    if not pairs:
        raise ValueError("no pairs to measure on")
    texts = [_texts(pair, i) for i, pair in enumerate(pairs)]
    training = model.training
    model.eval()
    scores = score_texts(model, tokenizer, [text for pair in texts for text in pair], batch_size).reshape(-1, 2)
    model.train(training)
    difference = scores[:, 0] - scores[:, 1]
    accuracy = np.mean((difference > 0) + 0.5 * (difference == 0))
    return PairMetrics(float(accuracy), float(np.mean(np.logaddexp(0.0, -difference))), len(pairs))


def fit_bradley_terry(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    epochs: int = 1,
    batch_size: int = 32,
    learning_rate: float = 2e-4,
    weight_decay: float = 0.01,
    warmup_share: float = 0.05,
    max_length: int | None = None,
    max_grad_norm: float = 1.0,
    bf16: bool = False,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] | None = None,
) -> PairMetrics:
    """Fit a sequence classifier with one label to preference pairs, in place.

    Args:
        model: an `AutoModelForSequenceClassification` with `num_labels=1`, on its device.
        tokenizer: the model's; its pad id is written into the model's configuration, because transformers reads the
            score at the last token before the padding.
        pairs: `{"prompt", "chosen", "rejected"}` as strings (no prompt counts as an empty one), optionally with a
            "margin" >= 0 by which the chosen text should lead.
        held_out: the pairs to measure on, none of them in `pairs`.
        learning_rate: of AdamW, after a linear warm-up over `warmup_share` of the steps falling linearly to 0.
        max_length: tokens read of each text (its last ones), the model's positions by default.
        bf16: autocast the forward pass to bfloat16.
        on_step: called after each step with (step, steps, loss).

    Returns:
        The figures on `held_out`.

    Raises:
        ValueError: the model has more than one label, there is no pair or no held-out pair, a pair is malformed,
            `epochs` or `batch_size` is below 1, the tokenizer has no pad token, or the loss is not finite.
    """
    if model.config.num_labels != 1:
        raise ValueError(f"a reward model has one label, this model has {model.config.num_labels}: pass num_labels=1")
    if not pairs or not held_out:
        raise ValueError(f"{len(pairs)} pairs to fit and {len(held_out)} held out: both need at least one")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs ({epochs}) and batch_size ({batch_size}) must be at least 1")
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad token, which marks where a text ends: set tokenizer.pad_token")
    model.config.pad_token_id = tokenizer.pad_token_id
    rows, margins = _encode_pairs(tokenizer, pairs, max_length or _positions(model))
    batches = [b for epoch in range(epochs) for b in _batches(rows, batch_size, random.Random(seed + epoch))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, eps=1e-6)
    warmup = max(1, int(warmup_share * len(batches)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (len(batches) - step) / max(1, len(batches) - warmup))
    )
    device_type = model.device.type
    model.eval()  # no dropout: the texts are few and the passes fewer
    for step, batch in enumerate(batches, start=1):
        with torch.autocast(device_type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            scores = score_ids(model, [rows[i][side] for side in (0, 1) for i in batch])  # (2 * batch,)
        chosen, rejected = scores.chunk(2)
        margin = torch.tensor([margins[i] for i in batch], device=scores.device)
        loss = pairwise_loss(chosen, rejected, margin)
        value = loss.item()
        if not np.isfinite(value):
            raise ValueError(
                f"the loss is {value} at step {step} of {len(batches)}: lower learning_rate ({learning_rate})"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, len(batches), value)
    return evaluate_pairs(model, tokenizer, held_out)


def normalise(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, references: Sequence[str]
) -> tuple[float, float]:
    """Set the gain and bias with which the scores of `references` have mean 0 and standard deviation 1.

    Args:
        references: whole texts (prompt and completion) such as people write.

    Returns:
        `(gain, bias)`, which now stand in `model.config` as `reward_gain` and `reward_bias` and are saved with it.

    Raises:
        ValueError: there are fewer than two references or their scores do not differ.
    """
    scores = score_texts(model, tokenizer, references)
    deviation = float(scores.std()) if len(scores) > 1 else 0.0
    if not np.isfinite(deviation) or deviation < 1e-8:
        raise ValueError(f"{len(scores)} references with a standard deviation of {deviation}: nothing to normalise by")
    gain, bias = 1.0 / deviation, -float(scores.mean()) / deviation
    model.config.reward_gain, model.config.reward_bias = gain, bias
    return gain, bias


def _texts(pair: Pair, index: int) -> tuple[str, str]:
    prompt, chosen, rejected = pair.get("prompt", ""), pair.get("chosen"), pair.get("rejected")
    if not (isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str)):
        kinds = ", ".join(f"{key} {type(value).__name__}" for key, value in pair.items())
        raise ValueError(
            f"pair {index} needs 'chosen' and 'rejected' as strings (and 'prompt', if there is one): {kinds}"
        )
    return prompt + chosen, prompt + rejected


def _encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_length: int | None
) -> tuple[list[tuple[list[int], list[int]]], list[float]]:
    texts = [_texts(pair, i) for i, pair in enumerate(pairs)]
    flat = encode(tokenizer, [text for pair in texts for text in pair], max_length)
    margins = [float(pair.get("margin") or 0.0) for pair in pairs]  # type: ignore[arg-type]
    if not all(np.isfinite(margin) and margin >= 0 for margin in margins):
        index = next(i for i, margin in enumerate(margins) if not (np.isfinite(margin) and margin >= 0))
        raise ValueError(f"pair {index}: the margin is {margins[index]}, not a number of at least 0")
    return list(zip(flat[::2], flat[1::2], strict=True)), margins


def _positions(model: PreTrainedModel) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _batches(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int, generator: random.Random
) -> list[list[int]]:
    """Shuffle the pairs into batches of like length: sorted within pools of 32 batches, the batches shuffled again."""
    order = list(range(len(rows)))
    generator.shuffle(order)
    pool = 32 * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda i: max(len(rows[i][0]), len(rows[i][1])))
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    generator.shuffle(batches)
    return batches
