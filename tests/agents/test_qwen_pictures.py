"""Models with Qwen2-VL's positions and processor, from an environment to a bundle: a tiny one made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import agents
from agents.training.sft import fine_tune
from rlhf_envs.models import load_tokenizer
from rlhf_envs.models.vision import load_processor
from tests.agents.test_pictures import check_that_a_bundle_goes_on, variety

COLORS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "black": (0, 0, 0)}
MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
OPTIONS: dict[str, Any] = dict(validation_share=0, test_share=0, max_prompt_tokens=24, max_new_tokens=3)


def picture(color: tuple[int, int, int], size: tuple[int, int] = (48, 32)) -> Image.Image:
    image = Image.new("RGB", size, color)
    image.putpixel((size[0] - 1, 0), (255, 255, 255))
    return image


def rows(n: int = 8) -> list[dict[str, Any]]:
    names = [*COLORS] * n
    return [{"prompt": "which color?", "label": name, "image": picture(COLORS[name])} for name in names[:n]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder as Qwen2-VL's: its weights, tokenizer and preprocessor_config.json."""
    import transformers as t

    folder = tmp_path_factory.mktemp("qwen2-vl")
    tokenizer = t.AutoTokenizer.from_pretrained(load_tokenizer("tiny-vision").name_or_path)
    tokenizer.add_tokens([*MARKS], special_tokens=True)
    tokenizer.save_pretrained(folder)
    tokens: dict[str, Any] = dict(
        zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            tokenizer.convert_tokens_to_ids([*MARKS]),
            strict=True,
        )
    )
    sizes: dict[str, Any] = dict(patch_size=8, temporal_patch_size=2)
    size: dict[str, Any] = {"shortest_edge": 256, "longest_edge": 4096}
    reads: dict[str, Any] = dict(
        image_processor_type="Qwen2VLImageProcessor", processor_class="Qwen2VLProcessor", merge_size=2, size=size
    )
    (folder / "preprocessor_config.json").write_text(json.dumps({**reads, **sizes}))
    encoder: dict[str, Any] = dict(
        embed_dim=16, hidden_size=32, mlp_ratio=2, depth=2, num_heads=2, spatial_merge_size=2, **sizes
    )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]}
    heads: dict[str, Any] = dict(
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rope_parameters=rope
    )
    ends: dict[str, Any] = dict(
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    text: dict[str, Any] = dict(
        vocab_size=len(tokenizer), num_hidden_layers=2, hidden_size=32, intermediate_size=64, **heads, **ends
    )
    torch.manual_seed(0)
    config = t.Qwen2VLConfig(text_config=text, vision_config=encoder, tie_word_embeddings=False, **tokens)
    t.Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def make_env(model: str, n_envs: int = 4, **kwargs: Any) -> Any:
    given = {"model": model, "data": rows(), "reward_fn": variety, **OPTIONS, **kwargs}
    return agents.make_vec_env("rlhf/Prompts-v0", n_envs, seed=0, **given)


def make_agent(model: str, name: str = "ppo", **kwargs: Any) -> Any:
    given = {"n_steps": 6, "batch_size": 24, "n_epochs": 1, "learning_rate": 1e-3, "seed": 0, **kwargs}
    return agents.make(name, make_env(model), **given)


def test_a_prompt_has_a_token_per_square_of_patches_between_the_models_own_marks(model: str) -> None:
    env = make_env(model, 1)
    obs, tokenizer = env.reset(), load_tokenizer(model)
    assert obs["pixel_values"].shape == (1, 1, 3, 32, 48)
    marks: Any = tokenizer.convert_tokens_to_ids([*MARKS])
    start, end, mark, _ = marks
    assert obs["input_ids"][0, :8].tolist() == [start, *[mark] * 6, end]
    written = [{**row, "prompt": "see <|vision_start|><|image_pad|><|vision_end|>now"} for row in rows()]
    ids = make_env(model, 1, data=written).reset()["input_ids"][0].tolist()
    assert ids.count(start) == ids.count(end) == 1 and ids.count(mark) == 6 and ids[0] != start
    loose = [{**row, "prompt": "see <|image_pad|> now"} for row in rows()]
    ids = make_env(model, 1, data=loose).reset()["input_ids"][0].tolist()
    assert ids[(at := ids.index(start)) : at + 8] == [start, *[mark] * 6, end]


def test_the_model_is_given_what_its_processor_makes(model: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    obs = make_env(model, 1, data=[{**rows()[0], "image": noise}]).reset()
    trunk = make_agent(model).policy.language_model.trunk
    reader = load_processor(model).image_processor
    made = reader(images=[noise], return_tensors="np")
    assert made["image_grid_thw"].tolist() == [[1, 4, 6]]
    patches = trunk.picture_grid.patches(torch.from_numpy(obs["pixel_values"][:, 0])).numpy()[0]
    assert float(np.abs(patches - made["pixel_values"]).max()) < 1e-6
    normal = (np.asarray(noise) / 255 - reader.image_mean) / reader.image_std
    assert np.allclose(obs["pixel_values"][0, 0], normal.transpose(2, 0, 1), atol=1e-5), "pixels where they were"


@pytest.mark.parametrize("train", ["full", "lora"])
def test_an_update_starts_at_a_ratio_of_1_and_moves_the_model(model: str, train: str) -> None:
    kwargs: dict[str, Any] = {"policy_kwargs": {"train": train}}
    agent = make_agent(model, learning_rate=1e-9, **kwargs).learn(24)
    assert abs(agent.logger.name_to_value["train/approx_kl"]) < 1e-6
    agent = make_agent(model, **kwargs)
    before = {name: p.detach().clone() for name, p in agent.policy.named_parameters() if p.requires_grad}
    agent.learn(24)
    assert agent.rollout_buffer.rewards.std() > 0.01, "rewards, and not their rounding, are learned from"
    moved = [name for name, p in agent.policy.named_parameters() if name in before and not torch.equal(p, before[name])]
    assert any(".visual." in name for name in moved) == (train == "full") and any("layers." in name for name in moved)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_bundle_goes_on_to_the_last_digit(model: str, train: str, tmp_path: Path) -> None:
    agent = make_agent(model, policy_kwargs={"train": train}).learn(24)
    check_that_a_bundle_goes_on(agent, make_env(model), tmp_path / "bundle")


@pytest.mark.parametrize("lora", [False, True])
def test_fine_tuning_learns_from_the_picture_and_its_folder_trains_on(model: str, lora: bool, tmp_path: Path) -> None:
    data = [{**row, "completion": f" {row['label']}", "split": "train"} for row in rows(4)]
    data += [{**row, "image": row["image"].transpose(0), "split": "validation"} for row in data]
    start = str(tmp_path / "start")
    options: dict[str, Any] = dict(model=model, batch_size=4, learning_rate=2e-2, lora=lora)
    found = fine_tune(data, start, epochs=30, **options)
    # Blind, the first of two tokens would cost log(4) nats; without learning, both cost about log(3077).
    assert found["loss"] < (7.8 if lora else 0.9 * np.log(4) / 2)
    policy = make_agent(start).policy
    assert policy.language_model.trunk.picture_grid.width == 3
    assert (policy.language_model.adapters is not None) == lora


def test_pictures_of_several_sizes_are_refused_with_the_row(model: str) -> None:
    data = rows()
    data[3]["image"] = picture(COLORS["red"], (32, 32))
    with pytest.raises(
        ValueError, match=r"row 3: .* of a picture of 32 x 32 .* that of row 0: give pictures of one size"
    ):
        make_env(model, data=data)


def test_q_learners_say_who_reads_pictures(model: str) -> None:
    with pytest.raises(ValueError, match=r"\(dqn, qrdqn, ilql\) read no pictures: take one with TokenPolicy"):
        agents.make("dqn", make_env(model))
