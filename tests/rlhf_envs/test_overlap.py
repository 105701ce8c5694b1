from __future__ import annotations

import random

import pytest

from rlhf_envs.overlap import content_words, longest_common, overlap_words, rouge_l

WORDS = ["fast", "Library", "for", "the", "image-viewer", "GTK+", "3", "files,", "files"]


def test_rouge_l_of_english_is_that_of_the_package_rouge_score() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng = random.Random(0)
    for _ in range(200):
        first, second = (" ".join(rng.choices(WORDS, k=rng.randrange(9))) for _ in range(2))
        assert rouge_l(first, second) == pytest.approx(scorer.score(first, second)["rougeL"].fmeasure), (first, second)


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [("abcbdab", "bdcaba", 4), ("", "abc", 0), ("abc", "abc", 3), ("aaa", "a", 1), ("abc", "cba", 1)],
)
def test_the_longest_common_subsequence_keeps_the_order(first: str, second: str, length: int) -> None:
    assert longest_common(first, second) == longest_common(second, first) == length


def test_rouge_l_by_hand() -> None:
    assert rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(0.75)  # Lin, 2004
    assert rouge_l("a b", "") == rouge_l("", "") == 0.0


def test_chinese_is_compared_by_characters_and_other_alphabets_by_words() -> None:
    assert overlap_words("图像 viewer。") == ["图", "像", "viewer"]
    assert rouge_l("查看图像", "查看图片") == pytest.approx(0.75)
    assert overlap_words("Élan vital, Привет!") == ["élan", "vital", "привет"]


def test_content_words_are_without_function_words() -> None:
    assert content_words("The viewer of an Image") == ["viewer", "image"]
