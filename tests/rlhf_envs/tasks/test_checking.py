from __future__ import annotations

import random
from typing import Any

import pytest

from rlhf_envs.registration import ENVIRONMENTS
from rlhf_envs.tasks.checking import change_one, check_task, shift
from rlhf_envs.testing import check_task as public
from tests.rlhf_envs.extras import with_extras


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


@pytest.mark.parametrize(("any_text", "beaten"), [(0.96, True), (0.94, False)])
def test_scores_within_a_twentieth_of_the_right_answers_beat_a_task(any_text: float, beaten: bool) -> None:
    def pays(completions: list[str], reference: list[str], **columns: Any) -> list[float]:
        pairs = zip(completions, reference, strict=True)
        return [1.0 if said == right else any_text if said else 0.0 for said, right in pairs]

    report = check_task("rlhf/SpamFilter-v0", n=8, reward=pays, strict=False)
    assert ("'yes'" in report.beaten_by) == beaten


def test_a_task_without_right_answers_is_named() -> None:
    with pytest.raises(ValueError, match="'token-bandit' has no column 'reference'"):
        check_task("rlhf/TokenBandit-v0")


def test_shuffled_answers_are_all_wrong_and_near_misses_differ() -> None:
    answers = ["a", "b", "a", "c"]
    assert all(one != other for one, other in zip(answers, shift(answers), strict=True))
    rng = random.Random(0)
    for answer in ("12 apples", "two words", "x", "-7", " ham", "ham\n") * 20:
        assert change_one(answer, rng).strip() != answer.strip()


WITHOUT_ANSWERS = {
    "rlhf/Tutor-v0": "a hint is judged by what a student does with it",
    "rlhf/IncreasingNumbers-v0": "the answers are tokens, and many are right",
    "rlhf/TokenBandit-v0": "the answers are tokens, and many are right",
    "rlhf/DialogBandit-v0": "the answers are tokens, and many are right",
}
# The references are real reviews, half of them bad ones, and the reward is for praise.
OTHER_REWARD = (
    "rlhf/Sentiment-v0",
    "rlhf/HumanSentiment-v0",
    "rlhf/Prompts-v0",
    "rlhf/Mixture-v0",
    "rlhf/Dialogue-v0",  # a reference is one of many things to say; "i disagree." may come as a likely answer too
)


@pytest.mark.parametrize("env_id", with_extras(ENVIRONMENTS))
def test_every_task_of_ours_is_sound_or_a_stated_exception(env_id: str) -> None:
    if env_id in WITHOUT_ANSWERS:
        with pytest.raises(ValueError, match="has no column 'reference'"):
            check_task(env_id, n=16)
        return
    report = check_task(env_id, n=16, strict=False)
    assert bool(report.beaten_by) == (env_id in OTHER_REWARD), str(report)
