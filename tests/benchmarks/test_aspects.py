"""The benchmark of aspects: what its figures go by, and that it runs from people's answers to an agent."""

from __future__ import annotations

import importlib

import pytest


def test_figures_go_by_rules_that_no_agent_trains_against() -> None:
    benchmark = importlib.import_module("benchmarks.aspects")
    assert benchmark.favour(["", "", ""], ["a b c", "e f", ""]) == [2.0, -2.0, 0.0]
    assert benchmark.brevity(["", ""], ["a b c", ""]) == [-3.0, 0.0]


@pytest.mark.slow
def test_it_runs_from_answers_to_agents(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("benchmarks.aspects").main(["--seeds", "1", "--texts", "60", "--tokens", "2304"])
    printed = capsys.readouterr().out
    assert printed.count("seed 0, favourable") == 4
    assert "brief, last third" in printed
