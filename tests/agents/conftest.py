"""Small models of every shape, built from their configs, and the spaces of a token environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import typer.testing
from gymnasium import spaces

VOCAB, POSITIONS = 50, 64
SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB,
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=POSITIONS,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
)
GROUPED = dict(SIZES, num_key_value_heads=2)
MIXTURE: dict[str, Any] = dict(intermediate_size_mlp=64, num_local_experts=2, interleave_moe_layer_step=2)


def build_config(shape: str) -> Any:
    import transformers as t

    configs: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: t.GPT2Config(
            vocab_size=VOCAB, n_positions=POSITIONS, n_layer=3, n_embd=32, n_head=4, bos_token_id=None, eos_token_id=1
        ),
        "llama": lambda: t.LlamaConfig(**GROUPED),
        "gpt_neox": lambda: t.GPTNeoXConfig(**SIZES),
        "qwen2": lambda: t.Qwen2Config(**GROUPED),
        "qwen3": lambda: t.Qwen3Config(**GROUPED, head_dim=8),
        "gemma": lambda: t.GemmaConfig(**GROUPED, head_dim=8),
        "gemma2": lambda: t.Gemma2Config(**GROUPED, head_dim=8, sliding_window=POSITIONS),
        "gemma3": lambda: t.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=POSITIONS),
        "opt": lambda: t.OPTConfig(
            vocab_size=VOCAB,
            num_hidden_layers=3,
            hidden_size=32,
            num_attention_heads=4,
            ffn_dim=64,
            max_position_embeddings=POSITIONS,
            word_embed_proj_dim=32,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        ),
        "phi3": lambda: t.Phi3Config(**GROUPED),
        "smollm3": lambda: t.SmolLM3Config(**GROUPED),
        "granite": lambda: t.GraniteConfig(
            **GROUPED, logits_scaling=8.0, embedding_multiplier=12.0, residual_multiplier=0.2, attention_multiplier=0.25
        ),
        "cohere": lambda: t.CohereConfig(**GROUPED),  # its logit_scale is 1 / 16
        "cohere2": lambda: t.Cohere2Config(**GROUPED, head_dim=8, logit_scale=0.25, sliding_window=POSITIONS),
        "llama4": lambda: t.Llama4TextConfig(**GROUPED, **MIXTURE, head_dim=8),
        # shapes whose cache cannot be slotted
        "mistral-sliding": lambda: t.MistralConfig(**GROUPED, sliding_window=8),
        "gemma3-sliding": lambda: t.Gemma3TextConfig(
            **GROUPED,
            head_dim=8,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        "llama4-chunked": lambda: t.Llama4TextConfig(**GROUPED, **MIXTURE, head_dim=8, attention_chunk_size=8),
        "gpt_neo-local": lambda: t.GPTNeoConfig(
            vocab_size=VOCAB,
            max_position_embeddings=POSITIONS,
            hidden_size=32,
            num_layers=3,
            num_heads=4,
            attention_types=[[["global", "local"], 1], [["global"], 1]],
            window_size=4,
            bos_token_id=None,
            eos_token_id=1,
        ),
        "bloom": lambda: t.BloomConfig(vocab_size=VOCAB, n_layer=3, hidden_size=32, n_head=4, eos_token_id=1),
        "mamba": lambda: t.MambaConfig(vocab_size=VOCAB, num_hidden_layers=3, hidden_size=32, eos_token_id=1),
    }
    return configs[shape]()


def build_model(shape: str, seed: int = 0) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(build_config(shape)).eval()


SLOTTED = (
    *("gpt2", "llama", "gpt_neox", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "opt"),
    *("phi3", "smollm3", "granite", "cohere", "cohere2", "llama4"),
)
PLAIN = ("mistral-sliding", "gemma3-sliding", "llama4-chunked", "gpt_neo-local", "bloom", "mamba")


@pytest.fixture(autouse=True, scope="session")
def _commands_are_built_once() -> Iterator[None]:
    """Build the command line once. Typer's runner builds it for each call: 30 ms, more than most calls take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", cache(typer.testing._get_command))
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_pictures() -> Iterator[None]:
    """Draw no curves: they take most of the time of so short a run, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        if "agents.training.report" in sys.modules:
            patch.setattr("agents.training.report.plot_curves", lambda *_, **__: None)
        yield


@pytest.fixture
def small_model() -> Callable[..., Any]:
    return build_model


@pytest.fixture
def token_spaces() -> Callable[..., tuple[spaces.Dict, spaces.Discrete]]:
    def build(length: int, vocab: int = VOCAB) -> tuple[spaces.Dict, spaces.Discrete]:
        observation = spaces.Dict(
            input_ids=spaces.Box(0, vocab - 1, (length,), np.int64), attention_mask=spaces.Box(0, 1, (length,), np.int8)
        )
        return observation, spaces.Discrete(vocab)

    return build


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "slotted_shape" in metafunc.fixturenames:
        metafunc.parametrize("slotted_shape", SLOTTED)
    if "plain_shape" in metafunc.fixturenames:
        metafunc.parametrize("plain_shape", PLAIN)
    if "any_shape" in metafunc.fixturenames:
        metafunc.parametrize("any_shape", SLOTTED + PLAIN)
