"""The embedded vision-language model: what it sees, and what is there before it has been trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_envs.models import tiny_vision
from rlhf_envs.models.tiny_vision import TRAINED, build_tiny_vision, learns, save_trained, tiny_vision_folder
from rlhf_envs.models.vision import load_processor, load_vision_model
from rlhf_envs.pictures import Pictures
from rlhf_envs.tasks.images.captions import ImageCaption


def test_it_names_what_test_pictures_show() -> None:
    rows = ImageCaption().rows("test", None)[:40]
    pictures, model = Pictures("tiny-vision", rows, "easy-vqa"), load_vision_model("tiny-vision")
    pixels = torch.cat([torch.tensor(pictures[i]) for i in range(len(rows))])
    ids = torch.tensor([pictures.tokens] * len(rows))
    found = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=8, do_sample=False)[:, ids.shape[1] :]
    texts = load_processor("tiny-vision").batch_decode(found, skip_special_tokens=True)
    right = [text == f" a {row['color']} {row['shape']}" for text, row in zip(texts, rows, strict=True)]
    assert sum(right) >= 0.85 * len(rows)


def test_what_the_script_trains_is_small_and_the_rest_is_tiny() -> None:
    model, fresh = build_tiny_vision(TRAINED), build_tiny_vision()
    same = {name: torch.equal(a, b) for (name, a), b in zip(model.named_parameters(), fresh.parameters(), strict=True)}
    assert all(same[name] for name in same if not learns(name))
    assert not all(same[name] for name in same if learns(name))
    assert TRAINED.stat().st_size < 1.1e6


def test_what_was_learned_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = build_tiny_vision()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if learns(name) and weight.ndim == 2:  # of a rank that the file keeps
                weight += torch.randn(len(weight), 8) @ torch.randn(8, weight.shape[1]) / 100
            elif learns(name):
                weight += torch.randn_like(weight) / 100
    save_trained(model, tmp_path / "trained.safetensors")
    read = dict(build_tiny_vision(tmp_path / "trained.safetensors", seed=1).named_parameters())
    for name, weight in model.named_parameters():
        assert torch.allclose(read[name], weight, atol=1e-3, rtol=1e-3), name


@pytest.mark.parametrize("lost", ["h.2.attn.c_attn.weight.right", "ln_f.bias"])
def test_a_file_that_lacks_weights_is_refused(lost: str, tmp_path: Path) -> None:
    weights = load_file(TRAINED)
    del weights[f"model.language_model.{lost}"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"has not what tiny-vision learns, see 'model\.language_model"):
        build_tiny_vision(tmp_path / "part.safetensors")


def test_untrained_it_is_made_fresh_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RLHF_ENVS_CACHE", str(tmp_path))
    monkeypatch.setattr(tiny_vision, "TRAINED", tmp_path / "missing.safetensors")
    tiny_vision._weights_hash.cache_clear()
    try:
        folder = tiny_vision_folder()
    finally:
        tiny_vision._weights_hash.cache_clear()
    assert "'tiny-vision' has not been trained" in caplog.text
    assert (folder / "processor_config.json").is_file() and folder.parent == tmp_path
