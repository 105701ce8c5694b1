"""The benchmark of steps, at a toy size."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import pytest


def test_all_parts_of_all_steps_are_measured_and_the_model_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    benchmark = importlib.import_module("benchmarks.steps")
    rollouts = benchmark.Rollouts(4, 12, steps=3)
    trunk = rollouts.agent.policy._actor.module
    forward = trunk.forward

    def slow(*args, **kwargs):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return forward(*args, **kwargs)

    trunk.forward = slow
    rollouts._measure(trunk, "forward", "model")
    steps = rollouts.collect()
    assert len(steps) == 3
    assert all(set(step) == set(benchmark.PARTS) and min(step.values()) > 0 for step in steps)
    assert all(sum(step.values()) < 50 for step in steps)
