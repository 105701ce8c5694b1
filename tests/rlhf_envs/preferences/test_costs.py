"""Costs that are fitted to flags of harm: calibrated probabilities, however rare the flags, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from transformers import GPT2Config, GPT2ForSequenceClassification

from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences.fitting import FittedReward, fit_reward, load_judgements, measure_reward
from rlhf_envs.preferences.training import NothingToFit
from rlhf_envs.rewards import Constrained, get_reward
from rlhf_envs.rewards.reward_model import RewardModel, score_texts

HARMFUL, HARMLESS = 0.6, 0.03  # how often people flag a text with the word, and one without


def flags(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """A fifth of the texts has a word that six of ten people flag; of the others three in a hundred."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        has_it = i % 5 == 0
        words = [*draw.choices(["the", "film", "plot", "and", "it"], k=4), "bad" if has_it else "good"]
        flag = draw.random() < (HARMFUL if has_it else HARMLESS)
        rows.append({"prompt": f"it {i} was ", "completion": " ".join(words), "flag": flag})
    return rows


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, tokenizer = tmp_path_factory.mktemp("backbone"), load_tokenizer("tiny")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
    config.num_labels = 1
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def fitted(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FittedReward]:
    folder = tmp_path_factory.mktemp("cost") / "harm"
    options: dict[str, Any] = dict(epochs=4, learning_rate=1e-2, batch_size=32)
    return folder, fit_reward(flags(900), folder, model=backbone, loss="flags", held_out_share=0.3, **options)


def test_the_cost_is_the_probability_that_people_flag(fitted: tuple[Path, FittedReward]) -> None:
    folder, fit = fitted
    cost = get_reward(str(folder))
    with_it, without = (cost(["it 9999 was "], [f"the film and plot {word}"])[0] for word in ("bad", "good"))
    assert with_it == pytest.approx(HARMFUL, abs=0.12)
    assert without == pytest.approx(HARMLESS, abs=0.03)
    metrics = {name: float(value) for name, value in fit.metrics.items()}
    assert metrics["held-out mean probability"] == pytest.approx(metrics["held-out share of flags"], abs=0.01)
    assert metrics["held-out AUC"] > 0.8
    assert metrics["held-out calibration error"] < 0.05
    fresh = flags(600, seed=1)
    report = measure_reward(str(folder), fresh)
    assert report.metrics["mean probability"] == pytest.approx(report.metrics["share of flags"], abs=0.03)
    assert report.metrics["Brier score"] < np.var([row["flag"] for row in fresh])


def test_the_folder_holds_log_odds_and_says_how_to_read_them(fitted: tuple[Path, FittedReward]) -> None:
    model = RewardModel(str(fitted[0]))
    raw = score_texts(model.model, model.tokenizer, ["it was bad", "it was good"])
    config = model.model.config
    expected = expit(raw * config.reward_gain + config.reward_bias)
    np.testing.assert_allclose(model(["it ", "it "], ["was bad", "was good"]), expected, rtol=1e-6)


def test_without_calibration_the_share_of_flags_is_that_of_the_fit(backbone: str, tmp_path: Path) -> None:
    """Classes are weighed alike while it is fitted, and the probabilities brought back to the real share."""
    options: dict[str, Any] = dict(epochs=2, learning_rate=1e-2, batch_size=32, calibrate=False)
    fit = fit_reward(flags(600), tmp_path / "harm", model=backbone, loss="flags", held_out_share=0.3, **options)
    assert float(fit.metrics["held-out mean probability"]) == pytest.approx(0.144, abs=0.06)
    assert "slope" not in fit.metrics


def test_a_learned_cost_constrains_a_reward(fitted: tuple[Path, FittedReward]) -> None:
    constrained = Constrained(lambda prompts, completions, **_: [1.0] * len(completions), str(fitted[0]), 0.1, 2.0)
    (total,) = constrained(["it "], ["was bad"])
    cost = get_reward(str(fitted[0]))(["it "], ["was bad"])[0]
    assert total == pytest.approx(1 - 2 * (cost - 0.1))
    assert constrained.cost_name == "harm"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row | {"flag": False} for row in flags(60)], "0 of 54 flags to fit say harmful and 54 harmless: at least 10"),
        ([row | {"flag": True} for row in flags(60)], "54 of 54 flags to fit say harmful and 0 harmless"),
        (
            [row | {"flag": i < 6} for i, row in enumerate(flags(60))],
            "flags to fit say harmful and .* of each are needed",
        ),
    ],
)
def test_one_answer_alone_or_too_few_of_it_are_refused(
    backbone: str, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(NothingToFit, match=message):
        fit_reward(rows, tmp_path / "harm", model=backbone, loss="flags")


def test_few_held_out_flags_leave_it_uncalibrated_and_say_so(backbone: str, tmp_path: Path) -> None:
    fit = fit_reward(flags(120), tmp_path / "harm", model=backbone, loss="flags")
    assert "at least 5 of each are needed to calibrate" in str(fit.metrics["not calibrated"])


def test_bad_flags_are_named(backbone: str, tmp_path: Path) -> None:
    file = tmp_path / "flags.jsonl"
    file.write_text('{"prompt": "a", "completion": "b", "flag": true}\n{"prompt": "a", "completion": "c", "flag": 3}\n')
    with pytest.raises(ValueError, match=r"flags.jsonl, row 2: the flag is 3, expected true \(harmful\)"):
        load_judgements(file)
    (tmp_path / "flags.csv").write_text("prompt,completion,flag\na,b,true\na,c,false\n")
    assert [row["flag"] for row in load_judgements(tmp_path / "flags.csv")] == [1.0, 0.0]


def test_a_reward_model_is_no_cost() -> None:
    with pytest.raises(ValueError, match="the model returns no probability, so it is no cost"):
        measure_reward("tiny-reward", flags(5))
