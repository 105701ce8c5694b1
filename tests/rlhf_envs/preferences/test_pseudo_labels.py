"""Pseudo-labels: only what all members are sure of, the surest first, up to the cap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rlhf_envs.preferences import pseudo_label
from rlhf_envs.preferences.bradley_terry import pair_probabilities


class Members:
    """An ensemble of two whose log-odds of the first completion are its number, halved by the second member."""

    def preferences(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        odds = np.array([float(a) - float(b) for a, b in zip(first, second, strict=True)])
        return 1 / (1 + np.exp(-np.stack([odds, odds / 2])))


class Opposed:
    """The members see a pair in opposite ways, one of them surely."""

    def preferences(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        return np.array([[0.999], [0.4]])


MEMBERS: Any = Members()
PAIRS = [
    {"prompt": "a", "completions": ["8", "0"]},
    {"prompt": "b", "completions": ["0", "12"]},
    {"prompt": "c", "completions": ["1", "0"]},
    {"completions": ["20", "0"]},
]


def test_sure_pairs_come_back_in_their_order_with_the_preferred_text_chosen() -> None:
    rows = pseudo_label(MEMBERS, PAIRS, threshold=0.9)
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        ("", "20", "0"),
        ("b", "12", "0"),
        ("a", "8", "0"),
    ]
    expected = np.mean([1 / (1 + np.exp(-8)), 1 / (1 + np.exp(-4))])
    assert rows[2]["probability"] == pytest.approx(expected)
    assert list(pair_probabilities(rows)) == [row["probability"] for row in rows]  # rows that a fit takes


def test_the_cap_keeps_the_surest() -> None:
    assert [row["chosen"] for row in pseudo_label(MEMBERS, PAIRS, threshold=0.5, cap=2)] == ["20", "12"]
    assert pseudo_label(MEMBERS, PAIRS, cap=0) == []


def test_a_threshold_that_nothing_reaches_gives_nothing() -> None:
    assert pseudo_label(MEMBERS, PAIRS, threshold=1.0) == []
    assert pseudo_label(MEMBERS, []) == []


def test_members_on_different_sides_give_no_label() -> None:
    opposed: Any = Opposed()
    assert pseudo_label(opposed, PAIRS[:1], threshold=0.6) == []


def test_the_weight_stands_in_the_rows() -> None:
    assert {row["weight"] for row in pseudo_label(MEMBERS, PAIRS, weight=0.25)} == {0.25}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.4}, r"threshold 0\.4 must be 0\.5 to 1"),
        ({"threshold": float("nan")}, "threshold nan must be"),
        ({"cap": -1}, "cap -1 at least 0"),
        ({"weight": 0.0}, r"weight 0\.0 above 0"),
        ({"pairs": [{"prompt": "x", "completions": ["one"]}]}, "pair 0 needs 'completions', two strings"),
        ({"pairs": [PAIRS[0], {"prompt": "x", "completions": "ab"}]}, "pair 1 needs 'completions'"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pseudo_label(MEMBERS, arguments.pop("pairs", PAIRS), **arguments)
