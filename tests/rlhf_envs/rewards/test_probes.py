"""The probes tell a reward that reads the text from one that is fooled."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rlhf_envs.rewards.probes import PRAISE, PROBES, praise_list, probe_reward, repeat_words, shuffle_words

PROMPTS = ["it was", "i saw it"]
COMPLETIONS = [" a film about a dog and a house.", " last week, and left early because it rained"]


def test_a_reward_that_counts_praise_is_fooled_by_the_list_only() -> None:
    def praise(prompts: list[str], completions: list[str]) -> list[float]:
        return [float(sum(word in PRAISE for word in text.split())) for text in completions]

    report = probe_reward(praise, PROMPTS, COMPLETIONS)
    preferred = {result.probe: result.preferred for result in report.results}
    assert list(preferred) == list(PROBES)
    assert preferred.pop("praise list") == 0
    assert set(preferred.values()) == {0.5}, "ties count half"


def test_a_reward_of_length_is_fooled_by_saying_it_twice() -> None:
    def length(prompts: list[str], completions: list[str]) -> list[float]:
        return [float(len(text.split())) for text in completions]

    report = probe_reward(length, PROMPTS, [*COMPLETIONS[:1], COMPLETIONS[1] + " a lot"])
    results = {result.probe: result for result in report.results}
    assert (results["said twice"].preferred, results["cut in half"].preferred, results["empty"].preferred) == (0, 1, 1)
    assert results["said twice"].change == pytest.approx(9 / 1)  # 8 and 10 words more: the scores are 8 and 10
    assert report.length_correlation == pytest.approx(1)


def test_a_probe_that_changes_nothing_is_left_out() -> None:
    report = probe_reward(lambda prompts, completions: [0.0] * len(completions), [""], ["word"])
    assert {"words shuffled", "prompt echoed"}.isdisjoint(result.probe for result in report.results)
    assert np.isnan(report.length_correlation)


def test_spoiled_texts_are_what_they_say() -> None:
    generator = random.Random(0)
    shuffled = shuffle_words(" one two three four", generator)
    assert shuffled != " one two three four" and shuffled.startswith(" ")
    assert sorted(shuffled.split()) == ["four", "one", "three", "two"]
    assert shuffle_words("no no", generator) == "no no"
    listed = praise_list(" a b c d e", generator).split()
    assert len(set(listed)) == 5 and set(listed) <= set(PRAISE)
    assert len(praise_list("word " * 40, generator).split()) == 40
    repeated = repeat_words("one two three four five six", generator).split()
    assert len(repeated) == 6 and len(set(repeated)) <= 4


CHINESE = ["这部电影的情节紧凑，演员表现也十分出色。", "故事很慢但是结尾让人难忘"]


def test_chinese_texts_are_spoiled_as_chinese() -> None:
    generator = random.Random(0)
    text = CHINESE[0]
    shuffled = shuffle_words(text, generator)
    assert shuffled != text and sorted(shuffled) == sorted(text)
    assert praise_list(text, generator).isascii() is False and len(praise_list(text, generator)) == len(text)
    assert len(set(repeat_words(text, generator))) <= 4
    assert PROBES["said twice"]("", text, generator) == 2 * text
    assert PROBES["cut in half"]("", text, generator) == text[:10]
    assert PROBES["prompt echoed"]("我觉得", text, generator) == "我觉得"


def test_a_reward_of_length_shows_in_every_script() -> None:
    def length(prompts: list[str], completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    report = probe_reward(length, ["我觉得"] * 2, CHINESE)
    assert [result.probe for result in report.results] == list(PROBES)
    assert {result.probe: result.preferred for result in report.results}["cut in half"] == 1
    assert report.length_correlation == pytest.approx(1)
