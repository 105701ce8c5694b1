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
