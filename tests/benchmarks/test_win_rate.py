from __future__ import annotations

import math

import pytest

from benchmarks.tasks.win_rate import count_wins


def test_wins_and_half_ties_are_counted_and_what_has_no_metric_is_not() -> None:
    share, half, n = count_wins([0.0, 0.0, 1.0, 1.0, math.nan], [1.0, 1.0, 0.0, 1.0, 1.0])
    assert (share, n) == (2.5 / 4, 4)
    wins = [1, 1, 0, 0.5]
    deviation = (sum((one - share) ** 2 for one in wins) / 3) ** 0.5
    assert half == pytest.approx(3.182 * deviation / 2, rel=1e-3)  # Student's t with 3 degrees of freedom
    assert count_wins([math.nan], [1.0])[2] == 0
