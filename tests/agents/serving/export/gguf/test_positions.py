"""Scaled positions in GGUF: what the file says gives the rotations of the model, by llama.cpp's own formula."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from agents.serving.export.gguf.writing import check_family, load_gguf, write_gguf
from tests.agents.serving.llama.files import ROPES, small_model, trained_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return trained_tokenizer()


def rotations(file: Path, architecture: str) -> tuple[np.ndarray, float]:
    """Return the speed of each pair and the scale of the rotations, as `rope_yarn` of ggml and llama-context.cpp do."""
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}

    def read(name: str, default: Any = None) -> Any:
        field = reader.get_field(f"{architecture}.rope.{name}")
        return default if field is None else field.contents()

    size, base = read("dimension_count"), read("freq_base")
    factors = tensors.get("rope_freqs.weight", np.ones(size // 2, np.float32))
    pairs = np.arange(size // 2)
    extrapolated = base ** (-2 * pairs / size) / factors
    factor = read("scaling.factor", 1.0)
    kept, scale = np.zeros(size // 2), 1.0
    if read("scaling.type") == "yarn":
        low, high = (
            size * math.log(read("scaling.original_context_length") / (beta * 2 * math.pi)) / (2 * math.log(base))
            for beta in (32, 1)  # it has names for others, and reads them in files of a few other architectures alone
        )
        low, high = max(0, math.floor(low)), min(size - 1, math.ceil(high))
        kept = 1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1)
        scale = (1 + 0.1 * math.log(factor)) * read("scaling.attn_factor", 1.0)
    return extrapolated / factor * (1 - kept) + extrapolated * kept, scale


@pytest.mark.parametrize(("shape", "kind"), ROPES)
def test_the_file_says_how_positions_are_scaled(
    shape: str, kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = small_model(shape, len(tokenizer), rope=ROPES[shape, kind])
    write_gguf(model, tokenizer, tmp_path, None, "small")
    speeds, scale = rotations(tmp_path / "model.gguf", "llama" if shape == "mistral" else shape)
    rotary = model.model.rotary_emb
    np.testing.assert_allclose(speeds, rotary.inv_freq.numpy(), rtol=1e-5)
    assert scale == pytest.approx(rotary.attention_scaling, rel=1e-6)
    plain = small_model(shape, len(tokenizer)).model.rotary_emb.inv_freq
    assert not torch.allclose(rotary.inv_freq, plain, rtol=0.1)
    ids = torch.arange(5, 105)[None]
    with torch.no_grad():
        assert torch.allclose(load_gguf(tmp_path)(ids).logits, model(ids).logits, atol=1e-5)


YARN = ROPES["qwen2", "yarn"]


@pytest.mark.parametrize(
    ("shape", "rope", "named"),
    [
        ("llama", {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, "'dynamic'"),
        ("qwen2", ROPES["llama", "llama3"], "'llama3'"),
        ("llama", YARN | {"truncate": False}, "'yarn' with truncate=False"),
        ("qwen3", YARN | {"beta_fast": 16.0}, "'yarn' with beta_fast=16.0"),
    ],
)
def test_positions_that_gguf_cannot_say_are_refused(shape: str, rope: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"has positions of the type {named}, which its GGUF cannot say: take --to hf"):
        check_family(small_model(shape, 320, rope=rope).config)
