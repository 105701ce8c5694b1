"""Exported GGUF files in llama.cpp itself: tokens, log-probabilities and greedy completions are the model's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("llama_cpp", reason="llama.cpp itself needs llama-cpp-python, which is compiled")
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from agents.serving.export.gguf.tokens import Texts
from agents.serving.export.gguf.writing import load_gguf, write_gguf
from benchmarks.llama_cpp_check import TEXTS, compare, greedy_ids, log_probs, open_gguf, read_ids
from tests.agents.serving.llama.files import (
    GEMMAS,
    KINDS,
    PIECES,
    ROPES,
    small_model,
    trained_pieces,
    trained_tokenizer,
)

MESSAGES = [{"role": "system", "content": "Say it briefly."}, {"role": "user", "content": " 你好, 12 <|im_end|>?"}]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return trained_tokenizer()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [False, True])
def test_llama_cpp_reads_the_tokens_that_the_tokenizer_reads(kind: str, bos: bool, tmp_path: Path) -> None:
    tokenizer = trained_tokenizer(kind, bos)
    assert write_gguf(small_model("llama", len(tokenizer)), tokenizer, tmp_path, None, "small") == []
    llama = open_gguf(tmp_path / "model.gguf")
    for text in (*TEXTS, "<|im_start|>user\nHi<|im_end|> and  <|endoftext|>on", "🎬", "12345678", "is it? IT'S"):
        assert read_ids(llama, text) == tokenizer(text)["input_ids"], text
        assert llama.detokenize(read_ids(llama, text), special=True).decode() == tokenizer.decode(
            tokenizer(text)["input_ids"]
        )
    assert (llama.token_bos(), llama.token_eos()) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.mark.parametrize("kind", PIECES)
def test_llama_cpp_joins_what_the_tokenizer_merges(kind: str, tmp_path: Path) -> None:
    tokenizer = trained_pieces(kind)
    model = small_model("llama", len(tokenizer))
    write_gguf(model, tokenizer, tmp_path, None, "small")
    llama, texts = open_gguf(tmp_path / "model.gguf"), Texts(tokenizer)
    end = tokenizer.eos_token
    for text in (*TEXTS, " " * 9, "\n\n\n", f"the film{end} was", "<0x0A>", "12345678", "is it? IT'S"):
        if (kind == "first" and end in text) or (kind in ("first", "always") and text == " "):
            continue  # llama.cpp puts a space there that cannot be left out, as the export says
        assert read_ids(llama, texts(text)) == tokenizer(text)["input_ids"], text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        shown = llama.detokenize(ids, special=True).decode()
        # transformers leaves out the space that it puts before a text.
        assert (shown if kind in ("never", "gemma") else shown.removeprefix(" ")) == tokenizer.decode(ids)
    greedy = compare(llama, model, tokenizer, n_greedy=8).greedy
    assert greedy[0] == greedy[1]


@pytest.mark.parametrize("kind", ["always", "first"])
def test_a_chat_of_llama_2_in_llama_cpp_is_the_chat_of_the_template(kind: str, tmp_path: Path) -> None:
    template = "{% for m in messages %}<s> [{{ m.role }}] {{ m.content }}</s>{% endfor %}<s> [assistant]"
    tokenizer = trained_pieces(kind, template, add_bos_token=False)
    model = small_model("llama", len(tokenizer))
    write_gguf(model, tokenizer, tmp_path, None, "small")
    llama = open_gguf(tmp_path / "model.gguf")
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    expected = llama.detokenize(greedy_ids(llama, ids, 8)).decode(errors="ignore")
    made = llama.create_chat_completion(MESSAGES, max_tokens=8, temperature=0.0, repeat_penalty=1.0)
    assert made["usage"]["prompt_tokens"] == len(ids)
    assert made["choices"][0]["message"]["content"] == expected


@pytest.mark.parametrize(("shape", "options"), GEMMAS)
def test_llama_cpp_computes_windows_as_the_model_does(shape: str, options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = trained_pieces("gemma")
    model = small_model(shape, len(tokenizer), **options)
    write_gguf(model, tokenizer, tmp_path, None, "small")
    llama = open_gguf(tmp_path / "model.gguf", exact_cache=True)
    ids = (tokenizer(TEXTS[0] + TEXTS[2])["input_ids"] * 8)[:200]
    wide = copy.deepcopy(model)
    wide.config.sliding_window = 256
    with torch.no_grad():
        found = [each(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy() for each in (model, wide)]
    theirs = log_probs(llama, ids)
    assert np.abs(theirs - found[0]).max() < 5e-3  # ggml looks GELU up in a table of float16
    windowed = "sliding_attention" in model.config.layer_types
    assert (np.abs(theirs - found[1]).max() > 0.05) == windowed, "the windows matter"
    greedy = compare(llama, model, tokenizer, n_greedy=32).greedy
    assert greedy[0] == greedy[1]


@pytest.mark.parametrize("shape", ["gpt2", "llama", "qwen2", "qwen3", "mistral"])
def test_llama_cpp_computes_the_log_probabilities_of_the_model(
    shape: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = small_model(shape, len(tokenizer))
    write_gguf(model, tokenizer, tmp_path, None, "small")
    llama = open_gguf(tmp_path / "model.gguf", exact_cache=True)
    ids = tokenizer(TEXTS[0] + TEXTS[2])["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()
    bound = 5e-3 if shape == "gpt2" else 1e-3  # ggml looks GPT-2's GELU up in a table of float16
    assert np.abs(log_probs(llama, ids) - expected).max() < bound
    greedy = compare(llama, model, tokenizer, n_greedy=8).greedy
    assert greedy[0] == greedy[1]
    assert llama.n_ctx() == 256, "the number of positions is in the file"


@pytest.mark.parametrize(("shape", "kind"), ROPES)
def test_llama_cpp_scales_positions_as_the_model_does(
    shape: str, kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = small_model(shape, len(tokenizer), rope=ROPES[shape, kind])
    write_gguf(model, tokenizer, tmp_path, None, "small")
    ids = (tokenizer(TEXTS[0] + TEXTS[2])["input_ids"] * 8)[:200]
    with torch.no_grad():
        found = [each(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy() for each in (model, plain(model))]
    theirs = log_probs(open_gguf(tmp_path / "model.gguf", exact_cache=True), ids)
    assert np.abs(theirs - found[0]).max() < 1e-3
    assert np.abs(theirs - found[1]).max() > 0.05, "the scaling matters"


def plain(model: Any) -> Any:
    """Return a model with the same weights whose positions are not scaled."""
    shape = {"rope_type": "default", "rope_theta": model.config.rope_parameters["rope_theta"]}
    config = copy.deepcopy(model.config)
    config.rope_parameters = shape
    other = AutoModelForCausalLM.from_config(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def round_inputs(model: torch.nn.Module, quantize: str) -> None:
    """Round what goes into each product, as ggml does: to float16, or in blocks of 32 to 8 bits."""

    def rounded(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if quantize == "float16":
            return (given[0].half().float(),)
        blocks = given[0].unflatten(-1, (-1, 32))
        step = blocks.abs().amax(-1, keepdim=True) / 127
        steps = (blocks / step.clamp(min=1e-30)).round()
        return ((steps * step.half().float()).flatten(-2),)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            module.register_forward_pre_hook(rounded)


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("quantize", ["float16", "int8", "int4"])
def test_quantised_files_are_computed_as_they_read_back(
    shape: str, quantize: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Beside the weights, llama.cpp rounds what they are multiplied with: that is all that parts it from the file."""
    write_gguf(small_model(shape, len(tokenizer)), tokenizer, tmp_path, quantize, "small")
    llama, model = open_gguf(tmp_path / "model.gguf", exact_cache=True), load_gguf(tmp_path)
    apart = compare(llama, model, tokenizer, n_greedy=1)
    round_inputs(model, quantize)
    found = compare(llama, model, tokenizer, n_greedy=1)
    assert found.nats[1] < (2e-3 if quantize == "float16" else 0.02)
    # Of those with GELU, which ggml looks up in a table of float16, the rest is as large.
    assert shape != "llama" or quantize == "float16" or found.nats[1] < apart.nats[1] / 2
    assert apart.nats[1] < 0.1 and apart.perplexities[1] == pytest.approx(apart.perplexities[0], rel=0.02)


def test_a_chat_in_llama_cpp_is_the_chat_of_the_template(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = small_model("llama", len(tokenizer))
    write_gguf(model, tokenizer, tmp_path, None, "small")
    llama = open_gguf(tmp_path / "model.gguf")
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    expected = llama.detokenize(greedy_ids(llama, ids, 8)).decode(errors="ignore")
    made = llama.create_chat_completion(MESSAGES, max_tokens=8, temperature=0.0, repeat_penalty=1.0)
    assert made["usage"]["prompt_tokens"] == len(ids)
    assert made["choices"][0]["message"]["content"] == expected


def test_llama_cpp_ends_where_the_model_ends(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    import llama_cpp

    model = small_model("llama", len(tokenizer))
    model.generation_config.eos_token_id = [3, 300, 301]
    assert write_gguf(model, tokenizer, tmp_path, None, "small") == []
    llama = open_gguf(tmp_path / "model.gguf")
    ends = {i for i in range(len(tokenizer)) if llama_cpp.llama_vocab_is_eog(llama._model.vocab, i)}
    assert ends == {0, 3, 300, 301}, "0 is <|endoftext|>, which it knows by its name"
    llama.close()
    model.generation_config.eos_token_id = [3, 300, 301, 302]
    (note,) = write_gguf(model, tokenizer, tmp_path, None, "small")
    assert "[302]" in note


def test_a_tokenizer_without_merges_is_told(tmp_path: Path) -> None:
    from tests.rlhf_envs.small_models import byte_level

    tokenizer = byte_level()
    (note,) = write_gguf(small_model("llama", len(tokenizer)), tokenizer, tmp_path, None, "small")
    assert "llama.cpp reads no tokenizer without merges" in note
    with pytest.raises(ValueError, match="Failed to load model"):
        open_gguf(tmp_path / "model.gguf")
