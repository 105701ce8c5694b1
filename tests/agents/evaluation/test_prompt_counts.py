"""How many prompts were completed is said, and a warning comes where they are few."""

from __future__ import annotations

import logging

import pytest

from agents.evaluation.prompt_counts import count_different, count_prompts, warn_of_few
from rlhf_envs.datasets.splits import log_once


@pytest.mark.parametrize(
    ("n", "different", "said"),
    [
        (256, 256, "256 held-out prompts"),
        (256, 2, "256 completions of 2 held-out prompts"),
        (4, 1, "4 completions of 1 held-out prompt"),
    ],
)
def test_completions_are_counted_beside_prompts_where_these_come_again(n: int, different: int, said: str) -> None:
    assert count_prompts(n, different, "held-out prompts") == said


def test_prompts_that_differ_in_case_and_spaces_only_are_one() -> None:
    prompts = ["The film", "the  film", "a film", [{"role": "user", "content": "a film"}]]
    assert count_different({"prompt": prompt} for prompt in prompts) == 2
    pictures = [b"first", b"second", b"first", None]
    assert count_different({"prompt": "a film", "image": picture} for picture in pictures) == 3


def test_few_prompts_are_warned_about_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    log_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        warn_of_few(10, 256, "test")
        warn_of_few(4, 4, "test")
        assert not caplog.text, "enough of them, or each once"
        warn_of_few(2, 256, "test")
        warn_of_few(3, 256, "test", "brief")
    assert "the split 'test' of task 'brief' has 3 different prompts" in caplog.text
    assert "the split 'test' has 2 different prompts, each completed several times" in caplog.text
    for remedy in ("a column 'split'", "--env-kwargs test_share:0.25", "--test-split"):
        assert remedy in caplog.text
