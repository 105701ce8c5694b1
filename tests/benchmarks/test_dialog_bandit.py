"""The benchmark of the dialog bandit trains in both ways and prints a line for each."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.dialog_bandit")


@pytest.mark.parametrize("late", [False, True])
def test_a_short_run_has_a_share_of_the_best_return(module: Any, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    monkeypatch.setattr(module, "DIALOGS", 4)
    monkeypatch.setattr(module, "SAMPLED", 40)
    monkeypatch.setattr(module, "ENOUGH", 0.0)
    found = module.train("reinforce", late, 0, n_timesteps=640)
    assert 0 <= found["share"] < 0.5
    assert 0 < found["reached"] < 640, "four dialogs have ended before the end of the first rollout"


@pytest.mark.slow
def test_ppo_learns_what_to_ask_each_customer_and_to_name_the_secret(module: Any) -> None:
    assert module.train("ppo", late=False, seed=0)["share"] >= 0.95


def test_a_line_counts_the_seeds_that_reach_the_optimum(module: Any) -> None:
    runs = [{"share": 0.5, "reached": float("nan"), "tokens": 9000}, {"share": 1.0, "reached": 3000.0, "tokens": 9000}]
    assert module._line("ppo", True, runs) == "| ppo | at the end | 9,000 | 75.0 (least 50.0) | 3,000 | 1 of 2 |"
