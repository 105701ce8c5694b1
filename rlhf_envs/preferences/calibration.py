"""Measure and correct how sure a reward model is: reliability, temperature scaling, accuracy by people's agreement.

A score difference d of a pair means that the chosen text is the better one with probability sigmoid(d).
Source: Guo et al., 2017 (https://arxiv.org/abs/1706.04599) for the expected calibration error and temperature scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from rlhf_envs.rewards.reward_model import find_head

from .bradley_terry import Pair, pair_differences, pair_probabilities
from .ensemble_fit import ensemble_differences

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlhf_envs.rewards.ensemble import RewardEnsemble

__all__ = [
    "AgreementBin",
    "CalibrationError",
    "ReliabilityBin",
    "accuracy_by_agreement",
    "best_temperature",
    "calibrate",
    "calibrate_ensemble",
    "calibration_error",
    "reliability",
]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.02, 50.0
MIN_PAIRS = 50  # fewer may well all be ordered rightly, and the best temperature is then the lowest in the range


class CalibrationError(ValueError):
    """Raise when pairs cannot tell how sure a model may be; the model is left as it was."""


class ReliabilityBin(NamedTuple):
    """Describe pairs of about one confidence; a calibrated model is right as often as its confidence says."""

    low: float
    high: float
    n: int
    confidence: float  # mean probability that the model gives to the text it prefers
    accuracy: float  # how often people prefer that text


class AgreementBin(NamedTuple):
    """Describe pairs about which people agree to about one degree."""

    low: float
    high: float
    n: int
    accuracy: float  # share of the pairs that the model orders as people do


def reliability(
    differences: NDArray[np.float64], probabilities: NDArray[np.float64] | None = None, bins: int = 10
) -> list[ReliabilityBin]:
    """Sort pairs into bins of confidence, from 0.5 to 1; empty bins are left out.

    Args:
        differences: the score of the chosen text minus the score of the rejected one, (n,).
        probabilities: how probable people make it that the chosen text is the better one, (n,); 1 by default.
        bins: how many, of equal width.

    Raises:
        ValueError: there are no pairs, or no bins.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if not len(differences) or bins < 1:
        raise ValueError(f"{len(differences)} pairs in {bins} bins: both need at least one")
    chosen_better = np.ones(len(differences)) if probabilities is None else np.asarray(probabilities)
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    right = np.where(differences > 0, chosen_better, np.where(differences < 0, 1 - chosen_better, 0.5))
    edges = np.linspace(0.5, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    return [
        ReliabilityBin(
            float(edges[i]), float(edges[i + 1]), int(at.sum()), *(float(x[at].mean()) for x in (confidence, right))
        )
        for i in range(bins)
        if (at := index == i).any()
    ]


def calibration_error(
    differences: NDArray[np.float64], probabilities: NDArray[np.float64] | None = None, bins: int = 10
) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy over the bins."""
    table = reliability(differences, probabilities, bins)
    return sum(row.n * abs(row.confidence - row.accuracy) for row in table) / sum(row.n for row in table)


def best_temperature(differences: NDArray[np.float64], probabilities: NDArray[np.float64] | None = None) -> float:
    """Return the temperature T, 0.02 to 50, that minimises the Bradley-Terry loss of `differences / T`.

    The loss is convex in 1 / T, so its derivative has one root. T is an end of the range where the differences order
    all pairs rightly, or most of them wrongly.
    """
    d = np.asarray(differences, dtype=np.float64)
    p = np.ones(len(d)) if probabilities is None else np.asarray(probabilities, dtype=np.float64)

    def slope(log_temperature: float) -> float:
        return float(np.mean(d * (p - expit(d / np.exp(log_temperature)))))

    low, high = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)
    if slope(low) >= 0:
        return MIN_TEMPERATURE
    return float(np.exp(brentq(slope, low, high, xtol=1e-14))) if slope(high) > 0 else MAX_TEMPERATURE


def calibrate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> float:
    """Divide a reward model's head, in place, by the temperature that suits held-out pairs best.

    Then the differences of raw scores are calibrated log-odds for everybody who loads the model. `config.reward_gain`
    is multiplied by the temperature, so the normalised scores stay the same.

    Returns:
        The temperature.

    Raises:
        CalibrationError: there are fewer than 50 pairs, the model's differences do not favour their chosen texts, or
            the best temperature lies outside 0.02 to 50.
    """
    temperature = _temperature_of(pair_differences(model, tokenizer, pairs) if pairs else np.empty(0), pairs)
    _divide_head(model, temperature)
    if hasattr(model.config, "reward_gain"):
        model.config.reward_gain *= temperature
    return temperature


def calibrate_ensemble(ensemble: RewardEnsemble, pairs: Sequence[Pair]) -> float:
    """Divide all heads of an ensemble, in place, by the temperature that suits its mean; see `calibrate`."""
    temperature = _temperature_of(ensemble_differences(ensemble, pairs) if pairs else np.empty(0), pairs)
    for network in ensemble.networks:
        _divide_head(network, temperature)
    ensemble.gain *= temperature
    return temperature


def _temperature_of(differences: NDArray[np.float64], pairs: Sequence[Pair]) -> float:
    """Return the temperature to divide by, or raise a CalibrationError: only here it is decided which it is."""
    if len(pairs) < MIN_PAIRS:
        raise CalibrationError(f"{len(pairs)} held-out pairs are too few to calibrate on, take at least {MIN_PAIRS}")
    probabilities = pair_probabilities(pairs)
    if np.mean(differences * (probabilities - 0.5)) <= 0:  # the loss then falls for ever as the temperature rises
        raise CalibrationError(f"the scores of {len(pairs)} held-out pairs do not favour the chosen texts on average")
    temperature = best_temperature(differences, probabilities)
    if not 1.001 * MIN_TEMPERATURE < temperature < MAX_TEMPERATURE / 1.001:
        raise CalibrationError(
            f"the {len(pairs)} held-out pairs ask for a temperature outside {MIN_TEMPERATURE} to "
            f"{MAX_TEMPERATURE:g} (all are ordered rightly, say): take more, or harder ones"
        )
    return temperature


def _divide_head(model: PreTrainedModel, temperature: float) -> None:
    with torch.no_grad():
        for parameter in find_head(model)[1].parameters():
            parameter.div_(temperature)


def accuracy_by_agreement(
    differences: NDArray[np.float64],
    agreement: NDArray[np.float64],
    edges: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
) -> list[AgreementBin]:
    """Return the accuracy by the share of annotators who prefer the chosen text; empty bins are left out.

    Args:
        differences: the score of the chosen text minus the score of the rejected one, (n,).
        agreement: the share, (n,), from `edges[0]` to `edges[-1]`.
        edges: the edges of the bins; a bin includes its lower edge, and the last bin its upper edge too.

    Raises:
        ValueError: the two differ in length, or an agreement lies outside the edges.
    """
    d, share = np.asarray(differences, dtype=np.float64), np.asarray(agreement, dtype=np.float64)
    if d.shape != share.shape:
        raise ValueError(f"{d.shape} differences and {share.shape} agreements: give one of each per pair")
    outside = ~((share >= edges[0]) & (share <= edges[-1]))
    if outside.any():
        at = int(np.argmax(outside))
        raise ValueError(f"pair {at}: the agreement is {share[at]:g}, not in {edges[0]:g} to {edges[-1]:g}")
    right = (d > 0) + 0.5 * (d == 0)
    index = np.clip(np.searchsorted(np.asarray(edges), share, side="right") - 1, 0, len(edges) - 2)
    return [
        AgreementBin(float(edges[i]), float(edges[i + 1]), int(at.sum()), float(right[at].mean()))
        for i in range(len(edges) - 1)
        if (at := index == i).any()
    ]
