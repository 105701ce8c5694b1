"""Questions about pictures: the data, the metrics, and wrong data of one's own."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.pictures import picture_key
from rlhf_envs.tasks.images.questions import ImageQA
from rlhf_envs.testing import check_task


def test_the_splits_share_no_picture_and_have_every_answer() -> None:
    parts = [load_rows("easy_vqa", split) for split in ("train", "validation", "test")]
    pictures = [{picture_key(row["image"]) for row in part} for part in parts]
    assert [len(found) for found in pictures] == [500, 80, 180] and len(set.union(*pictures)) == 760
    assert all({row["label"] for row in part} == {*ImageQA.labels} for part in parts)


def test_the_attributes_agree_with_the_answers() -> None:
    for row in load_rows("easy_vqa", "test"):
        if row["prompt"].startswith("what"):
            assert row["label"] in (row["shape"], row["color"])


def test_answers_that_know_nothing_do_not_beat_the_score() -> None:
    report = check_task("rlhf/ImageQA-v0")
    assert report.references == 1.0 and max(report.scores.values()) < 0.2


def test_accuracy_is_told_by_the_kind_of_question() -> None:
    task, labels = ImageQA(), ["circle", "triangle", "red", "yes", "no", "no"]
    columns = {"label": labels, "log_probs": [0.0] * 6}
    found = task.corpus_metrics([""] * 6, [" circle", " circle", " red", " yes", " yes", " yes"], columns)
    assert (found["accuracy_shape"], found["accuracy_color"]) == (0.5, 1.0)
    assert found["accuracy_yes_no"] == pytest.approx(1 / 3)
    assert np.isnan(task.corpus_metrics([""], ["x"], {"label": ["yes"], "log_probs": [0.0]})["accuracy_shape"])


def test_a_label_outside_the_words_is_refused() -> None:
    row = {"prompt": "what color is it?", "image": "a.png", "label": "pink"}
    with pytest.raises(ValueError, match="row 0 has the label 'pink', which is not among 'circle'"):
        ImageQA().rows("test", [row])
