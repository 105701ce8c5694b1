"""Ratings: the ordinal likelihood against its definition, fits against known ratings."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences import evaluate_ratings, fit_ratings
from rlhf_envs.preferences.regression import CHUNK, order_accuracy, ordinal_log_probs
from rlhf_envs.rewards.reward_model import score_texts

ROW = {"prompt": "it was", "completion": " good", "label": 4.0}


def small_model() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(load_tokenizer("tiny")), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    config.num_labels, config.pad_token_id = 1, None
    return GPT2ForSequenceClassification(config).eval()


def rated(n: int, seed: int, levels: int = 4) -> list[dict[str, object]]:
    """Texts whose rating is the number of times they say "good"."""
    generator = random.Random(seed)
    rows: list[dict[str, object]] = []
    for _ in range(n):
        label = generator.randrange(levels)
        words = ["good"] * label + ["film"] * (levels - label)
        generator.shuffle(words)
        rows.append({"prompt": "it was ", "completion": " ".join(words), "label": float(label)})
    return rows


def test_ordinal_probabilities_are_differences_of_logistic_functions_and_sum_to_1() -> None:
    scores, thresholds = torch.tensor([-1.0, 0.3, 7.0]).double(), torch.tensor([-2.0, 0.0, 0.5]).double()
    probabilities = ordinal_log_probs(scores, thresholds).exp()
    for i, s in enumerate(scores):
        above = [1.0, *(float(torch.sigmoid(s - t)) for t in thresholds), 0.0]
        for level in range(4):
            assert float(probabilities[i, level]) == pytest.approx(above[level] - above[level + 1], rel=1e-9)
    assert probabilities.sum(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_ordinal_log_probs_and_their_gradients_stay_finite_far_from_the_thresholds() -> None:
    scores = torch.tensor([-80.0, 80.0], requires_grad=True)
    log_probs = ordinal_log_probs(scores, torch.tensor([-0.5, 0.5]))
    log_probs.sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(log_probs).all()
    assert torch.isfinite(scores.grad).all()
    assert float(log_probs[0, 2].detach()) == pytest.approx(-80.5)


@pytest.mark.parametrize("loss", ["mse", "ordinal"])
def test_a_fit_recovers_known_ratings(loss: Any) -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    held_out = rated(60, seed=1)
    fitted = fit_ratings(
        model, tokenizer, rated(300, seed=2), held_out, loss=loss, epochs=6, batch_size=16, learning_rate=5e-3
    )
    assert fitted.n == 60
    assert fitted.accuracy > 0.95
    assert fitted.correlation > 0.85
    reversed_labels = [{**row, "label": -float(str(row["label"]))} for row in held_out]
    assert evaluate_ratings(model, tokenizer, reversed_labels).accuracy == pytest.approx(1 - fitted.accuracy)


def test_the_square_loss_predicts_the_mean_label_of_a_text() -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    rows = [{"completion": "good", "label": label} for label in (10.0, 14.0)] + [
        {"completion": "bad", "label": 3.0}
    ] * 2
    fit_ratings(model, tokenizer, rows, rows, epochs=150, batch_size=4, learning_rate=5e-3, weight_decay=0.0)
    good, bad = score_texts(model, tokenizer, ["good", "bad"]) * model.config.rating_std + model.config.rating_mean
    assert good == pytest.approx(12.0, abs=0.3)
    assert bad == pytest.approx(3.0, abs=0.3)


def test_weights_count_as_repeated_rows_do() -> None:
    tokenizer = load_tokenizer("tiny")
    rows = [{"completion": "good", "label": 5.0, "weight": 3.0}, {"completion": "good", "label": 1.0}]
    model = small_model()
    fit_ratings(model, tokenizer, rows, rows, epochs=150, batch_size=2, learning_rate=5e-3, weight_decay=0.0)
    predicted = score_texts(model, tokenizer, ["good"])[0] * model.config.rating_std + model.config.rating_mean
    assert predicted == pytest.approx((3 * 5 + 1) / 4, abs=0.15)


def test_learned_thresholds_rise_and_reproduce_the_shares_of_the_levels(tmp_path: Path) -> None:
    """Where all texts are the same, the likeliest probabilities are the shares of the levels."""
    model, tokenizer = small_model(), load_tokenizer("tiny")
    labels = [1.0] * 2 + [2.0] * 5 + [5.0] * 3
    rows = [{"completion": "film", "label": label} for label in labels]
    fit_ratings(
        model, tokenizer, rows, rows, loss="ordinal", epochs=100, batch_size=10, learning_rate=1e-2, weight_decay=0.0
    )
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.num_labels == 1
    assert loaded.config.rating_levels == [1.0, 2.0, 5.0]
    thresholds = torch.tensor(loaded.config.rating_thresholds)
    assert (thresholds.diff() > 0).all()
    score = torch.tensor(score_texts(loaded, tokenizer, ["film"])).float()
    assert ordinal_log_probs(score, thresholds).exp()[0].tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.03)


def test_figures_equal_a_count_by_hand() -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    model.config.pad_token_id = 0
    texts, labels = ["good", "bad", "film", "plot"], [3.0, 1.0, 1.0, 2.0]
    scores = score_texts(model, tokenizer, texts)
    measured = evaluate_ratings(
        model, tokenizer, [{"completion": t, "label": v} for t, v in zip(texts, labels, strict=True)]
    )
    pairs = [(i, j) for i in range(4) for j in range(4) if labels[i] > labels[j]]
    assert measured.accuracy == pytest.approx(np.mean([scores[i] > scores[j] for i, j in pairs]))
    assert measured.correlation == pytest.approx(np.corrcoef(scores, labels)[0, 1])


def test_the_accuracy_over_many_chunks_is_that_of_all_pairs_with_ties_as_a_half() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(5, size=2 * CHUNK + 7).astype(float)
    scores = np.round(labels + generator.normal(0, 2, len(labels)))  # with equal ones
    above, below = np.nonzero(labels[:, None] > labels[None, :])
    won, tied = scores[above] > scores[below], scores[above] == scores[below]
    assert order_accuracy(scores, labels) == pytest.approx(np.mean(won + 0.5 * tied))
    assert order_accuracy(scores, np.ones(len(scores))) == 0.5


def test_the_accuracy_takes_memory_by_the_rows_and_not_by_their_square() -> None:
    scores = np.arange(4000.0)
    tracemalloc.start()
    assert order_accuracy(scores, scores) == 1.0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(scores) ** 2 / 4  # a quarter of what the differences of all pairs take


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": []}, "0 ratings to fit and 2 held out"),
        ({"rows": [ROW, ROW]}, "all 2 labels are 4: there is nothing to fit"),
        ({"rows": [ROW, {**ROW, "label": float("nan")}]}, "rating 1: the label is nan, not a finite number"),
        ({"rows": [ROW, {**ROW, "label": "good"}]}, "rating 1: the label is 'good'"),
        ({"rows": [ROW, {"label": 1.0}]}, "rating 1 needs 'completion' as a string"),
        ({"rows": [ROW, {**ROW, "weight": 0.0}]}, r"rating 1: the weight is 0\.0"),
        ({"loss": "huber"}, "loss is 'huber': choose"),
        (
            {"rows": [{**ROW, "label": i / 7} for i in range(40)], "loss": "ordinal"},
            "40 different labels are no levels",
        ),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(arguments: dict[str, Any], message: str) -> None:
    rows = [ROW, {**ROW, "completion": " bad", "label": 1.0}]
    with pytest.raises(ValueError, match=message):
        fit_ratings(small_model(), load_tokenizer("tiny"), **{"rows": rows, "held_out": rows, **arguments})
