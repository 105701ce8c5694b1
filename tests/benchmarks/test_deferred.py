"""The benchmark of scoring by rollouts, at a toy size."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest


def test_a_rollout_is_scored_in_one_call_with_the_same_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    importlib.import_module("benchmarks.deferred").main(["--n-envs", "4", "--new-tokens", "6", "--sleep", "0"])
    printed = capsys.readouterr().out
    assert "\nreward calls: 1 (" in printed
    difference = re.search(r"largest difference of a score: (\S+)", printed)
    assert difference is not None
    assert float(difference[1]) <= 1e-5


def test_another_checkout_is_compared_as_it_scores_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.syspath_prepend(str(root))
    sizes = ["--n-envs", "4", "--new-tokens", "12", "--sleep", "0"]
    importlib.import_module("benchmarks.deferred").main([*sizes, "--old", str(root), "--pairs", "1"])
    row = re.search(r"^\| 1 \| [\d.]+ \((\d+)\) \| [\d.]+ \((\d+)\) \| [\d.]+ \|$", capsys.readouterr().out, re.M)
    assert row is not None
    assert int(row[1]) > int(row[2]) == 1, "by default each step's texts are scored in a call; here all in one"
