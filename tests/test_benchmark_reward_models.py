"""The benchmark of reward models: its measures by hand, and its tables at a toy size."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which is not installed, with 40 snippets a split."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent))
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


def test_every_part_prints_its_table(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--toy", "--seeds", "1", "--models", "tiny", "--threshold", "0.5"])
    printed = capsys.readouterr().out
    assert re.search(r"^one rater against the mean of the others, on these pairs: 0\.\d{3}$", printed, re.MULTILINE)
    for name in ("tiny", "tiny, LoRA", "tiny, head only", "tiny, ratings, least squares", "tiny, ratings, ordinal"):
        assert re.search(rf"^\| {name} \| 24 \| 0\.\d\d\d \(", printed, re.MULTILINE), printed
    assert re.search(r"^tiny, pairs of any gap: raters who agree, accuracy, pairs\n\d+%", printed, re.MULTILINE)
    assert re.search(r"^\| 16 \| (0\.\d{3} \([-\d.]+\) \| ){3}", printed, re.MULTILINE), printed
