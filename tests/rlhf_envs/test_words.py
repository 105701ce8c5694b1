"""Words and sentences by script, and every reward over words on Chinese."""

from __future__ import annotations

import pytest

from rlhf_envs.rewards import DistinctNgrams, LengthPenalty, Novelty, RepetitionPenalty, SelfBleuDiversity
from rlhf_envs.rewards.shaping import Repetition
from rlhf_envs.words import join_sentences, join_words, ngrams, split_sentences, split_words

STUCK, FRESH = "很好看很好看很好看很好看很好看很好看", "这部电影的情节紧凑演员表现也十分出色"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" it's a café,  naïve. ", ["it's", "a", "café,", "naïve."]),
        ("很好看！", ["很", "好", "看", "！"]),
        ("iPhone很好用 ok", ["iPhone", "很", "好", "用", "ok"]),
        ("すごい", ["す", "ご", "い"]),
        ("ดีมาก", ["ดี", "ม", "า", "ก"]),
        ("ﾊﾟｿｺﾝ", ["ﾊﾟ", "ｿ", "ｺ", "ﾝ"]),
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("ལྷ་ས་ཡིན།", ["ལྷ་", "ས་", "ཡིན།"]),
        ("ꆈꌠ", ["ꆈ", "ꌠ"]),
        ("정말 좋아요", ["정말", "좋아요"]),
        ("", []),
    ],
)
def test_words_are_split_by_the_script(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@pytest.mark.parametrize(
    "text", ["it's a café", "很好看！", "iPhone很好用", "すごい", "ดีมาก", "ལྷ་ས་ཡིན།", "정말 좋아요", ""]
)
def test_words_join_to_the_text_they_were_split_from(text: str) -> None:
    assert join_words(split_words(text)) == text


def test_ngrams_are_of_words() -> None:
    assert ngrams("很好看", 2) == [("很", "好"), ("好", "看")]
    assert ngrams("a b", 3) == []


@pytest.mark.parametrize(
    "sentences",
    [
        ["这部电影很好。", "我喜欢它！", "真的？！", "“是的。”", "他说。"],
        ["It was good.", "Was it?", "Yes!", "3.5 stars"],
        ["很好。", "Good."],
    ],
)
def test_sentences_join_to_the_text_they_were_split_from(sentences: list[str]) -> None:
    text = sentences[0]
    for sentence in sentences[1:]:
        text = join_sentences(text, sentence)
    assert split_sentences(text) == sentences


def test_a_stuck_record_costs_the_same_in_chinese_as_in_english() -> None:
    english = " ".join(["very", "nice", "film"] * 6)
    penalties = RepetitionPenalty().score([""] * 3, [STUCK, english, FRESH])
    assert penalties[0] == penalties[1] == pytest.approx(3 / 17 - 1)
    assert penalties[2] == 0
    assert Repetition().score([""], [STUCK])[0] == pytest.approx(14 / 17)


def test_diversity_tells_chinese_texts_apart() -> None:
    assert Novelty(memory=0).score([""] * 2, [FRESH, STUCK]).tolist() == [1, 1]
    assert Novelty(memory=0).score([""] * 2, [STUCK, STUCK]).tolist() == [0, 0]
    assert DistinctNgrams(memory=0).score([""] * 2, [FRESH, STUCK]) == pytest.approx([1, 3 / 17])
    assert SelfBleuDiversity(memory=0).score([""] * 3, [FRESH, STUCK, STUCK]) == pytest.approx([1, 0, 0], abs=0.2)


def test_length_is_counted_in_words_of_the_script() -> None:
    assert LengthPenalty(longest=2).score([""] * 2, ["很好看", "good film ok"]).tolist() == [-1, -1]
