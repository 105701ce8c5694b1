from __future__ import annotations

from typing import Any

import pytest

from rlhf_envs.feedback import KINDS, Settings, check_value

GOOD: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    ("pairwise", 2, {"choice": 1, "strength": 3}, {"choice": 1, "strength": 3}),
    ("pairwise", 2, {"choice": 0}, {"choice": 0, "strength": 1}),
    ("pairwise", 2, {"choice": None}, {"choice": None, "strength": 0}),
    ("pairwise", 2, {"choice": None, "strength": 2}, {"choice": None, "strength": 0}),
    ("ranking", 3, {"order": [2, 0, 1]}, {"order": [2, 0, 1]}),
    ("rating", 1, {"rating": 5}, {"rating": 5}),
    ("thumbs", 1, {"up": False}, {"up": False}),
    ("correction", 1, {"text": " better\n"}, {"text": " better\n"}),
    ("flags", 1, {"harms": []}, {"harms": []}),
    ("flags", 1, {"harms": ["violence", "hate", "hate"]}, {"harms": ["hate", "violence"]}),
]
BAD: list[tuple[str, int, Any, str]] = [
    ("pairwise", 2, {"choice": 2}, "choice: Input should be less than or equal to 1"),
    ("pairwise", 2, {"choice": True}, "choice: Input should be a valid integer"),
    ("pairwise", 2, {"choice": 0, "strength": 4}, "strength: Input should be less than or equal to 3"),
    ("pairwise", 2, {"choice": 0, "strength": 0}, "strength must be 1, 2 or 3 where a completion is chosen"),
    ("pairwise", 2, {}, "choice: Field required"),
    ("pairwise", 2, {"choice": 0, "side": 1}, "side: Extra inputs are not permitted"),
    ("pairwise", 2, "left", "Input should be a valid dictionary"),
    ("ranking", 3, {"order": [0, 1]}, r"order: must hold each of 0 to 2 once, best first, got \[0, 1\]"),
    ("ranking", 3, {"order": [0, 1, 1]}, "order: must hold each of 0 to 2 once"),
    ("rating", 1, {"rating": 0}, "rating: must be from 1 to 5, got 0"),
    ("rating", 1, {"rating": 3.5}, "rating: Input should be a valid integer"),
    ("thumbs", 1, {"up": 1}, "up: Input should be a valid boolean"),
    ("correction", 1, {"text": " \n"}, "text: must not be blank"),
    ("flags", 1, {"harms": ["rude"]}, r"harms: unknown categories rude; there are hate, harassment"),
    ("pairwise", 3, {"choice": 0}, "an item of kind 'pairwise' must have 2 completions, got 3"),
    ("essay", 1, {}, "unknown kind 'essay'; there are pairwise, ranking, rating, thumbs, correction, flags"),
]


@pytest.mark.parametrize(("kind", "n", "value", "normal"), GOOD)
def test_answers_take_their_one_form(kind: str, n: int, value: dict[str, Any], normal: dict[str, Any]) -> None:
    assert check_value(kind, value, n) == normal
    assert check_value(kind, normal, n) == normal


@pytest.mark.parametrize(("kind", "n", "value", "message"), BAD)
def test_a_wrong_answer_is_refused_by_the_name_of_its_field(kind: str, n: int, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_value(kind, value, n)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_skipped(kind: str) -> None:
    assert check_value(kind, None, 2 if kind in ("pairwise", "ranking") else 1) is None


def test_scale_and_harms_are_those_of_the_settings() -> None:
    settings = Settings(scale=(-3, 3), harms=("spam",))
    assert check_value("rating", {"rating": -3}, 1, settings) == {"rating": -3}
    assert check_value("flags", {"harms": ["spam"]}, 1, settings) == {"harms": ["spam"]}


def test_a_long_wrong_answer_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"characters\) is not an answer") as caught:
        check_value("rating", {"rating": "x" * 1_000_000}, 1)
    assert len(str(caught.value)) < 500
