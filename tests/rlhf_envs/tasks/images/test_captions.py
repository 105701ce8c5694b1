"""Descriptions of pictures: what the reward and the metrics see in them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import pytest

from rlhf_envs.datasets.pictures import open_picture
from rlhf_envs.tasks.images.captions import ImageCaption, words_in_common
from rlhf_envs.testing import check_task
from scripts.datasets import emoji_pictures


def test_the_reward_is_the_f1_of_words() -> None:
    told = [" a red circle in the picture.", " red", "", " a red red red circle"]
    scores = words_in_common(told, [" a red circle in the picture."] * 4)
    assert scores == pytest.approx([1.0, 2 / 7, 0.0, 6 / 11])


def test_the_metrics_see_which_attributes_are_named_and_no_others() -> None:
    told = [" a red circle", " a red square circle triangle", " a blue circle", " red green circle"]
    found = ImageCaption().metrics([""] * 4, told, {"shape": ["circle"] * 4, "color": ["red"] * 4})
    assert found == {"shape": [1, 0, 1, 1], "color": [1, 1, 0, 0], "attributes": [1, 0, 0, 0]}
    own = ImageCaption().metrics([""] * 3, [" Red heart.", "heart red", ""], {"reference": ["red heart"] * 3})
    assert own == {"exact": [1, 0, 0]}


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


def test_each_character_of_chinese_is_a_word() -> None:
    assert words_in_common(["红心", "红桃", ""], ["红心"] * 3) == pytest.approx([1, 0.5, 0])


FONT = Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"  # it draws some emoji, in black
CODES = {
    "☀": {"en": ":sun:", "status": 2, "E": 0.6},
    "☎": {"en": ":telephone:", "status": 2, "E": 0.6},
    "☂": {"en": ":umbrella:", "status": 2, "E": 0.7},
    "☃": {"en": ":snowman:", "status": 2, "E": 16},
    "♥": {"en": ":red_heart:", "status": 3, "E": 0.6},
    "👍🏽": {"en": ":thumbs_up_medium_skin_tone:", "status": 2, "E": 1},
    "🦖": {"en": ":T-Rex:", "status": 2, "E": 5},
    "☀☎☂": {"en": ":three:", "status": 2, "E": 5},
    "☘": {"en": ":shamrock:", "status": 2, "E": 1},
}
CHINESE = {"☀": ":太阳:", "☎": ":电话:", "☂": ":雨_伞:", "☃": ":雪人:", "♥": ":红心:", "🦖": ":霸王龙:", "☀☎☂": ":三:"}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "emoji.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("emoji/unicode_codes/emoji.json", json.dumps(CODES))
        archive.writestr("emoji/unicode_codes/emoji_zh.json", json.dumps(CHINESE))
    return path


def test_names_are_english_and_chinese_without_tones_and_what_is_newer_than_the_font(wheel: Path) -> None:
    names = emoji_pictures.read_names(wheel)
    assert names == {
        "☀": ("sun", "太阳"), "☎": ("telephone", "电话"), "☂": ("umbrella", "雨 伞"), "🦖": ("T-Rex", "霸王龙"),
        "☀☎☂": ("three", "三"),
    }  # fmt: skip
    assert "☃" in emoji_pictures.read_names(wheel, newest=16)


def test_each_picture_has_two_names_in_one_split_and_what_the_font_lacks_is_counted(wheel: Path) -> None:
    rows, left_out = emoji_pictures.make_rows(emoji_pictures.read_names(wheel), emoji_pictures.load_font(FONT))
    assert left_out == 2  # the dinosaur, and three pictures that are one emoji
    assert {(row["emoji"], row["language"], row["reference"]) for row in rows} == {
        ("2600", "English", " sun"), ("2600", "Chinese", "太阳"), ("260e", "English", " telephone"),
        ("260e", "Chinese", "电话"), ("2602", "English", " umbrella"), ("2602", "Chinese", "雨 伞"),
    }  # fmt: skip
    assert len({(row["emoji"], row["split"]) for row in rows}) == 3
    pictures = {row["emoji"]: np.asarray(open_picture(row["image"], "row")) for row in rows}
    for picture in pictures.values():
        assert picture.shape == (72, 72, 3)
        dark = (picture < 128).all(axis=2)
        assert 0.03 < dark.mean() < 0.7
        assert (picture[::71, ::71] > 200).all()  # the corners
    rows = [{**row, "split": "train"} for row in rows]
    env: Any = gym.make("rlhf/ImageCaption-v0", data=rows)
    observation, _ = env.reset(seed=0)
    assert observation["pixel_values"].shape == (1, 3, 48, 48)
    assert env.unwrapped.rows[1]["prompt"] in emoji_pictures.PROMPTS.values()


def test_files_that_are_no_font_and_no_wheel_are_named(tmp_path: Path) -> None:
    path = tmp_path / "emoji.txt"
    path.write_text("no font", encoding="utf-8")
    with pytest.raises(ValueError, match=r"emoji\.txt: .*give NotoColorEmoji\.ttf"):
        emoji_pictures.load_font(path)
    with pytest.raises(ValueError, match=r"emoji\.txt is no wheel"):
        emoji_pictures.read_names(path)
