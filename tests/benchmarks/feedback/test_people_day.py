"""The simulated day of people: with rating times that are all equal the share of work can be counted by hand."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")


@pytest.mark.parametrize(("overlap", "waves"), [(1, 2), (2, 3)])
def test_people_wait_while_the_last_texts_of_a_rollout_are_rated(
    overlap: int, waves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six texts end at once. Four people rate them in waves of 8 s, and the machine takes 4 s."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3]))  # benchmarks are no part of the wheel
    busy_share = importlib.import_module("benchmarks.feedback.people_day").busy_share
    options = {"people": 4, "median": 8.0, "spread": 0.0, "machine": 2.0, "length": 1.0}
    share = busy_share("rollout", 3, 2, overlap, 1, tmp_path, **options)
    assert share == pytest.approx(6 * overlap * 8 / (4 * (8 * waves + 4)))
