"""What an overlap that adapts costs and saves: votes counted by hand, and the claim on real raters at a small size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("votes", "first", "most", "right", "labels"),
    [
        ([1, 1, -1], 2, 3, 1.0, 2),  # two agree, and the third is not asked
        ([1, -1, -1], 2, 3, 0.0, 3),
        ([0, 0, 1], 2, 3, 1.0, 3),  # two ties decide nothing
        ([-1, 0, 1], 2, 3, 0.0, 2),  # a tie beside a vote does
        ([1, -1, 0], 2, 3, 0.5, 3),  # nobody has won
        ([1, -1, 0, 0, -1, 1], 2, 5, 0.0, 5),
        ([1, -1, -1], 2, 2, 0.5, 2),
        ([1, 1, -1], 3, 3, 1.0, 3),
    ],
)
def test_votes_are_asked_until_they_decide(
    benchmark: Any, votes: list[int], first: int, most: int, right: float, labels: int
) -> None:
    assert benchmark("adaptive_overlap").ask(votes, first, most) == (right, labels)


def test_the_truth_is_of_raters_who_are_not_asked_and_pairs_that_are_close_can_be_left_out(benchmark: Any) -> None:
    """Twenty raters: all put the third text far above, and of the others half put either first."""
    module = benchmark("adaptive_overlap")
    close = np.repeat([[0.0, 0.4], [0.4, 0.0]], 10, axis=0)
    batch = np.hstack([close, np.full((20, 1), 5.0)])
    too_small = np.random.default_rng(0).normal(size=(module.MOST + 2, 3))
    pairs = module.draw([too_small, batch], 200, 1.0, seed=0)
    assert {b for b, _ in pairs} == {1}
    assert {tuple(votes) for _, votes in pairs} == {(1,) * module.MOST}
    contested = [votes for _, votes in module.draw([batch], 600, 0.0, seed=0) if -1 in votes]
    assert len(contested) > 100
    # Whoever is asked is missing from the truth: of halves that are equally large, the smaller rest is outvoted.
    assert np.mean(contested) < -0.05


def test_intervals_hold_the_mean_and_three_votes_gain_nothing_over_themselves(benchmark: Any) -> None:
    votes = [[1, 1, 1, 1, 1], [1, -1, 1, 1, 1], [-1, -1, 1, 1, 1], [1, -1, -1, 1, 1]]
    table = benchmark("adaptive_overlap").measure([(k, votes[k % 4]) for k in range(40)])
    assert table["three votes"]["gain over three votes"] == (0, 0, 0)
    assert table["three votes"]["accuracy"][0] == 0.5
    assert table["two votes"]["labels, of three"] == pytest.approx((2 / 3,) * 3)
    # Two pairs are decided by two votes. The others take three, or all five if the third does not decide.
    assert table["adaptive, up to 3"]["labels, of three"][0] == pytest.approx((2 + 3 + 2 + 3) / 4 / 3)
    for cells in table.values():
        for mean, low, high in cells.values():
            assert low <= mean <= high


def test_on_real_raters_adaptive_overlap_saves_a_quarter_of_the_labels(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark("adaptive_overlap").main(["--pairs", "300", "--seeds", "2", "--gaps", "1"])
    out = capsys.readouterr().out
    assert "600 pairs of 2 seeds, means more than 1 apart" in out
    assert "| adaptive, up to 3 | " in out
    assert "(reached: at most 0.75)" in out
