"""Safetensors of 8 and 4 bits: small files that load as any model, with weights within half a step."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from agents.serving.export import packed
from agents.serving.export.run import export
from agents.serving.model_folder import prepare
from rlhf_envs.models import load_causal_lm

SIZES: dict[str, Any] = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
LLAMA: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
IDS = torch.arange(5, 29)[None]


def importorskip() -> None:
    """Skip a test without what reads packed weights."""
    pytest.importorskip("compressed_tensors")
    try:
        packed.check_packed()
    except ImportError as error:
        pytest.skip(str(error))


def fresh(shape: str, **changes: Any) -> Any:
    """Make a small model. GPT-2 has transposed layers and learned positions; "tied" shares head and embedding."""
    torch.manual_seed(0)
    if shape == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**SIZES, n_positions=64, n_embd=64, n_layer=1, n_head=2)).eval()
    tied = shape == "tied"
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **LLAMA, **changes}, tie_word_embeddings=tied)).eval()


@pytest.mark.parametrize("shape", ["gpt2", "tied", "untied"])
@pytest.mark.parametrize(("quantize", "bits", "integers"), [("int8", 8.5, 127), ("int4", 4.5, 7.5)])
def test_packed_weights_load_within_half_a_step_of_their_group(
    shape: str, quantize: str, bits: float, integers: float, tmp_path: Path
) -> None:
    importorskip()
    model = fresh(shape)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert len(packed.write_packed(model, tmp_path, quantize)) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert getattr(model.config, "quantization_config", None) is None
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    back, told = loaded
    assert not any(told.values()), told
    for name, tensor in back.state_dict().items():
        assert tensor.dtype == torch.float32
        if tensor.ndim < 2 or "wpe" in name:
            assert torch.equal(tensor, before[name]), name
            continue
        widest = before[name].unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True)
        clipped = 1 if quantize == "int8" else 5  # 4 bits clip the largest if that makes the squared error smaller
        bound = (clipped * 0.575 * widest / integers).expand(-1, -1, 32).flatten(1)
        assert ((tensor - before[name]).abs() <= bound + 1e-7).all(), name
        assert (tensor - before[name]).square().mean() < (0.575 * widest / integers).square().mean() / 2, name
    stored = load_file(tmp_path / "model.safetensors")
    matrices = [name for name in stored if name.endswith("weight_packed")]
    assert sum(4 * stored[name].numel() for name in matrices) * 8 // int(bits) == sum(
        tensor.numel() for name, tensor in before.items() if tensor.ndim == 2 and "wpe" not in name
    ) - (before["lm_head.weight"].numel() if shape != "untied" else 0)
    assert (back.lm_head.weight is back.get_input_embeddings().weight) is (shape != "untied")


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_what_loads_is_a_plain_model_that_can_be_saved_again(quantize: str, tmp_path: Path) -> None:
    importorskip()
    packed.write_packed(fresh("gpt2"), tmp_path / "small", quantize)
    model = load_causal_lm(str(tmp_path / "small"))
    model.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    with torch.no_grad():
        assert torch.equal(load_causal_lm(str(tmp_path / "again"))(IDS).logits, model(IDS).logits)


def test_rows_that_no_group_divides_stay_float16_and_are_named(tmp_path: Path) -> None:
    importorskip()
    model = fresh("untied", intermediate_size=80)
    notes = packed.write_packed(model, tmp_path, "int8")
    assert notes[1].startswith("1 tensors stay float16")
    assert "model.layers.0.mlp.down_proj.weight" in notes[1]
    back = load_causal_lm(str(tmp_path)).state_dict()
    down = model.model.layers[0].mlp.down_proj.weight
    assert torch.equal(back["model.layers.0.mlp.down_proj.weight"], down.half().float())


def test_int8_safetensors_of_tiny_keep_its_perplexity_below_0_3_of_its_size_and_can_be_served(tmp_path: Path) -> None:
    importorskip()
    done = export("tiny", tmp_path / "out", "merged", quantize="int8", n_episodes=16)
    assert done.after.perplexity.mean < 1.02 * done.before.perplexity.mean
    assert done.after.size < 0.3 * done.before.size
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".bin", ".pt", ".pkl", ".pth")]
    assert "compressed-tensors" in (tmp_path / "out" / "README.md").read_text()
    served = prepare(str(tmp_path / "out"), tmp_path / "served")
    assert json.loads((served.folder / "config.json").read_text())["quantization_config"]["dequantize"] is True


@pytest.mark.parametrize("value", [float("nan"), 1e9])
def test_weights_that_no_scale_can_say_are_refused(value: float, tmp_path: Path) -> None:
    importorskip()
    model = fresh("untied")
    model.lm_head.weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"lm_head\.weight are not finite, or too large"):
        packed.write_packed(model, tmp_path, "int8")


def test_a_missing_reader_is_named_with_the_command_when_writing_and_when_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlhf-envs\[export\]'"):
        export("tiny", tmp_path / "out", "merged", quantize="int8", n_episodes=2)
    assert not (tmp_path / "out").exists()
    fresh("gpt2").save_pretrained(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlhf-envs\[export\]'"):
        prepare(str(tmp_path / "small"), tmp_path / "served")


def test_an_old_transformers_is_named_and_other_models_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "find_spec", lambda _: object())
    monkeypatch.setattr("transformers.__version__", "5.3.0")
    with pytest.raises(ImportError, match=r"5\.23 or newer, and 5\.3\.0 is here"):
        packed.check_packed()
    packed.check_packed(SimpleNamespace())
    packed.check_packed(SimpleNamespace(quantization_config={"quant_method": "gptq"}))
