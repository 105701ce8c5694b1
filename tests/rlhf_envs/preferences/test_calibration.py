"""Calibration: tables and temperatures against planted probabilities, and a head that is scaled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences import evaluate_pairs, normalise
from rlhf_envs.preferences.bradley_terry import pair_differences
from rlhf_envs.preferences.calibration import (
    CalibrationError,
    _temperature_of,
    accuracy_by_agreement,
    best_temperature,
    calibrate,
    calibration_error,
    reliability,
)
from rlhf_envs.rewards.reward_model import RewardModel


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def planted(n: int, temperature: float, seed: int = 0) -> np.ndarray:
    """Differences of chosen and rejected by a scorer that is `temperature` times as sure as it may be."""
    generator = np.random.default_rng(seed)
    true = generator.normal(0, 1.5, n)
    won = generator.random(n) < sigmoid(true)
    return np.where(won, true, -true) * temperature


def test_a_calibrated_scorer_has_next_to_no_error_and_a_sure_one_has() -> None:
    assert calibration_error(planted(40_000, 1.0)) < 0.01
    assert calibration_error(planted(40_000, 4.0)) > 0.1


def test_the_temperature_is_the_planted_one_and_mends_the_error() -> None:
    for planted_one in (0.25, 1.0, 4.0):
        differences = planted(40_000, planted_one)
        temperature = best_temperature(differences)
        assert temperature == pytest.approx(planted_one, rel=0.05)
        assert calibration_error(differences / temperature) < 0.01


def test_the_temperature_has_the_least_loss() -> None:
    differences = planted(500, 2.0)
    temperature = best_temperature(differences)
    losses = {t: np.logaddexp(0, -differences / t).mean() for t in (0.9 * temperature, temperature, 1.1 * temperature)}
    assert min(losses, key=lambda t: losses[t]) == temperature


def test_soft_labels_are_fitted_by_their_probability() -> None:
    assert best_temperature(np.array([3.0]), np.array([0.75])) == pytest.approx(3.0 / np.log(3), rel=1e-3)


def test_pairs_that_are_all_right_leave_the_temperature_at_the_end_of_its_range() -> None:
    assert best_temperature(np.array([1.0, 2.0])) == pytest.approx(0.02, rel=1e-3)
    assert best_temperature(np.array([-1.0, -2.0])) == pytest.approx(50.0, rel=1e-3)


def test_reliability_equals_a_count_by_hand() -> None:
    logit = np.log(np.array([0.55, 0.58, 0.92, 0.95]) / (1 - np.array([0.55, 0.58, 0.92, 0.95])))
    rows = reliability(logit * [1, -1, 1, 1], bins=5)
    assert [(row.low, row.high, row.n) for row in rows] == [(0.5, 0.6, 2), (0.9, 1.0, 2)]
    assert [row.confidence for row in rows] == pytest.approx([0.565, 0.935])
    assert [row.accuracy for row in rows] == [0.5, 1.0]
    assert calibration_error(logit * [1, -1, 1, 1], bins=5) == pytest.approx((0.065 + 0.065) / 2)
    soft = reliability(np.array([1.0, -1.0]), np.array([0.8, 0.7]), bins=1)
    assert soft[0].accuracy == pytest.approx((0.8 + 0.3) / 2)


def test_infinitely_sure_pairs_are_in_the_last_bin() -> None:
    assert [row.n for row in reliability(np.array([1e3, -1e3]))] == [2]


def test_accuracy_by_agreement_equals_a_count_by_hand() -> None:
    rows = accuracy_by_agreement(np.array([1.0, -1.0, 0.0, 2.0]), np.array([0.5, 0.6, 0.95, 1.0]), (0.5, 0.6, 0.9, 1.0))
    assert [(row.low, row.n, row.accuracy) for row in rows] == [(0.5, 1, 1.0), (0.6, 1, 0.0), (0.9, 2, 0.75)]


@pytest.mark.parametrize(
    ("differences", "agreement", "message"),
    [
        ([1.0, 2.0], [0.6], r"\(2,\) differences and \(1,\) agreements"),
        ([1.0, 2.0], [0.6, 0.3], r"pair 1: the agreement is 0\.3, not in 0\.5 to 1"),
        ([1.0], [float("nan")], "pair 0: the agreement is nan"),
    ],
)
def test_a_wrong_agreement_is_an_error(differences: list[float], agreement: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy_by_agreement(np.array(differences), np.array(agreement))


def small_model() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(load_tokenizer("tiny")), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    config.num_labels, config.pad_token_id = 1, 0
    return GPT2ForSequenceClassification(config).eval()


def test_calibrating_scales_the_raw_scores_and_keeps_the_normalised_ones(tmp_path: Path) -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    texts = ["good film", "bad", "the plot of it", "an actor"]
    normalise(model, tokenizer, texts)
    model.save_pretrained(tmp_path / "before")
    pairs = [{"chosen": a, "rejected": b} for a in texts for b in texts if a != b]
    right = [d > 0 for d in pair_differences(model, tokenizer, pairs)]
    pairs = [pair for pair, is_right in zip(pairs, right, strict=True) if is_right]
    pairs += [{"chosen": pairs[0]["rejected"], "rejected": pairs[0]["chosen"]}]  # one contradiction: a finite optimum
    pairs *= 10
    before = pair_differences(model, tokenizer, pairs)
    loss = evaluate_pairs(model, tokenizer, pairs).loss
    temperature = calibrate(model, tokenizer, pairs)
    np.testing.assert_allclose(pair_differences(model, tokenizer, pairs), before / temperature, rtol=1e-4)
    assert evaluate_pairs(model, tokenizer, pairs).loss < loss
    model.save_pretrained(tmp_path / "after")
    for folder in ("before", "after"):
        tokenizer.save_pretrained(tmp_path / folder)
    first, second = (RewardModel(str(tmp_path / f)).score(texts, [""] * 4) for f in ("before", "after"))
    np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ([], "^0 held-out pairs are too few to calibrate on, take at least 50"),
        ([1.0] * 48 + [-1.0], "^49 held-out pairs are too few"),
        ([0.1, 0.1, 0.1, -5.0] * 20, "^the scores of 80 held-out pairs do not favour the chosen texts on average"),
        ([0.0] * 60, "do not favour the chosen text"),
        ([1.0] * 60, r"^the 60 held-out pairs ask for a temperature outside 0\.02 to 50"),
        ([100.0] * 31 + [-100.0] * 29, "the 60 held-out pairs ask for a temperature outside 0"),
    ],
)
def test_pairs_that_fix_no_temperature_say_why(differences: list[float], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        _temperature_of(np.array(differences), [{}] * len(differences))


def test_agreement_that_is_never_full_fixes_the_temperature_of_pairs_that_are_all_right() -> None:
    assert _temperature_of(np.full(50, 3.0), [{"probability": 0.75}] * 50) == pytest.approx(3.0 / np.log(3), rel=1e-3)


def test_a_model_that_cannot_be_calibrated_is_left_as_it_was() -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    with pytest.raises(CalibrationError):
        calibrate(model, tokenizer, [{"chosen": "good film", "rejected": "bad"}])
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


def test_no_pairs_have_no_reliability() -> None:
    with pytest.raises(ValueError, match="0 pairs in 10 bins"):
        reliability(np.empty(0))
