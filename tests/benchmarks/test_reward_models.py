"""The benchmark of reward models: its measures by hand, and its tables at a toy size."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from rlhf_envs.models import load_tokenizer


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which is not installed, with 40 snippets a split."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    module = importlib.import_module("benchmarks.reward_models")
    everything = module.snippets
    monkeypatch.setattr(module, "snippets", lambda split: everything(split)[:40])
    return module


def test_pairs_are_apart_and_of_their_split(benchmark: Any) -> None:
    pairs = benchmark.human_pairs("test", 30, seed=0)
    assert len(pairs) == 30
    texts = {row["text"]: row for row in benchmark.snippets("test")}
    for pair in pairs:
        assert texts[pair["chosen"]]["mean"] - texts[pair["rejected"]]["mean"] > 1.0
    assert pairs == benchmark.human_pairs("test", 30, seed=0)


def test_agreement_counts_raters_of_one_text_against_those_of_the_other(benchmark: Any) -> None:
    assert benchmark.agreement([3, 1], [1, 0]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_a_rater_is_held_against_the_means_of_the_others(benchmark: Any) -> None:
    high, low = [4, 3, -2], [0, 1]
    shares = []
    for i in range(3):
        for j in range(2):
            others = np.mean(high[:i] + high[i + 1 :]) - np.mean(low[:j] + low[j + 1 :])
            one = high[i] - low[j]
            shares.append(0.5 if (one == 0) != (others == 0) else float(np.sign(one) == np.sign(others)))
    assert benchmark.raters_accuracy([{"rows": ({"ratings": high}, {"ratings": low})}]) == pytest.approx(
        np.mean(shares)
    )


def small_backbone(model: str, seed: int = 0) -> tuple[Any, Any]:
    """A model that takes no time, in the place of every backbone."""
    tokenizer = load_tokenizer("tiny")
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=8, n_layer=3, n_head=2, pad_token_id=0)
    config.num_labels = 1
    return GPT2ForSequenceClassification(config).eval(), tokenizer


def test_the_unlabelled_pool_has_pairs_of_any_gap(benchmark: Any) -> None:
    gaps = [high["mean"] - low["mean"] for high, low in (p["rows"] for p in benchmark.unlabelled_pool(200, seed=0))]
    assert min(gaps) > 0
    order = benchmark.snippets("train")
    everywhere = [abs(a["mean"] - b["mean"]) for a in order for b in order]
    share = np.mean([gap <= 1.0 for gap in everywhere if gap > 0])
    assert np.mean([gap <= 1.0 for gap in gaps]) == pytest.approx(share, abs=0.1)


def test_a_setting_is_chosen_on_the_validation_split(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    everything = benchmark.snippets
    monkeypatch.setattr(benchmark, "snippets", lambda split: read.append(split) or everything(split))
    monkeypatch.setattr(benchmark, "load_backbone", small_backbone)
    benchmark.choose(benchmark.CHOICES[:1], benchmark.TOY)
    assert set(read) == {"train", "validation"}


def test_every_part_prints_its_table(
    benchmark: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("benchmarks.reward_models", "rlhf_envs.preferences.ensemble_fit"):
        monkeypatch.setattr(importlib.import_module(module), "load_backbone", small_backbone)
    benchmark.main(["--toy", "--seeds", "1", "--threshold", "0.5"])
    printed = capsys.readouterr().out
    assert re.search(r"^one rater against the mean of the others, on these pairs: 0\.\d{3}$", printed, re.MULTILINE)
    for setting in benchmark.CHOICES:
        assert re.search(rf"^\| {setting.name} \| 0\.\d\d\d \| ", printed, re.MULTILINE), printed
    assert re.search(r"^the best accuracy: minilm, ", printed, re.MULTILINE)
    for setting in (*benchmark.BACKBONES, *benchmark.VARIANTS):
        n = 24 if setting.model == "tiny" else 8
        assert re.search(rf"^\| {setting.name} \| {n} \| 0\.\d\d\d \(", printed, re.MULTILINE), printed
    assert re.search(r"^tiny, pairs of any gap: raters who agree, accuracy, pairs\n\d+%", printed, re.MULTILINE)
    assert re.search(r"^\| 16 \| (0\.\d{3} \([-\d.]+\) \| ){3}", printed, re.MULTILINE), printed
