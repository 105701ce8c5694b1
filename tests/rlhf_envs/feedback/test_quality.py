"""Who answers at random or by the side: found soon, and hardly ever said of anybody else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from rlhf_envs.feedback import Judgement
from rlhf_envs.feedback.quality import CANNOT_TELL, check_annotators, describe_checks, find_suspects

Answer = Callable[[float, tuple[int, int], np.random.Generator], dict[str, Any] | None]


def honest(lead: float, sides: tuple[int, int], draw: np.random.Generator) -> dict[str, Any]:
    noisy = lead + 0.2 * draw.logistic()
    return {"choice": int(noisy < 0), "strength": 1 + int(abs(noisy) > 1) + int(abs(noisy) > 2)}


def at_random(lead: float, sides: tuple[int, int], draw: np.random.Generator) -> dict[str, Any]:
    return {"choice": int(draw.integers(2)), "strength": int(draw.integers(1, 4))}


def left(lead: float, sides: tuple[int, int], draw: np.random.Generator) -> dict[str, Any]:
    return {"choice": sides[0], "strength": 1}


def leaning(lead: float, sides: tuple[int, int], draw: np.random.Generator) -> dict[str, Any]:
    """Sees the text shown first in a slightly better light, as people do."""
    return honest(lead + (0.2 if sides[0] == 0 else -0.2), sides, draw)


def judged(crowd: dict[str, Answer], n: int, seed: int, seconds: float = 1.0) -> list[Judgement]:
    draw = np.random.default_rng(seed)
    rows = []
    for item in range(n):
        lead = float(draw.normal(0, 1.4))
        for name, answer in crowd.items():
            sides = (0, 1) if draw.integers(2) else (1, 0)
            value = answer(lead, sides, draw)
            rows.append((item, name, value, sides))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Judgement(id=i, item_id=item, annotator=name, kind="pairwise", value=value, seconds=seconds, comment="",
                  sides=sides, key=str(i), created=now)
        for i, (item, name, value, sides) in enumerate(rows, start=1)
    ]  # fmt: skip


def test_bad_annotators_are_found_within_thirty_items_and_nobody_else() -> None:
    crowd: dict[str, Answer] = {"r1": at_random, "r2": at_random, "left": left}
    crowd |= {f"h{k}": honest for k in range(7)}
    for seed in range(10):
        suspects = find_suspects(judged(crowd, 30, seed))
        assert suspects is not None
        assert set(suspects) == {"r1", "r2", "left"}
        assert suspects["left"].by_side and not suspects["r1"].by_side


def test_answers_without_strength_tell_too() -> None:
    """All the same strength, and only five annotators: what the others say takes few values."""
    crowd: dict[str, Answer] = {"click": lambda lead, sides, draw: {"choice": int(draw.integers(2)), "strength": 1}}
    crowd |= {f"h{k}": lambda lead, sides, draw: {"choice": int(lead < 0), "strength": 1} for k in range(4)}
    for seed in range(10):
        assert list(find_suspects(judged(crowd, 30, seed)) or {}) == ["click"]


def test_a_crowd_of_honest_annotators_is_left_alone_at_every_look() -> None:
    crowd: dict[str, Answer] = {f"h{k}": honest if k % 2 else leaning for k in range(6)}
    for seed in range(5):
        everything = judged(crowd, 60, seed)
        for look in range(5, 61, 5):
            assert not find_suspects(everything[: look * len(crowd)])


def test_the_share_at_random_has_an_interval_that_covers_it() -> None:
    def half(lead: float, sides: tuple[int, int], draw: np.random.Generator) -> dict[str, Any]:
        return (at_random if draw.random() < 0.5 else honest)(lead, sides, draw)

    crowd: dict[str, Answer] = {"half": half} | {f"h{k}": honest for k in range(6)}
    covered = 0
    for seed in range(20):
        check = check_annotators(judged(crowd, 60, seed))["half"]
        low, high = check.random_interval
        assert low <= check.random_share <= high
        covered += low <= 0.5 <= high
    assert covered >= 16


def test_the_side_test_is_the_exact_binomial_one_times_the_annotators() -> None:
    crowd: dict[str, Answer] = {"left": left, "h1": honest, "h2": honest}
    check = check_annotators(judged(crowd, 12, 0))["left"]
    assert (check.left, check.sided) == (12, 12)
    assert check.left_p == pytest.approx(3 * 2 * 0.5**12)
    evidence = -math.log(13) - 12 * math.log(0.6)  # a uniform prior over the share, against 0.6
    assert check.side_evidence == pytest.approx(evidence)


def test_a_wrong_answer_that_is_sure_counts_more() -> None:
    crowd: dict[str, Answer] = {f"h{k}": honest for k in range(5)}
    base = judged(crowd, 120, 1)
    agreed = {j.item_id for j in base if sum(k.value == {"choice": 0, "strength": 3} for k in base
                                            if k.item_id == j.item_id) == 5}  # fmt: skip
    few = sorted(agreed)[:4]
    assert len(few) == 4

    def evidence(strength: int) -> float:
        changed = [
            Judgement(**{**vars(j), "value": {"choice": 1, "strength": strength}})
            if j.item_id in few and j.annotator == "h0"
            else j
            for j in base
        ]
        first = sorted(changed, key=lambda j: (j.item_id not in few, j.id))  # so that nothing is evidence before them
        numbered = [Judgement(**{**vars(j), "id": i}) for i, j in enumerate(first)]
        return check_annotators(numbered)["h0"].random_evidence

    assert evidence(3) > evidence(1)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("rating", lambda k, draw: {"rating": int(np.clip(k % 5 + draw.integers(-1, 2), 0, 4)) + 1}, {"rating": 3}),
        ("thumbs", lambda k, draw: {"up": bool(k % 2)}, {"up": True}),
        ("ranking", lambda k, draw: {"order": [[0, 1, 2], [2, 1, 0]][k % 2]}, {"order": [1, 0, 2]}),
    ],
)
def test_who_always_says_the_same_is_found_in_other_kinds_too(
    kind: str, right: Callable[[int, np.random.Generator], dict[str, Any]], wrong: dict[str, Any]
) -> None:
    draw, now = np.random.default_rng(0), datetime(2026, 1, 1, tzinfo=UTC)
    rows = [(k, name) for k in range(40) for name in ("same", "a", "b", "c", "d")]
    given = [
        Judgement(id=i, item_id=k, annotator=name, kind=kind, value=wrong if name == "same" else right(k, draw),
                  seconds=1.0, comment="", sides=tuple(draw.permutation(3).tolist()) if kind == "ranking" else (0,),
                  key=str(i), created=now)
        for i, (k, name) in enumerate(rows, start=1)
    ]  # fmt: skip
    assert list(find_suspects(given) or {}) == ["same"]


def test_where_nobody_shares_items_it_cannot_be_told() -> None:
    alone = [
        Judgement(**{**vars(j), "item_id": j.id}) for j in judged({"a": honest, "b": at_random, "c": honest}, 30, 0)
    ]
    assert find_suspects(alone) is None
    assert describe_checks(check_annotators(alone)) == [f"who clicks at random {CANNOT_TELL}"]
    assert find_suspects([]) is None


def test_skips_and_corrections_say_nothing() -> None:
    few: Sequence[Judgement] = judged({"a": lambda *_: None, "b": honest}, 3, 0)
    assert check_annotators(few).keys() == {"b"}
