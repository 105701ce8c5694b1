"""Sliding windows and soft caps in GGUF: the file says them, reads back alike, and what it cannot say is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoTokenizer, Gemma3TextConfig, MistralConfig, Qwen2Config

from agents.serving.export.gguf.writing import check_family, load_gguf, write_gguf
from benchmarks.llama_cpp_check import TEXTS
from tests.agents.serving.llama.files import GEMMAS, small_model, trained_pieces

SLIDING, FULL = "sliding_attention", "full_attention"


def fields(file: Path, architecture: str, *names: str) -> dict[str, Any]:
    reader = gguf.GGUFReader(file)
    found = {name: reader.get_field(f"{architecture}.{name}") for name in names}
    return {name: field.contents() for name, field in found.items() if field is not None}


@pytest.mark.parametrize(("shape", "options"), GEMMAS)
def test_a_gemma_loads_back_with_its_windows(shape: str, options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = trained_pieces("gemma")
    model = small_model(shape, len(tokenizer), **options)
    assert write_gguf(model, tokenizer, tmp_path, None, "small") == []
    back = load_gguf(tmp_path)
    ids = torch.arange(5, 105)[None]
    with torch.no_grad():
        assert torch.allclose(back(ids).logits, model(ids).logits, atol=1e-5)
    for file in [*tmp_path.glob("tokenizer*")]:
        file.unlink()
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in (*TEXTS, "  the film<eos>  the\n\n"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"], text


def test_the_file_says_the_windows_and_their_layers(tmp_path: Path) -> None:
    names = ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base", "rope.freq_base_swa")
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    tokenizer = trained_pieces("gemma")
    expected = {
        "gemma2": {"attention.sliding_window": 24, "rope.freq_base": 10000.0}
        | dict(zip(caps, (50.0, 30.0), strict=True)),
        "gemma3": {
            "attention.sliding_window": 24,
            "attention.sliding_window_pattern": 3,
            "rope.freq_base": 1_000_000.0,
            "rope.freq_base_swa": 10000.0,
        },
    }
    for shape, options in (("gemma2", {}), ("gemma3", {"layer_types": [SLIDING, SLIDING, FULL]})):
        write_gguf(small_model(shape, len(tokenizer), **options), tokenizer, tmp_path, None, "small")
        assert fields(tmp_path / "model.gguf", shape, *names, *caps) == expected[shape]


@pytest.mark.parametrize(
    ("shape", "options", "named"),
    [
        ("gemma2", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar=16"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping=None"),
        ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping=None"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("gemma3", {"layer_types": [FULL, SLIDING, SLIDING]}, "sliding windows in the layers"),
        ("gemma3", {"use_bidirectional_attention": True}, "attention in both directions"),
        ("gemma3", {"attention_bias": True}, "biases in attention"),
        ("gemma2", {"hidden_activation": "silu"}, "the activation 'silu'"),
        (
            "gemma2",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
            "positions of the type 'dynamic'",
        ),
    ],
)
def test_attention_that_gguf_cannot_say_is_refused(shape: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"has {named}.*which its GGUF cannot say: take --to hf"):
        check_family(small_model(shape, 320, **options).config)


def test_windows_of_families_whose_windows_llama_cpp_lacks_are_refused() -> None:
    sliding = Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=2, num_hidden_layers=4)
    for config in (MistralConfig(sliding_window=64), sliding):
        with pytest.raises(ValueError, match="a sliding window of 64, which its GGUF cannot say: take --to hf"):
            check_family(config)
    check_family(MistralConfig(sliding_window=4096, max_position_embeddings=4096))  # which reaches everywhere
    check_family(Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=4, num_hidden_layers=4))
    check_family(Gemma3TextConfig())
