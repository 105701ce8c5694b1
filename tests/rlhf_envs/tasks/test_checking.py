from __future__ import annotations

import random
from typing import Any

import pytest

from rlhf_envs.tasks.checking import change_one, check_task, shift
from rlhf_envs.testing import check_task as public


def test_a_sound_task_is_beaten_by_no_answer_that_knows_nothing() -> None:
    report = check_task("rlhf/SpamFilter-v0", n=200)
    assert public is check_task
    assert report.beaten_by == []
    assert report.references > 0.9
    assert report.scores["shuffled"] < 0
    assert "right answers" in str(report)


def pays_anything(completions: list[str], **columns: Any) -> list[float]:
    return [1.0] * len(completions)


def pays_the_right_letters(completions: list[str], reference: list[str], **columns: Any) -> list[float]:
    return [float({*said} >= {*right}) for said, right in zip(completions, reference, strict=True)]


def test_a_score_that_pays_any_text_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"score as much as right ones[^|]*\n  '': 1.000 \(beats it\)"):
        check_task("rlhf/SpamFilter-v0", reward=pays_anything)


def test_a_score_that_pays_near_misses_is_marked() -> None:
    report = check_task("rlhf/SpamFilter-v0", reward=pays_the_right_letters, strict=False)
    assert report.beaten_by == ["near miss"]


def test_a_task_without_right_answers_is_named() -> None:
    with pytest.raises(ValueError, match="'token-bandit' has no column 'reference'"):
        check_task("rlhf/TokenBandit-v0")


def test_shuffled_answers_are_all_wrong_and_near_misses_differ() -> None:
    answers = ["a", "b", "a", "c"]
    assert all(one != other for one, other in zip(answers, shift(answers), strict=True))
    rng = random.Random(0)
    for answer in ("12 apples", "two words", "x", "-7"):
        assert change_one(answer, rng) != answer
