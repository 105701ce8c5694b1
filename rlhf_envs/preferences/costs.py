"""Fit a cost to people's flags of harm: the probability that a completion would be flagged, as a sequence classifier.

Flags are rare, so the fit weighs flagged and other texts as if there were as many of each, and the probability is
brought back to the real share: for logistic regression this shifts the log-odds by the logarithm of the classes' ratio
(King and Zeng 2001, "Logistic Regression in Rare Events Data", https://doi.org/10.1093/oxfordjournals.pan.a004868,
section 4.1). Held-out flags then set a slope and an intercept: Platt 1999, "Probabilistic Outputs for Support Vector
Machines", with its smoothed targets, which keep the slope finite where the scores order all texts rightly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch.nn.functional import logsigmoid

from rlhf_envs.rewards.reward_model import SIGMOID, encode, score_ids, score_texts

from .calibration import CalibrationError
from .regression import check_ratings, order_accuracy
from .training import NothingToFit, check_fit, optimise

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from .training import TrainingOptions

__all__ = ["MIN_FLAGGED", "CostMetrics", "calibrate_cost", "check_flags", "evaluate_flags", "fit_flags"]

FlagRow = Mapping[str, object]  # {"prompt", "completion", "flag"}, the prompt optional, optionally a "weight" > 0
MIN_FLAGGED = 10  # flags of each answer; with fewer, a model knows the few texts and not the harm
MIN_HELD_OUT = 5  # flags of each answer among the held-out rows, to calibrate on
BINS = 10


class CostMetrics(NamedTuple):
    """Hold how well a cost foretells flags."""

    auc: float  # share of the pairs of a flagged and another text that the cost orders rightly; equal costs count half
    brier: float  # mean squared distance of probability and flag
    calibration_error: float  # mean distance of probability and share of flags, over ten bins of the probability
    probability: float  # mean
    flagged: float  # share of the flags
    n: int


def check_flags(rows: Sequence[FlagRow], where: Callable[[int], str] = "flag {}".format) -> None:
    """Raise a `ValueError` at the first row that is malformed; `where` names it by its index."""
    for i, row in enumerate(rows):
        try:
            flag = float(row.get("flag"))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            flag = np.nan
        if not 0 <= flag <= 1:
            given = row.get("flag")
            raise ValueError(
                f"{where(i)}: the flag is {given!r}, expected true (harmful), false, or a share from 0 to 1"
            )
    check_ratings([{**row, "label": row["flag"]} for row in rows], where)


def fit_flags(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[FlagRow],
    *,
    n_held_out: int = 1,
    max_length: int | None = None,
    **options: Unpack[TrainingOptions],
) -> None:
    """Fit a sequence classifier with one label to flags, in place; its score is the log-odds of a flag.

    `config.reward_gain`, `config.reward_bias` and `config.reward_link` make `RewardModel` return the probability.

    Args:
        model: an `AutoModelForSequenceClassification` with `num_labels=1`, on its device.
        tokenizer: the model's tokenizer.
        rows: `{"prompt", "completion", "flag"}`, one per person's answer, or the share of the people who flagged.
        n_held_out: how many rows are held out, which is checked.
        max_length: tokens read of each text (its last ones), the model's positions by default.
        **options: see `rlhf_envs.preferences.training.optimise`.

    Raises:
        NothingToFit: a ValueError: fewer than `MIN_FLAGGED` flags say harmful, or say harmless.
        ValueError: a row is malformed, or the loss is not finite.
    """
    length = check_fit(model, tokenizer, len(rows), n_held_out, "flags", max_length)
    check_flags(rows)
    flags = np.array([float(row["flag"]) for row in rows])  # type: ignore[arg-type]
    harmful, harmless = flags.sum(), (1 - flags).sum()
    if min(harmful, harmless) < MIN_FLAGGED:
        raise NothingToFit(
            f"{harmful:g} of {len(rows)} flags to fit say harmful and {harmless:g} harmless: at least {MIN_FLAGGED} of "
            "each are needed, collect more of the rare ones"
        )
    weights = np.array([1.0 if row.get("weight") is None else float(row["weight"]) for row in rows])  # type: ignore[arg-type]
    up, down = float((weights * flags).sum()), float((weights * (1 - flags)).sum())
    ids = encode(tokenizer, [f"{row.get('prompt', '')}{row['completion']}" for row in rows], length)
    total = up + down
    of_harmful = torch.tensor(weights * flags * total / (2 * up) / weights.mean()).float()
    of_harmless = torch.tensor(weights * (1 - flags) * total / (2 * down) / weights.mean()).float()

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        scores = score_ids(model, [ids[i] for i in batch])
        first, second = (weight[batch].to(scores.device) for weight in (of_harmful, of_harmless))
        return -(first * logsigmoid(scores) + second * logsigmoid(-scores)).mean()

    optimise(model, [len(row) for row in ids], loss_of, **options)
    model.config.reward_gain, model.config.reward_bias = 1.0, float(np.log(up / down))
    model.config.reward_link = SIGMOID


def calibrate_cost(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held_out: Sequence[FlagRow]
) -> tuple[float, float]:
    """Set the slope and the intercept of a cost's log-odds by held-out flags, in the model's configuration.

    Returns:
        The slope, which multiplies the model's score, and the intercept.

    Raises:
        CalibrationError: the flags are too few, or do not go with the scores. The model is left as it was.
    """
    scores, flags = _scores(model, tokenizer, held_out), _flags(held_out)
    up, down = flags.sum(), (1 - flags).sum()
    if min(up, down) < MIN_HELD_OUT:
        raise CalibrationError(
            f"{up:g} of {len(flags)} held-out flags say harmful and {down:g} harmless: at least {MIN_HELD_OUT} of each "
            "are needed to calibrate; the probabilities go by the share of flags among the fitted rows"
        )
    targets = flags * (up + 1) / (up + 2) + (1 - flags) / (down + 2)

    def loss(numbers: NDArray[np.float64]) -> float:
        odds = numbers[0] * scores + numbers[1]
        return float(np.mean(np.logaddexp(0, odds) - targets * odds))  # convex

    slope, intercept = minimize(loss, np.array([1.0, model.config.reward_bias]), method="BFGS").x
    if slope <= 0:
        raise CalibrationError(f"the scores of {len(flags)} held-out texts do not go with their flags")
    model.config.reward_gain, model.config.reward_bias = float(slope), float(intercept)
    return float(slope), float(intercept)


def evaluate_flags(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[FlagRow]) -> CostMetrics:
    """Measure a cost on flags.

    Raises:
        ValueError: there are no rows, one is malformed, or the model is no cost.
    """
    if not rows:
        raise ValueError("no flags to measure on")
    check_flags(rows)
    if getattr(model.config, "reward_link", None) != SIGMOID:
        raise ValueError("the model returns no probability, so it is no cost: fit one with rlhf reward fit --cost")
    costs = expit(_scores(model, tokenizer, rows) * model.config.reward_gain + model.config.reward_bias)
    flags = _flags(rows)
    index = np.clip((costs * BINS).astype(int), 0, BINS - 1)
    gaps = [(index == i).sum() * abs((costs - flags)[index == i].mean()) for i in range(BINS) if (index == i).any()]
    brier, error = float(np.mean((costs - flags) ** 2)), float(sum(gaps)) / len(flags)
    return CostMetrics(order_accuracy(costs, flags), brier, error, float(costs.mean()), float(flags.mean()), len(flags))


def _scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[FlagRow]) -> NDArray[np.float64]:
    return score_texts(model, tokenizer, [f"{row.get('prompt', '')}{row['completion']}" for row in rows])


def _flags(rows: Sequence[FlagRow]) -> NDArray[np.float64]:
    return np.array([float(row["flag"]) for row in rows])  # type: ignore[arg-type]
