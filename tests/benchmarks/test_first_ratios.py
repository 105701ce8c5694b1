"""The benchmark of bfloat16's first ratios, at a toy size, and against a rollout whose log-probabilities are off."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from agents import SequenceRolloutBuffer
from benchmarks import first_ratios

TOY: dict[str, Any] = {"model": "tiny", "train": 1, "n_envs": 4, "new_tokens": 6, "batch_size": 8, "seed": 0}


def test_it_prints_a_row_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TOY.items()]
    first_ratios.main(flags)
    rows = re.findall(r"^\| (.+?) \| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)% \|", capsys.readouterr().out, re.M)
    assert [name for name, *_ in rows] == [*first_ratios.SETTINGS]
    assert all(float(value) < 5 for _, *values in rows for value in values)


def test_log_probabilities_that_are_off_by_half_a_nat_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    compute_again = SequenceRolloutBuffer.compute_again

    def off(self: SequenceRolloutBuffer, policy: object) -> dict[str, float]:
        found = compute_again(self, policy)
        self.log_probs = self.log_probs + 0.5
        return found

    monkeypatch.setattr(SequenceRolloutBuffer, "compute_again", off)
    _, whole, parts = first_ratios.measure(**TOY, **first_ratios.SETTINGS["dtype bfloat16, eager"])
    assert len(whole) == len(parts) == 24
    assert whole == pytest.approx(np.full(24, 1 - np.exp(-0.5)), abs=0.02)
    assert parts == pytest.approx(np.full(24, 1 - np.exp(-0.5)), abs=0.02)
