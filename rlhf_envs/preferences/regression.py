"""Fit reward models to ratings: by regression, or by an ordinal model with learned thresholds.

Source: McCullagh, 1980 (https://doi.org/10.1111/j.2517-6161.1980.tb01109.x) for the proportional-odds model: a
latent score plus logistic noise falls between two thresholds, and this interval is the rating. The latent score s is
the reward, and lies above a threshold t with probability sigmoid(s - t).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid, pad, softplus

from rlhf_envs.rewards.reward_model import encode, score_ids, score_texts
from rlhf_envs.tokens import check_text

from .training import NothingToFit, check_fit, optimise

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from .training import TrainingOptions

__all__ = ["RatingMetrics", "check_ratings", "evaluate_ratings", "fit_ratings", "order_accuracy", "ordinal_log_probs"]

RatingRow = Mapping[str, object]  # {"prompt", "completion", "label"}, the prompt optional, optionally a "weight" > 0
MAX_LEVELS = 32
CHUNK = 256  # rows whose pairs are counted at a time


class RatingMetrics(NamedTuple):
    """Hold how well a reward model's scores follow ratings."""

    correlation: float  # Pearson's, of score and label; nan where one of them does not vary
    accuracy: float  # share of the pairs of rows with different labels ordered rightly; equal scores count half
    n: int  # rows


def ordinal_log_probs(scores: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each level, (n, levels), given scores (n,) and rising thresholds (levels - 1,).

    Level j has probability sigmoid(s - t[j-1]) - sigmoid(s - t[j]), with t[-1] = -inf and the last t = inf. The
    difference is computed as a product, so that no digits cancel.
    """
    upper, lower = scores[:, None] - thresholds, thresholds - scores[:, None]  # (n, levels - 1)
    above = pad(logsigmoid(upper), (1, 0))  # log P(above the lower threshold), (n, levels); 0 for the lowest level
    below = pad(logsigmoid(lower), (0, 1))  # log P(below the upper one)
    between = torch.log(-torch.expm1(-thresholds.diff()))
    return above + below + pad(between, (1, 1))


def fit_ratings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[RatingRow],
    held_out: Sequence[RatingRow],
    *,
    loss: Literal["mse", "ordinal"] = "mse",
    max_length: int | None = None,
    **options: Unpack[TrainingOptions],
) -> RatingMetrics:
    """Fit a sequence classifier with one label to ratings, in place; its score is the reward.

    Args:
        model: an `AutoModelForSequenceClassification` with `num_labels=1`, on its device.
        tokenizer: the model's tokenizer.
        rows: `{"prompt", "completion", "label"}`, the label a number, optionally with a "weight" > 0.
        held_out: rows to measure on, none of them in `rows`.
        loss: "mse" fits the standardised labels by least squares; `config.rating_mean` and `config.rating_std` undo
            the standardisation. "ordinal" takes the distinct labels (2 to 32) for ordered levels without distances,
            and learns the thresholds between them: they are saved in `config.rating_thresholds`, the levels in
            `config.rating_levels`.
        max_length: tokens read of each text (its last ones), the model's positions by default.
        **options: see `rlhf_envs.preferences.training.optimise`.

    Raises:
        NothingToFit: a ValueError: all labels are the same.
        ValueError: the model has more than one label, there is no row or no held-out row, a row is malformed, an
            ordinal fit has too many levels, or the loss is not finite.
    """
    if loss not in ("mse", "ordinal"):
        raise ValueError(f'loss is {loss!r}: choose "mse" or "ordinal"')
    length = check_fit(model, tokenizer, len(rows), len(held_out), "ratings", max_length)
    check_ratings(rows)
    ids = encode(tokenizer, [_text(row) for row in rows], length)
    labels = np.array([_float(row["label"]) for row in rows])
    weights = np.array([_weight(row) for row in rows])
    if len(np.unique(labels)) < 2:
        raise NothingToFit(
            f"all {len(rows)} labels are {labels[0]:g}: there is nothing to fit, collect other ratings too"
        )
    if loss == "mse":
        _fit_mse(model, ids, labels, weights / weights.mean(), options)
    else:
        _fit_ordinal(model, ids, labels, weights / weights.mean(), options)
    return evaluate_ratings(model, tokenizer, held_out)


def evaluate_ratings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[RatingRow], batch_size: int = 64
) -> RatingMetrics:
    """Measure a reward model on ratings.

    Raises:
        ValueError: there are no rows, or one is malformed.
    """
    if not rows:
        raise ValueError("no ratings to measure on")
    check_ratings(rows)
    labels = np.array([_float(row["label"]) for row in rows])
    training = model.training
    model.eval()
    scores = score_texts(model, tokenizer, [_text(row) for row in rows], batch_size)
    model.train(training)
    varies = scores.std() > 0 and labels.std() > 0
    correlation = float(np.corrcoef(scores, labels)[0, 1]) if varies else float("nan")
    return RatingMetrics(correlation, order_accuracy(scores, labels), len(rows))


def _fit_mse(
    model: PreTrainedModel,
    ids: list[list[int]],
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
    options: TrainingOptions,
) -> None:
    mean, std = float(labels.mean()), float(labels.std())
    targets, weight = torch.tensor((labels - mean) / std).float(), torch.tensor(weights).float()

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        scores = score_ids(model, [ids[i] for i in batch])
        error = scores - targets[batch].to(scores.device)
        return (weight[batch].to(scores.device) * error.square()).mean()

    optimise(model, [len(row) for row in ids], loss_of, **options)
    model.config.rating_mean, model.config.rating_std = mean, std


def _fit_ordinal(
    model: PreTrainedModel,
    ids: list[list[int]],
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
    options: TrainingOptions,
) -> None:
    levels, level_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(levels) > MAX_LEVELS:
        raise ValueError(
            f"{len(levels)} different labels are no levels (at most {MAX_LEVELS}): round them, or take mse"
        )
    # The thresholds start where a score of 0 gives every level its share of the rows.
    share = np.clip(np.cumsum(counts)[:-1] / len(labels), 1e-4, 1 - 1e-4)
    start = torch.tensor(np.log(share / (1 - share))).float()
    first = torch.nn.Parameter(start[:1].to(model.device))
    steps = torch.nn.Parameter(
        torch.log(torch.expm1(start.diff().clamp_min(1e-3))).to(model.device)
    )  # their softplus is the distance of neighbours
    target, weight = torch.tensor(level_of), torch.tensor(weights).float()

    def thresholds() -> torch.Tensor:
        return torch.cat([first, softplus(steps)]).cumsum(0)

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        scores = score_ids(model, [ids[i] for i in batch])
        log_probs = ordinal_log_probs(scores, thresholds())
        chosen = log_probs.gather(1, target[batch].to(scores.device)[:, None])[:, 0]
        return -(weight[batch].to(scores.device) * chosen).mean()

    optimise(model, [len(row) for row in ids], loss_of, further=[first, steps], **options)
    model.config.rating_levels = levels.tolist()
    model.config.rating_thresholds = thresholds().tolist()


def order_accuracy(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    """Return the share of the pairs with different labels that the scores order alike; equal scores count half."""
    lead, n = 0.0, 0  # pairs ordered alike minus pairs ordered the other way round, and all pairs
    for start in range(0, len(scores), CHUNK):  # all pairs at once would take memory by the square of the rows
        rows = slice(start, start + CHUNK)
        apart = labels[rows, None] > labels
        lead += float(np.sign(scores[rows, None] - scores)[apart].sum())
        n += int(apart.sum())
    return 0.5 + 0.5 * lead / n if n else 0.5


def check_ratings(rows: Sequence[RatingRow], where: Callable[[int], str] = "rating {}".format) -> None:
    """Raise a `ValueError` at the first rating that is malformed; `where` names it by its index."""
    for i, row in enumerate(rows):
        if not isinstance(row.get("prompt", ""), str) or not isinstance(row.get("completion"), str):
            kinds = ", ".join(f"{key} {type(value).__name__}" for key, value in row.items())
            raise ValueError(f"{where(i)} needs 'completion' as a string (and 'prompt', if there is one): {kinds}")
        check_text(_text(row), where(i))
        if not np.isfinite(_float(row.get("label"))):
            raise ValueError(f"{where(i)}: the label is {row.get('label')!r}, not a finite number")
        if not 0 < _weight(row) < np.inf:
            raise ValueError(f"{where(i)}: the weight is {row['weight']!r}, not a number of > 0")


def _text(row: RatingRow) -> str:
    return f"{row.get('prompt', '')}{row['completion']}"


def _weight(row: RatingRow) -> float:
    return 1.0 if row.get("weight") is None else _float(row["weight"])


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")
