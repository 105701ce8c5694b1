"""Pictures in data: what is read and what is refused, their splits, and the observations they become."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from rlhf_envs.datasets import asked_key, load_rows
from rlhf_envs.datasets.pictures import as_data_uri, check_picture, open_picture, picture_key
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.models import load_tokenizer
from rlhf_envs.tasks.prompts import Prompts

RED = (200, 30, 30)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def solid(mode: str, size: tuple[int, int] = (30, 20)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("L", "BMP")]
)
def test_pictures_of_every_mode_and_format_become_rgb(mode: str, kind: str) -> None:
    picture = open_picture(encoded(solid(mode), kind), "row 0")
    assert (picture.mode, picture.size) == ("RGB", (30, 20))
    expected = solid(mode).convert("RGB").getpixel((15, 10))
    assert np.allclose(picture.getpixel((15, 10)), expected, atol=12)


def test_transparent_parts_are_white_and_16_bits_keep_their_brightness() -> None:
    assert open_picture(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "row 0").getpixel((0, 0)) == (255, 255, 255)
    gray = Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16))
    assert open_picture(encoded(gray), "row 0").getpixel((0, 0)) == (128, 128, 128)


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert open_picture(encoded(solid("RGB"), "JPEG", exif=exif), "row 0").size == (20, 30)


def test_a_path_bytes_a_data_uri_and_datasets_form_are_one_picture(tmp_path: Path) -> None:
    content = encoded(solid("RGB"))
    path = tmp_path / "red.png"
    path.write_bytes(content)
    for image in (path, str(path), content, as_data_uri(content), {"bytes": content, "path": None}, solid("RGB")):
        check_picture(image, "row 0")
        assert open_picture(image, "row 0").getpixel((0, 0)) == RED
    assert picture_key(content) == picture_key({"bytes": content}) != picture_key(encoded(solid("L")))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("missing.png", r"row 3: the image 'missing.png' is no file in "),
        (b"no picture", r"row 3: the image <10 bytes> cannot be read \(cannot identify image"),
        ("data:image/png;base64,%%%", "row 3: the image .* is no base64"),
        (7, "row 3: 'image' is 7: give a path"),
        ("", "row 3: 'image' is ''"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_place(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_picture(image, "row 3")


def test_a_damaged_picture_and_one_that_would_fill_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="row 3: the image <4000 bytes> cannot be read"):
        open_picture(encoded(noise)[:4000], "row 3")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"row 3: the image .* exceeds limit"):
        check_picture(encoded(noise), "row 3")


def test_rows_are_split_by_their_pictures_and_never_share_one() -> None:
    pictures = [encoded(Image.new("RGB", (8, 8), (i, 0, 0))) for i in range(40)]
    rows = [{"prompt": question, "image": image} for image in pictures for question in ("what?", "which color?")]
    parts = {split: load_rows(rows, split) for split in ("train", "validation", "test")}
    keys = {split: {picture_key(row["image"]) for row in part} for split, part in parts.items()}
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())) == 40
    assert all(keys.values())
    assert len({asked_key(row) for row in rows}) == 80


def words(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text.split())) for text in completions]


def make(rows: list[dict[str, Any]], **options: Any) -> EpisodeBatch:
    given = {"model": "tiny-vision", "validation_share": 0, "test_share": 0, "reward_fn": words, **options}
    return EpisodeBatch(2, Prompts, data=rows, **given)


def rows_of(*prompts: Any) -> list[dict[str, Any]]:
    colors = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    images = [Image.new("RGB", (100, 50), colors[i % 3]) for i in range(len(prompts))]
    return [{"prompt": prompt, "image": image} for prompt, image in zip(prompts, images, strict=True)]


def test_an_observation_has_its_episodes_picture_and_the_prompt_its_tokens() -> None:
    batch = make(rows_of("a color", "a shape"))
    for row in range(2):
        batch.start(row, 1 - row)
    obs = batch.observe()
    assert obs["pixel_values"].shape == (2, 1, 3, 48, 48)
    assert batch.observation_space["pixel_values"].contains(obs["pixel_values"][0])
    assert obs["pixel_values"][0, 0].mean(axis=(1, 2)).argmax() == 1  # green stands in row 1 of the data
    assert obs["pixel_values"][1, 0].mean(axis=(1, 2)).argmax() == 0
    assert (obs["input_ids"][:, :36] == batch.pictures.token_id).all()  # type: ignore[union-attr]
    assert batch.texts([0, 1])[0] == ["a shape", "a color"]
    before = obs["pixel_values"].copy()
    batch.step(np.array([5, 5]))
    assert np.array_equal(obs["pixel_values"], before)
    assert not batch.action_masks()[:, batch.pictures.token_id].any()  # type: ignore[union-attr]
    other = make(rows_of("a color", "a shape"))
    other.set_state(batch.get_state())
    assert np.array_equal(other.observe()["pixel_values"], before)


def test_a_long_prompt_loses_words_and_never_its_picture(caplog: pytest.LogCaptureFixture) -> None:
    batch = make(rows_of("many " * 60, "a shape"), max_prompt_tokens=44)
    batch.start(0, 0)
    assert (batch.ids[0] == batch.pictures.token_id).sum() == 36  # type: ignore[union-attr]
    assert batch.lengths[0] == 44
    assert "1 of 2 prompts are longer than max_prompt_tokens=44" in caplog.text
    with pytest.raises(ValueError, match="max_prompt_tokens=36, and a picture alone has 36 tokens"):
        make(rows_of("a shape", "a color"), max_prompt_tokens=36)


def test_a_prompt_says_where_its_picture_stands() -> None:
    batch = make(rows_of("see <image> here", "a shape"))
    batch.start(0, 0)
    at = np.flatnonzero(batch.ids[0] == batch.pictures.token_id)  # type: ignore[union-attr]
    tokenizer = load_tokenizer("tiny-vision")
    assert list(at) == list(range(at[0], at[0] + 36)) and tokenizer.decode(batch.ids[0, : at[0]]) == "see "
    with pytest.raises(ValueError, match="the prompt of row 0 has 2 image tokens"):
        make(rows_of("<image> and <image>", "a shape"))


def test_in_a_conversation_the_picture_stands_before_what_the_user_says_first() -> None:
    talk = [{"role": "system", "content": "be short"}, {"role": "user", "content": "which color?"}]
    batch = make(rows_of(talk, talk), chat_template="roles")
    batch.start(0, 0)
    mark = batch.pictures.token_id  # type: ignore[union-attr]
    text = load_tokenizer("tiny-vision").decode([i for i in batch.ids[0, : batch.lengths[0]] if i != mark])
    before = load_tokenizer("tiny-vision").decode(batch.ids[0, : np.flatnonzero(batch.ids[0] == mark)[0]])
    assert text.startswith(before) and text[len(before) :].strip().startswith("which color?")


def test_rows_without_a_picture_and_models_that_read_none_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has no 'image', and the model 'tiny-vision' reads a picture"):
        make([*rows_of("a color"), {"prompt": "a shape", "image": None}])
    with pytest.raises(ValueError, match="'image-qa' shows pictures, and the model 'tiny' reads none"):
        gym.make("rlhf/ImageQA-v0", model="tiny")
    with pytest.raises(ValueError, match="task 'prompts': row 1: the image <17 bytes> cannot be read"):
        make([*rows_of("a color"), {"prompt": "a shape", "image": b"no picture at all"}])


def test_a_text_model_takes_the_column_as_any_other() -> None:
    batch = make(rows_of("a color", "a shape"), model="tiny")
    assert batch.pictures is None and "pixel_values" not in batch.observation_space.spaces
