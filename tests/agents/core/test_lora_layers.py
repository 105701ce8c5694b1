"""Layers with adapters computed with merged weights or in place, against peft's own forward."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from agents.core import kv_cache
from agents.core.forward_pass import hidden_states
from agents.core.kv_cache import SlottedTrunk
from agents.core.language_model import LanguageModel
from agents.core.lora_layers import MergedLayers, added_in_place
from agents.core.policy import TokenPolicy
from rlhf_envs.models.adapters import adapter_layers

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

IDS, MASK = torch.tensor([[5, 6, 7, 8, 9], [4, 3, 2, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def trained(model: Any, seed: int = 3) -> Any:
    """Give the adapters other weights, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
    return model


def with_lora(model: Any, **config: Any) -> Any:
    fields: dict[str, Any] = dict(r=2, target_modules=["q_proj", "v_proj"]) | config
    return trained(peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **fields)))


def layers_of(model: Any) -> list[Any]:
    return [*adapter_layers(model).values()]


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gpt_neox", "llama4"])  # transposed, separate, with bias, experts
def test_merged_and_in_place_layers_compute_what_pefts_do(shape, small_model):
    model = trained(LanguageModel(small_model(shape), "lora"))
    layers, trunk = layers_of(model), model.trunk
    base = [p.clone() for p in model.parameters() if not p.requires_grad]
    learn = [p for p in model.parameters() if p.requires_grad]
    expected = hidden_states(trunk, IDS, MASK)
    gradients = torch.autograd.grad(expected[MASK.bool()].square().sum(), learn, materialize_grads=True)
    with added_in_place(layers):
        here = hidden_states(trunk, IDS, MASK)
    torch.testing.assert_close(here, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(
        torch.autograd.grad(here[MASK.bool()].square().sum(), learn, materialize_grads=True), gradients, strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
    merged = MergedLayers(layers)
    assert len(merged.layers) == len(layers)
    with torch.no_grad(), merged.used():
        torch.testing.assert_close(hidden_states(trunk, IDS, MASK), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden_states(trunk, IDS, MASK), expected, atol=0, rtol=0)
    assert all(
        torch.equal(p, b) for p, b in zip((p for p in model.parameters() if not p.requires_grad), base, strict=True)
    )


def test_all_active_adapters_are_merged(small_model):
    model = with_lora(small_model("llama")).eval()
    model.add_adapter("other", peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "up_proj"]))
    trained(model).base_model.set_adapter(["default", "other"])
    expected = model(input_ids=IDS).logits
    with MergedLayers(layers_of(model)).used():
        torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)
    with added_in_place(layers_of(model)):
        torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "case", ["dora", "dropout in training mode", "lora_bias", "disabled", "merged by peft", "bfloat16", "autocast"]
)
def test_what_is_not_plain_is_left_to_peft(case, small_model):
    model = with_lora(
        small_model("gpt_neox" if case == "lora_bias" else "llama"),
        target_modules=["query_key_value"] if case == "lora_bias" else ["q_proj", "v_proj"],
        use_dora=case == "dora",
        lora_bias=case == "lora_bias",
        lora_dropout=0.5,
    ).train(case == "dropout in training mode")
    if case == "disabled":
        model.base_model.disable_adapter_layers()
    elif case == "merged by peft":
        model.merge_adapter()
    elif case == "bfloat16":
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        assert MergedLayers(layers_of(model)).layers == []


# peft 0.18 says it of models that tie nothing.
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_a_module_that_learns_as_a_whole_stays_beside_merged_layers(small_model):
    model = with_lora(small_model("llama"), modules_to_save=["lm_head"]).eval()
    assert len(MergedLayers(layers_of(model)).layers) == len(layers_of(model)) - 1


def test_decoding_merges_after_some_steps_and_stays_what_a_recompute_gives(small_model):
    trunk = trained(LanguageModel(small_model("llama"), "lora")).trunk
    slotted, ids = SlottedTrunk(trunk, 20), torch.arange(40).reshape(2, 20)
    merged = []
    for length in range(1, 18):
        lengths = torch.tensor([length, length + 1])
        hidden = slotted(ids, lengths)
        mask = (torch.arange(20) < lengths[:, None]).long()
        with torch.no_grad():
            expected = hidden_states(trunk, ids, mask)[torch.arange(2), lengths - 1]
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)
        merged.append(slotted._merged is not None)
        if length == 10:
            trained(trunk, seed=4)  # in place: the copies are stale
    steps = [False] * (1 + kv_cache.STEPS_UNMERGED)  # one context is encoded, then steps
    assert merged == steps + [True] * (10 - len(steps)) + steps + [True] * (7 - len(steps))


def test_an_update_begins_without_merged_weights_in_memory(small_model, token_spaces):
    policy = trained(TokenPolicy(*token_spaces(20), lambda _: 1e-2, model=small_model("llama"), train="lora"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        for length in range(1, 10):
            mask = (torch.arange(20) < length).long()[None]
            policy.predict_values({"input_ids": ids * mask, "attention_mask": mask})
    weights = [weakref.ref(f.keywords["weight"]) for f in policy._actor.cache._merged._forwards]
    assert weights and all(weight() is not None for weight in weights)
    policy.set_training_mode(True)
    assert all(weight() is None for weight in weights)


@pytest.mark.parametrize("change", ["set_adapter", "set_scale"])
def test_the_cache_notices_other_adapters_and_other_scales(change, small_model):
    model = with_lora(small_model("llama"))
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    trunk = LanguageModel(model).trunk
    slotted, ids, lengths = SlottedTrunk(trunk, 5), IDS, torch.tensor([5, 3])
    before = slotted(ids, lengths)
    if change == "set_adapter":
        model.set_adapter("other")
    else:
        for layer in adapter_layers(trunk).values():
            layer.set_scale("default", 5.0)
    with torch.no_grad():
        expected = hidden_states(trunk, IDS, MASK)[torch.arange(2), lengths - 1]
    assert not torch.allclose(before, expected, atol=1e-2)
    torch.testing.assert_close(slotted(ids, lengths), expected, atol=1e-5, rtol=1e-5)
