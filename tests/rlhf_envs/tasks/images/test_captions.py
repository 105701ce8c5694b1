"""Descriptions of pictures: what the reward and the metrics see in them."""

from __future__ import annotations

import pytest

from rlhf_envs.tasks.images.captions import ImageCaption, words_in_common
from rlhf_envs.testing import check_task


def test_the_reward_is_the_f1_of_words() -> None:
    told = [" a red circle in the picture.", " red", "", " a red red red circle"]
    scores = words_in_common(told, [" a red circle in the picture."] * 4)
    assert scores == pytest.approx([1.0, 2 / 7, 0.0, 6 / 11])


def test_the_metrics_see_which_attributes_are_named_and_no_others() -> None:
    told = [" a red circle", " a red square circle triangle", " a blue circle", " red green circle"]
    found = ImageCaption().metrics([""] * 4, told, {"shape": ["circle"] * 4, "color": ["red"] * 4})
    assert found == {"shape": [1, 0, 1, 1], "color": [1, 1, 0, 0], "attributes": [1, 0, 0, 0]}
    assert ImageCaption().metrics([""], ["red"], {"reference": ["red"]}) == {}


def test_there_is_a_row_per_picture_and_no_picture_in_two_splits() -> None:
    pictures = [
        {row["picture"] for row in ImageCaption().rows(split, None)} for split in ("train", "validation", "test")
    ]
    assert [len(found) for found in pictures] == [500, 80, 180] and len(set.union(*pictures)) == 760


def test_answers_that_know_nothing_do_not_beat_the_score() -> None:
    report = check_task("rlhf/ImageCaption-v0")
    assert report.references == 1.0 and max(report.scores.values()) < 0.95


def test_a_row_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 has no 'reference', the description to compare with"):
        ImageCaption().rows("test", [{"prompt": "what?", "image": "a.png"}])
