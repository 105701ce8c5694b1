"""Refusals are told by their phrases."""

from __future__ import annotations

import pytest

from agents.evaluation.refusals import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but no.",
        "I can\u2019t do that",
        "We are unable to share this.",
        "As an AI language model",
        "很抱歉，我无法回答",
        "不能提供",
        "作为一个AI语言模型",
    ],
)
def test_refusals_are_told_by_their_phrases(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't wait to see it!",
        "I could not stop watching",
        "I am sorry that I watched it",
        "the actor cannot sing",
        "Sure: here it is.",
        "无法无天的人",
        "好的，我帮助您看一看",
        "我提供以下建议",
        "word " * 50 + "I cannot say more",
        "",
    ],
)
def test_answers_are_none(text: str) -> None:
    assert not is_refusal(text)
