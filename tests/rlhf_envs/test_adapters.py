"""Folders of LoRA adapters: what they need of their base, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Llama4Config,
    Llama4ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
)

from rlhf_envs.models import has_tokenizer, load_causal_lm, load_config, load_with_adapters, model_ends
from rlhf_envs.models.adapters import (
    adapter_base,
    adapter_layers,
    add_adapters,
    base_checksum,
    is_adapter_folder,
    merge_adapters,
    save_adapters,
)
from rlhf_envs.preferences.training import load_backbone
from rlhf_envs.rewards.reward_model import load_classifier

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def build(seed: int = 0, **config: Any) -> Any:
    torch.manual_seed(seed)
    sizes = dict(vocab_size=50, num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    return LlamaForCausalLM(LlamaConfig(**(sizes | config), eos_token_id=[1, 3])).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Trained adapters in `adapters`, their base in `base`."""
    build().save_pretrained(tmp_path / "base")
    model = load_causal_lm(str(tmp_path / "base"))
    add_adapters(model, dict(r=2))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    save_adapters(model, tmp_path / "adapters", str(tmp_path / "base"), base_checksum(model))
    torch.save(logits(model), tmp_path / "logits")
    return tmp_path / "adapters"


def edit(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_folder_loads_as_its_base_with_the_adapters_on_it(folder):
    expected = torch.load(folder.parent / "logits")
    adapted, merged = load_with_adapters(str(folder)), load_causal_lm(str(folder))
    torch.testing.assert_close(logits(adapted), expected)
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-4)
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == {
        n for n, _ in adapted.named_parameters() if "lora_" in n
    }
    assert not adapter_layers(merged)
    assert load_config(str(folder)).num_hidden_layers == 2
    assert model_ends(str(folder)) == [1, 3]
    assert not has_tokenizer(str(folder))


def test_peft_itself_reads_the_folder(folder):
    base = AutoModelForCausalLM.from_pretrained(folder.parent / "base")
    model = peft.PeftModel.from_pretrained(base, str(folder))
    torch.testing.assert_close(logits(model), torch.load(folder.parent / "logits"), atol=1e-6, rtol=1e-5)


def test_a_folder_that_peft_wrote_loads(folder, tmp_path):
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "up_proj"], init_lora_weights=False, lora_dropout=0.1)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config).eval()
    model.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(logits(load_with_adapters(str(tmp_path / "theirs"))), logits(model))


def test_the_checksum_sees_weights_and_neither_adapters_nor_precision():
    model = build()
    before = base_checksum(model)
    assert base_checksum(build(seed=1)) != before
    assert base_checksum(build().to(torch.bfloat16)) == before
    add_adapters(model)
    assert base_checksum(model) == before
    with torch.no_grad():
        model.lm_head.weight[3, 4] += 0.01
    assert base_checksum(model) != before


def test_another_base_is_refused_by_its_checksum(folder):
    build(seed=1).save_pretrained(folder.parent / "base")
    with pytest.raises(ValueError, match=r"were trained on another model than .*base' that is here: its weights have"):
        load_with_adapters(str(folder))


@pytest.mark.parametrize(
    ("config", "name"), [(dict(hidden_size=32), "layers.0"), (dict(num_hidden_layers=3), "layers.2")]
)
def test_another_base_is_refused_by_its_shapes(folder, config, name):
    (folder / "adapter_base.json").unlink()  # as in a folder of peft's
    build(**config).save_pretrained(folder.parent / "base")
    edit(folder, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    with pytest.raises(
        ValueError, match=rf"belong to another base than '.*base': .*{name}.* has the shape .* there and"
    ):
        load_with_adapters(str(folder))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(peft_type="IA3"), "peft_type is 'IA3': only LoRA adapters load from a folder"),
        (dict(megatron_config={"a": 1}, megatron_core="evil"), r"megatron_(config|core)=.* is not supported"),
        (dict(modules_to_save=["lm_head"]), r"modules_to_save=\['lm_head'\] is not supported"),
        (dict(bias="all"), "bias='all' is not supported"),
        (dict(init_lora_weights="pissa"), "init_lora_weights='pissa' changes the base model"),
        (dict(r="8; import os"), "r='8; import os': expected a rank of at least 1"),
        (dict(r=4), r"belong to another base than .* has the shape \(2, \d+\) there and \(4, \d+\) on this"),
        (dict(r=10**9), "the rank is 1000000000, and the file of weights has none of that size"),
        (dict(rank_pattern={"q_proj": 10**9}), "the rank is 1000000000, and the file of weights"),
        (dict(target_modules=".*proj"), r"target_modules='\.\*proj' may be a regular expression.*: write the names"),
        (dict(target_modules="q_proj"), r"\(its weights are of down_proj, .*, v_proj\)"),
        (dict(target_modules=["q_proj"], exclude_modules="up.*"), r"exclude_modules='up\.\*' may be a regular"),
        (dict(layers_to_transform=[0], layers_pattern="lay.*"), r"layers_pattern='lay\.\*' may be a regular"),
        (dict(rank_pattern={"(q|k)_proj": 1}), r"rank_pattern=\{'\(q\|k\)_proj': 1\} may be a regular"),
        (dict(alpha_pattern={"q_proj": 1, ".+": 2}), "alpha_pattern=.* may be a regular expression"),
        (dict(target_modules=["c_attn"]), "no adapters fit on this LlamaForCausalLM"),
        (dict(base_model_name_or_path=None), "does not say which model the adapters belong to: set base_model_name"),
        (dict(base_model_name_or_path="org/none"), "the model 'org/none' is no folder, and not found as a hub id"),
        (dict(base_model_name_or_path="/none/here"), "the base of the adapters in .* is not here: the model '/none"),
    ],
)
def test_what_a_folder_must_not_say_is_refused_before_anything_is_imported_or_fetched(folder, fields, message):
    edit(folder, **fields)
    with pytest.raises(ValueError, match=message):
        load_with_adapters(str(folder))
    assert "evil" not in sys.modules


def test_patterns_that_a_user_gives_are_saved_as_the_names_of_their_layers(tmp_path):
    build().save_pretrained(tmp_path / "base")
    model = load_causal_lm(str(tmp_path / "base"))
    lora = dict(target_modules=r".*layers\.\d\.self_attn\.[qv]_proj", exclude_modules=r".*1.*v_proj", r=2)
    add_adapters(model, lora | dict(rank_pattern={"layers.1.*q_proj": 3}, alpha_pattern={"(0).*v_proj": 5}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.requires_grad else None
    layers = [f"model.layers.{name}_proj" for name in ("0.self_attn.q", "0.self_attn.v", "1.self_attn.q")]
    save_adapters(model, tmp_path / "adapters", str(tmp_path / "base"), base_checksum(model))
    saved = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert (saved["target_modules"], saved["exclude_modules"]) == (layers, None)
    assert (saved["rank_pattern"], saved["alpha_pattern"]) == ({layers[2]: 3}, {layers[1]: 5})
    torch.testing.assert_close(logits(load_with_adapters(str(tmp_path / "adapters"))), logits(model))
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "adapters")
    )
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-6, rtol=1e-5)


def test_adapters_find_their_base_from_another_working_folder_and_after_a_move(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    build().save_pretrained("models/moved")
    model = load_causal_lm("models/moved")
    add_adapters(model, dict(r=2, init_lora_weights=False))
    save_adapters(model, "runs/model", "models/moved", base_checksum(model))
    assert json.loads(Path("runs/model/adapter_config.json").read_text())["base_model_name_or_path"] == "models/moved"
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(logits(load_with_adapters("one/runs/model")), logits(model))
    (tmp_path / "one").rename(tmp_path / "two")
    assert adapter_base("two/runs/model") == str(Path("two/models/moved").resolve())
    torch.testing.assert_close(logits(load_with_adapters("two/runs/model")), logits(model))
    shutil.rmtree(tmp_path / "two" / "models")
    with pytest.raises(
        ValueError, match=r"the base of the adapters in two/.* is not here: the model 'models/moved' is"
    ):
        load_with_adapters("two/runs/model")


def test_a_base_of_adapters_is_refused(folder):
    edit(folder, base_model_name_or_path=str(folder))
    with pytest.raises(ValueError, match="which is a folder of adapters itself: merge those first"):
        load_with_adapters(str(folder))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_weights_that_cannot_be_read_are_named(folder, damage):
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"adapter_model.safetensors cannot be read"):
        load_with_adapters(str(folder))


def test_an_adapter_that_is_missing_or_too_much_is_refused(folder):
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    first = sorted(weights)[0]
    save_file({name: tensor for name, tensor in weights.items() if name != first}, file)
    with pytest.raises(ValueError, match=f"{first} has the shape of nothing there and"):
        load_with_adapters(str(folder))


@pytest.mark.parametrize("tied", [False, True])
def test_merging_keeps_the_logits_and_the_tie(tied):
    model = build(tie_word_embeddings=tied)
    add_adapters(model, dict(r=2, init_lora_weights=False))
    expected = logits(model)
    assert not torch.allclose(logits(build(tie_word_embeddings=tied)), expected, atol=1e-3)
    merged = merge_adapters(model)
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-4)
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
    assert not any("lora" in name for name in merged.state_dict())


@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`", "ignore:Model with `tie_word_embeddings")
def test_a_merge_that_changes_the_logits_is_refused():
    """As peft merges adapters on tied embeddings: twice, or (0.18, with a warning) into the head too."""
    model = build(tie_word_embeddings=True)
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False, ensure_weight_tying=True)
    peft.inject_adapter_in_model(config, model)
    with pytest.raises(ValueError, match="the merged LlamaForCausalLM has other logits than the model with its"):
        merge_adapters(model)


@pytest.mark.parametrize("load", [load_classifier, load_backbone])
def test_reward_models_are_whole(folder, load):
    with pytest.raises(ValueError, match=r"adapters' has adapters alone, and reward models are whole: merge them into"):
        load(str(folder))


def test_only_a_folder_of_adapters_is_one(folder, tmp_path):
    assert is_adapter_folder(folder)
    assert not is_adapter_folder("tiny")
    shutil.rmtree(folder)
    assert not is_adapter_folder(folder)


@pytest.mark.parametrize("lora", [None, {"exclude_modules": ["q_proj"]}])
def test_routers_of_experts_have_no_adapters_in_a_model_of_pictures_either(lora):
    """Llama 4's is a linear layer that returns two tensors, which an adapter cannot add to."""
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = dict(vocab_size=64, intermediate_size=32, intermediate_size_mlp=32, num_key_value_heads=2, head_dim=16)
    text |= dict(num_local_experts=2, bos_token_id=1, eos_token_id=2)
    pixels = dict(intermediate_size=128, image_size=16, patch_size=8, vision_output_dim=32)
    pixels |= dict(projector_input_dim=32, projector_output_dim=32)
    model = Llama4ForConditionalGeneration(Llama4Config(text_config=sizes | text, vision_config=sizes | pixels))
    add_adapters(model, lora)
    found = {name.rpartition(".")[2] for name in adapter_layers(model) if "language_model" in name}
    assert {"k_proj", "v_proj", "o_proj"} <= found and "router" not in found
    assert ("q_proj" in found) == (lora is None)
    assert model(input_ids=torch.tensor([[3, 4, 8]])).logits.isfinite().all()
