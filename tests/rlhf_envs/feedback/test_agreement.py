"""Agreement against published figures and hand counts."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from itertools import permutations

import pytest

from rlhf_envs.feedback import Judgement
from rlhf_envs.feedback.agreement import alpha_by_kind, coded, krippendorff_alpha, peer_agreement

# Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, section C: 4 observers, 12 units, values missing.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


@pytest.mark.parametrize(
    ("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_is_the_published_one(level: str, alpha: float) -> None:
    votes = [(u, f"rater {r}", v) for r, row in enumerate(PUBLISHED) for u, v in enumerate(row) if v is not None]
    assert krippendorff_alpha(votes, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_is_undefined_without_shared_units_or_without_difference() -> None:
    assert math.isnan(krippendorff_alpha([]))
    assert math.isnan(krippendorff_alpha([(1, "a", 1.0), (2, "b", 2.0)]))
    assert math.isnan(krippendorff_alpha([(1, "a", 1.0), (1, "b", 1.0)]))
    with pytest.raises(ValueError, match="unknown level 'cardinal'"):
        krippendorff_alpha([], "cardinal")


def alpha_by_definition(units: list[list[float]], level: str) -> float:
    """1 - observed / expected disagreement over all ordered pairs, one by one."""
    units = [unit for unit in units if len(unit) > 1]
    every = sorted(value for unit in units for value in unit)

    def difference(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "ordinal":
            low, high = sorted((a, b))
            ends = every.count(low) + every.count(high)
            return (sum(low <= value <= high for value in every) - ends / 2) ** 2 if a != b else 0.0
        return ((a - b) / (a + b)) ** 2 if level == "ratio" and a != b else (a - b) ** 2

    def mean(values: list[float]) -> float:
        return sum(difference(a, b) for a, b in permutations(values, 2)) / (len(values) - 1) / len(every)

    return 1 - sum(map(mean, units)) / mean(every)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval", "ratio"])
def test_alpha_is_the_one_of_its_definition(level: str) -> None:
    draw = random.Random(0)
    for _ in range(10):
        units = [[float(draw.randint(1, 5)) for _ in range(draw.randint(1, 5))] for _ in range(12)]
        votes = [(u, f"rater {r}", value) for u, unit in enumerate(units) for r, value in enumerate(unit)]
        assert krippendorff_alpha(votes, level) == pytest.approx(alpha_by_definition(units, level))


def judgement(item: int, annotator: str, kind: str, value: dict[str, object] | None) -> Judgement:
    return Judgement(0, item, annotator, kind, value, 1.0, "", (0, 1), "", datetime.now(UTC))


def test_every_kind_becomes_numbers() -> None:
    assert coded("pairwise", {"choice": 0, "strength": 3}) == [("choice", -1.0)]
    assert coded("pairwise", {"choice": None, "strength": 0}) == [("choice", 0.0)]
    assert coded("ranking", {"order": [2, 0, 1]}) == [((0, 1), 1.0), ((0, 2), 0.0), ((1, 2), 0.0)]
    assert coded("correction", {"text": "x"}) == coded("rating", None) == []


def test_flag_not_set_is_a_vote() -> None:
    same = [judgement(i, who, "flags", {"harms": ["hate"] if i else []}) for i in range(2) for who in "ab"]
    assert alpha_by_kind(same) == {"flags": 1.0}
    torn = [judgement(i, who, "flags", {"harms": ["hate"] if who == "a" else []}) for i in range(2) for who in "ab"]
    assert alpha_by_kind(torn)["flags"] < 0


def test_peer_agreement_is_the_share_of_the_possible_difference() -> None:
    ratings = {"a": [1, 5], "b": [1, 5], "c": [5, 5]}
    given = [judgement(i, who, "rating", {"rating": r}) for who, rs in ratings.items() for i, r in enumerate(rs)]
    # a and b: the same twice (1, 1), with c apart once by the whole scale (0) and once the same (1).
    assert peer_agreement(given) == {"a": (0.75, 4), "b": (0.75, 4), "c": (0.5, 4)}
    assert peer_agreement(given[:2]) == {}
