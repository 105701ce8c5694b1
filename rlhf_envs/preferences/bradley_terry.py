"""Fit reward models to preference pairs by the Bradley-Terry model.

Sources: Christiano et al., 2017 (https://arxiv.org/abs/1706.03741) for the loss and its soft labels; Touvron et al.,
2023 (https://arxiv.org/abs/2307.09288, section 3.2.2) for the margin; Ziegler et al., 2019
(https://arxiv.org/abs/1909.08593, section 2.1) for the normalisation. Departure: batches hold pairs of similar length.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid

from rlhf_envs.datasets.rows import as_text_rows
from rlhf_envs.rewards.reward_model import encode, score_columns, score_texts
from rlhf_envs.tokens import check_text

from .training import NothingToFit, check_fit, optimise

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from .training import TrainingOptions

__all__ = [
    "EncodedPairs",
    "Pair",
    "PairMetrics",
    "check_pairs",
    "count_equal",
    "encode_pairs",
    "evaluate_pairs",
    "fit_bradley_terry",
    "fit_encoded",
    "measure_differences",
    "normalise",
    "pair_differences",
    "pair_losses",
    "pair_probabilities",
    "pair_texts",
    "pairwise_loss",
]

logger = logging.getLogger(__name__)

# TRL's {"prompt", "chosen", "rejected"}, the prompt optional, and optionally the floats "margin" >= 0 by which the
# chosen text should lead, "probability" in 0.5..1 that it is the better one (0.5 is a tie), and "weight" > 0.
Pair = Mapping[str, object]


class PairMetrics(NamedTuple):
    """Hold how well a reward model tells the chosen text from the rejected one."""

    accuracy: float  # share of the pairs with a winner ordered rightly; equal scores count half
    loss: float  # mean Bradley-Terry loss, nats
    n: int  # pairs


class EncodedPairs(NamedTuple):
    """Hold n pairs as token ids and numbers."""

    rows: list[tuple[list[int], list[int]]]  # chosen, rejected
    margin: torch.Tensor  # (n,)
    probability: torch.Tensor  # (n,)
    weight: torch.Tensor  # (n,), mean 1

    @property
    def lengths(self) -> list[int]:
        """Return the number of tokens of the longer text of each pair."""
        return [max(map(len, row)) for row in self.rows]


def pair_losses(
    difference: torch.Tensor, margin: torch.Tensor | None = None, probability: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the loss of each pair, given the score of the chosen text minus the score of the rejected one.

    It is `-log sigmoid(difference - margin)`. Where the chosen text is the better one only with probability p, it is p
    times that, plus 1 - p times the loss of the pair the other way round.
    """
    lead = difference if margin is None else difference - margin
    if probability is None:
        return -logsigmoid(lead)
    behind = -difference if margin is None else -difference - margin
    return -(probability * logsigmoid(lead) + (1 - probability) * logsigmoid(behind))


def pairwise_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | None = None,
    probability: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean of `pair_losses` times `weight` over the pairs; all are (n,)."""
    losses = pair_losses(chosen - rejected, margin, probability)
    return (losses if weight is None else losses * weight).mean()


def pair_differences(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], batch_size: int = 64
) -> NDArray[np.float64]:
    """Return the raw score of each chosen text minus the rejected text's, (n,)."""
    training = model.training
    model.eval()
    scores = score_texts(model, tokenizer, pair_texts(pairs, tokenizer), batch_size).reshape(-1, 2)
    model.train(training)
    return scores[:, 0] - scores[:, 1]


def measure_differences(differences: NDArray[np.float64], pairs: Sequence[Pair]) -> PairMetrics:
    """Measure the score differences of pairs, (n,), against the pairs (without their margins and weights)."""
    p = pair_probabilities(pairs)
    right = ((differences > 0) + 0.5 * (differences == 0))[p > 0.5]
    loss = p * np.logaddexp(0.0, -differences) + (1 - p) * np.logaddexp(0.0, differences)
    return PairMetrics(float(right.mean()) if len(right) else 0.5, float(loss.mean()), len(pairs))


def pair_probabilities(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Return how probably each pair's chosen text is the better one, (n,): 1 where the pair has no probability."""
    return np.array([_number(pair, f"pair {i}", "probability", 1.0) for i, pair in enumerate(pairs)])


def evaluate_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], batch_size: int = 64
) -> PairMetrics:
    """Measure a reward model on pairs (without their margins and weights)."""
    if not pairs:
        raise ValueError("no pairs to measure on")
    return measure_differences(pair_differences(model, tokenizer, pairs, batch_size), pairs)


def fit_bradley_terry(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    max_length: int | None = None,
    **options: Unpack[TrainingOptions],
) -> PairMetrics:
    """Fit a sequence classifier with one label to preference pairs, in place.

    Args:
        model: an `AutoModelForSequenceClassification` with `num_labels=1`, on its device.
        tokenizer: the model's tokenizer. Its pad id is written into the model's configuration, because transformers
            reads the score at the last token before the padding.
        pairs: `{"prompt", "chosen", "rejected"}` as strings (no prompt counts as an empty one), optionally with a
            "margin" >= 0 by which the chosen text should lead, the "probability" in 0.5..1 that it is the better one
            (0.5: a tie) and a "weight" > 0 (only the ratios of the weights matter).
        held_out: pairs to measure on, none of them in `pairs`.
        max_length: tokens read of each text (its last ones), the model's positions by default.
        **options: train, epochs, batch_size, learning_rate, weight_decay, warmup_share, max_grad_norm, bf16, seed and
            on_step, see `rlhf_envs.preferences.training.optimise`.

    Returns:
        The metrics on `held_out`.

    Raises:
        NothingToFit: a ValueError: the pairs prefer nothing (all are ties, or contradict each other exactly).
        ValueError: the model has more than one label, there is no pair or no held-out pair, a pair is malformed, an
            option is out of its range, the tokenizer has no pad token, or the loss is not finite.
    """
    length = check_fit(model, tokenizer, len(pairs), len(held_out), "pairs", max_length)
    fit_encoded(model, encode_pairs(tokenizer, pairs, length), None, options)
    return evaluate_pairs(model, tokenizer, held_out)


def fit_encoded(
    model: PreTrainedModel, encoded: EncodedPairs, counts: torch.Tensor | None, options: TrainingOptions
) -> None:
    """Fit all outputs of a model, in place; `counts`, (outputs, n), says how often each output sees each pair."""

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        scores = score_columns(model, [encoded.rows[i][side] for side in (0, 1) for i in batch])
        chosen, rejected = scores.chunk(2)  # (batch, outputs)
        index = torch.tensor(batch)
        margin, probability, weight = (
            t[index, None].to(scores.device) for t in (encoded.margin, encoded.probability, encoded.weight)
        )
        losses = pair_losses(chosen - rejected, margin, probability) * weight
        return (losses if counts is None else losses * counts[:, index].T.to(scores.device)).mean()

    optimise(model, encoded.lengths, loss_of, **options)


def normalise(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, references: Sequence[str]
) -> tuple[float, float]:
    """Set the gain and bias with which the scores of `references` have mean 0 and standard deviation 1.

    Args:
        references: whole texts (a prompt with its completion), as people write them.

    Returns:
        `(gain, bias)`. They are written into `model.config` as `reward_gain` and `reward_bias`, and saved with it.

    Raises:
        ValueError: there are fewer than two references or their scores do not differ.
    """
    gain, bias = gain_and_bias(score_texts(model, tokenizer, references))
    model.config.reward_gain, model.config.reward_bias = gain, bias
    return gain, bias


def gain_and_bias(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Return the `(gain, bias)` that give `scores * gain + bias` mean 0 and standard deviation 1.

    Raises:
        ValueError: there are fewer than two scores or they do not differ.
    """
    deviation = float(scores.std()) if len(scores) > 1 else 0.0
    if not np.isfinite(deviation) or deviation < 1e-8:
        raise ValueError(f"{len(scores)} references with a standard deviation of {deviation}: nothing to normalise by")
    return 1.0 / deviation, -float(scores.mean()) / deviation


def pair_texts(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase | None = None) -> list[str]:
    """Return the whole texts of pairs: chosen, rejected, chosen, rejected, ...

    Conversations are written in the tokenizer's chat template, or else in role lines.

    Raises:
        ValueError: a pair is malformed; the message has its index.
    """
    return [text for i, pair in enumerate(pairs) for text in _texts(pair, f"pair {i}", tokenizer)]


def encode_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_length: int | None) -> EncodedPairs:
    """Tokenize and check pairs. Pairs of two texts that are the same tokens are left out, with a warning.

    Raises:
        ValueError: a pair is malformed.
        NothingToFit: the pairs prefer nothing: all are ties, contradict each other exactly, or are the same tokens.
    """
    flat = encode(tokenizer, pair_texts(pairs, tokenizer), max_length)
    margin, probability, weight = (
        torch.tensor([_number(pair, f"pair {i}", name, 1.0 - (name == "margin")) for i, pair in enumerate(pairs)])
        for name in _RANGES
    )
    _check_preference(pairs, probability * weight - (1 - probability) * weight)
    differ = torch.tensor([chosen != rejected for chosen, rejected in zip(flat[::2], flat[1::2], strict=True)])
    if not differ.all():
        message = f"{int((~differ).sum())} of {len(pairs)} pairs are the same text to the model"
        message += "" if max_length is None else f", which reads the last {max_length} tokens"
        if not differ.any():
            raise NothingToFit(f"{message}: raise max_length, or take a model with more positions")
        logger.warning("%s; they teach nothing and are left out", message)
    rows = [(flat[2 * i], flat[2 * i + 1]) for i in differ.nonzero()[:, 0].tolist()]
    margin, probability, weight = (values[differ].float() for values in (margin, probability, weight))
    return EncodedPairs(rows, margin, probability, weight / weight.mean())


def count_equal(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_length: int | None) -> int:
    """Return how many pairs of two texts are the same tokens, once the texts are cut to the length that is read."""
    flat = encode(tokenizer, pair_texts(pairs, tokenizer), max_length)
    return sum(chosen == rejected for chosen, rejected in zip(flat[::2], flat[1::2], strict=True))


def check_pairs(pairs: Sequence[Pair], where: Callable[[int], str] = "pair {}".format) -> None:
    """Raise a `ValueError` at the first pair whose texts or numbers are malformed; `where` names it by its index."""
    for i, pair in enumerate(pairs):
        for text in _texts(pair, where(i)):
            check_text(text, where(i))
        for name in _RANGES:
            _number(pair, where(i), name, 1.0)


_RANGES = {"margin": (0.0, np.inf, "at least 0"), "probability": (0.5, 1.0, "0.5 to 1"), "weight": (0.0, np.inf, "> 0")}


def _number(pair: Pair, where: str, name: str, default: float) -> float:
    given = pair.get(name)
    if given is None:
        return default
    low, high, words = _RANGES[name]
    try:
        value = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = np.nan
    if not (low <= value <= high and np.isfinite(value)) or (name == "weight" and value == 0):
        fix = ": swap chosen and rejected" if name == "probability" and 0 <= value < 0.5 else ""
        raise ValueError(f"{where}: the {name} is {given!r}, not a number of {words}{fix}")
    return value


def _check_preference(pairs: Sequence[Pair], lead: torch.Tensor) -> None:
    """Refuse pairs that leave nothing to fit; `lead`, (n,), says how much each prefers its chosen text."""
    net: dict[tuple[str, ...], float] = {}
    for i, (pair, value) in enumerate(zip(pairs, lead.tolist(), strict=True)):
        chosen, rejected = _texts(pair, f"pair {i}")
        if chosen != rejected:
            key = (min(chosen, rejected), max(chosen, rejected))
            net[key] = net.get(key, 0.0) + (value if chosen == key[0] else -value)
    if all(abs(value) < 1e-6 for value in net.values()):
        raise NothingToFit(
            f"the {len(pairs)} pairs prefer nothing: each is a tie, has one text twice, or is contradicted by others "
            "as often as it is confirmed; ask for more judgements"
        )


def _texts(pair: Pair, where: str, tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[str, str]:
    if any(isinstance(pair.get(name), list | tuple) for name in ("prompt", "chosen", "rejected")):
        (pair,) = as_text_rows([pair], tokenizer, lambda _: where)
    prompt, chosen, rejected = pair.get("prompt", ""), pair.get("chosen"), pair.get("rejected")
    if not (isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str)):
        kinds = ", ".join(f"{key} {type(value).__name__}" for key, value in pair.items())
        raise ValueError(f"{where} needs 'chosen' and 'rejected' as strings (and 'prompt', if there is one): {kinds}")
    return prompt + chosen, prompt + rejected
