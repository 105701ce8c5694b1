"""ONNX: the logits of the model, of whole texts and token by token, and weights that are stored once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.serving.export.onnx import writing as exporter
from agents.serving.export.run import export
from rlhf_envs.models import load_causal_lm
from tests.agents.conftest import build_config, build_model
from tests.rlhf_envs.small_models import byte_level, save_model

ROWS = [{"prompt": f"film {number}", "split": "test"} for number in range(8)]
FEW: dict[str, Any] = dict(
    env_id="rlhf/Prompts-v0",
    env_kwargs={"data": ROWS, "reward": "repetition", "max_new_tokens": 6},
    n_episodes=8,
    split="test",
)


def importorskip() -> Any:
    """Return the module onnx, or skip a test without it and what it needs."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pytest.importorskip("torch", exporter.TORCH)
    return pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama, whose head is its embedding."""
    place = tmp_path_factory.mktemp("models") / "small"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 1, "initializer_range": 0.2}
    save_model(place, byte_level(), tie_word_embeddings=True, **sizes)
    return place


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_onnx_computes_the_logits_also_of_padded_texts(folder: Path, tmp_path: Path, quantize: str | None) -> None:
    onnx = importorskip()
    done = export(str(folder), tmp_path / "out", "onnx", quantize=quantize, **FEW)
    read, ids = exporter.onnx_reader(tmp_path / "out"), torch.arange(5, 29).repeat(2, 1)
    model = load_causal_lm(str(folder))
    mask = torch.ones_like(ids)
    mask[0, :5], mask[1, -5:] = 0, 0  # padded on the left, and on the right
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, position_ids=positions).logits
    difference = (read(ids, mask) - expected)[mask.bool()]
    bound = {None: 1e-5, "int8": 0.05, "int4": 0.4}[quantize]
    assert difference.std() < bound * expected[mask.bool()].std()
    if quantize != "int4":
        assert done.after.perplexity.mean == pytest.approx(
            done.before.perplexity.mean, rel=1e-4 if quantize is None else 0.02
        )
    assert b'File "' not in (tmp_path / "out" / "model.onnx").read_bytes(), "torch notes the lines of the code"
    tensors = onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
    stored = sum(np.prod(tensor.dims) for tensor in tensors if not tensor.name.endswith("_scales"))
    matrices = sum(p.numel() for p in model.parameters())
    assert stored == pytest.approx(matrices / (2 if quantize == "int4" else 1), rel=0.02)  # two of 4 bits in a byte
    kinds = {t.data_type for t in tensors if np.prod(t.dims) > 1000 and not t.name.endswith("_scales")}
    assert kinds == {1 if quantize is None else 2}  # float32; 8 bits


def test_the_loop_on_the_card_writes_tokens(folder: Path, tmp_path: Path) -> None:
    importorskip()
    export(str(folder), tmp_path / "out", "onnx", **FEW)
    example = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(example.replace("this/folder", str(tmp_path / "out")), names)
    assert names["ids"].shape == (1, 1)
    assert names["mask"].shape[1] == 3 + 20  # the three bytes of "..."
    assert all(cache.shape[2] == 3 + 19 for cache in names["past"].values())


SLOW = ["qwen3", "opt", "phi3", "gemma", "gpt_neox", "mistral-sliding", "gpt_neo-local"]


@pytest.mark.parametrize(
    "shape", ["gpt2", "llama", "gemma3-sliding", *(pytest.param(shape, marks=pytest.mark.slow) for shape in SLOW)]
)
def test_the_cache_gives_token_by_token_what_the_whole_text_gives(shape: str, tmp_path: Path) -> None:
    importorskip()
    import onnxruntime

    model = build_model(shape)
    assert exporter.write_onnx(model, tmp_path, None) == []
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    assert names[:4] == ["input_ids", "attention_mask", "past_key_values.0.key", "past_key_values.0.value"]
    assert [found.name for found in session.get_outputs()][:3] == ["logits", "present.0.key", "present.0.value"]
    ids, mask = torch.arange(5, 17).repeat(2, 1), torch.ones(2, 12, dtype=torch.long)
    mask[0, :3] = 0
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        expected = model(ids, attention_mask=mask, position_ids=positions).logits.numpy()
    past = {i.name: np.zeros((2, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs()[2:]}
    found = []
    for start, end in ((0, 5), (5, 6), (6, 9), (9, 12)):  # a text, a token, and several at once
        given = {"input_ids": ids[:, start:end].numpy(), "attention_mask": mask[:, :end].numpy()}
        logits, *cache = session.run(None, given | past)
        past = dict(zip(past, cache, strict=True))
        found.append(logits)
    keep = mask.bool().numpy()
    np.testing.assert_allclose(np.concatenate(found, axis=1)[keep], expected[keep], atol=1e-4)


def test_int8_onnx_of_tiny_keeps_its_perplexity_below_0_3_of_its_size(tmp_path: Path) -> None:
    importorskip()
    done = export("tiny", tmp_path / "out", "onnx", quantize="int8", n_episodes=16)
    assert done.after.perplexity.mean < 1.02 * done.before.perplexity.mean
    assert done.after.size < 0.3 * done.before.size


def test_rows_that_no_block_divides_are_named(tmp_path: Path) -> None:
    importorskip()
    save_model(tmp_path / "odd", byte_level(), hidden_size=24)
    notes = exporter.write_onnx(load_causal_lm(str(tmp_path / "odd")), tmp_path, "int8")
    assert notes == ["The embedding stays float32, as its rows are no multiples of 16."]
    assert torch.isfinite(exporter.onnx_reader(tmp_path)(torch.arange(5, 9)[None], torch.ones(1, 4))).all()


@pytest.mark.slow
def test_linear_layers_of_flat_rows_are_quantised_too(tmp_path: Path) -> None:
    onnx = importorskip()
    exporter.write_onnx(build_model("opt"), tmp_path, "int8")  # torch writes its feed-forward layers as Gemm
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert {node.op_type for node in graph.node}.isdisjoint({"Gemm"})
    wide = [tensor.name for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.data_type == 1]
    assert all("embed_positions" in name or name.endswith("_scales") for name in wide)


@pytest.mark.parametrize(("shape", "kind"), [("llama4-chunked", "chunked_attention"), ("mamba", "linear_attention")])
def test_layers_without_a_mask_or_a_cache_are_refused(shape: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"has layers of {kind}, which its ONNX cannot say: take --to hf"):
        exporter.check_onnx_config(build_config(shape))
    exporter.check_onnx_config(build_config("gemma3-sliding"))


@pytest.mark.parametrize(
    ("shape", "cause"),
    [("bloom", "too many values to unpack"), pytest.param("llama4-chunked", "complex", marks=pytest.mark.slow)],
)
def test_the_cause_of_what_torch_cannot_write_is_named(shape: str, cause: str, tmp_path: Path) -> None:
    importorskip()
    model = build_model(shape)
    if shape != "bloom":  # chunks are refused before
        model.config.layer_types = ["full_attention"] * model.config.num_hidden_layers
    with pytest.raises(
        ValueError, match=rf"^this \w+ cannot be written as ONNX \([^\n]*{cause}[^\n]*\); take --to hf$"
    ):
        exporter.write_onnx(model, tmp_path, None)


def test_a_missing_package_is_named_with_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlhf-envs\[onnx\]'"):
        export(str(folder), tmp_path / "out", "onnx", **FEW)


@pytest.mark.parametrize("version", ["2.8.0+cpu", "2.12.1"])
def test_a_torch_that_is_too_old_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(exporter, "find_spec", lambda _: True)
    monkeypatch.setattr(torch, "__version__", "2.14.1+cu130")
    exporter.check_onnx()
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match=rf"not {re.escape(version)}: pip install 'torch>=2.13'"):
        exporter.check_onnx()
