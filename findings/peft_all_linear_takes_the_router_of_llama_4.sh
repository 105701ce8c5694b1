#!/bin/sh
# peft 0.21.2 with transformers 5.23.0: LoRA with target_modules="all-linear" makes Llama 4 raise an AttributeError.
#
# Expected: "all-linear" adapts the linear layers but the head. A layer that does not return a tensor is none of them.
# What happens: Llama 4's router is a subclass of nn.Linear that returns a pair, its scores and its logits. It gets an adapter,
# and the first forward pass fails in peft. Adding the adapter says nothing. `exclude_modules=["router"]` helps.
# Source: peft/tuners/tuners_utils.py, _maybe_include_all_linear_layers (isinstance); peft/tuners/lora/layer.py, Linear.forward;
# transformers/models/llama4/modeling_llama4.py, Llama4Router.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
venv/bin/python - <<'PY'
import warnings
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import Llama4ForCausalLM, Llama4TextConfig

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
config = Llama4TextConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=16,
    intermediate_size_mlp=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    num_local_experts=2,
    moe_layers=[0],
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
ids = torch.arange(3, 11)[None]


def look(**options):
    """Return whether the router has an adapter, how many warnings name it, and the error of a forward pass."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = get_peft_model(Llama4ForCausalLM(config), LoraConfig(target_modules="all-linear", **options))
    named = sum("router" in str(warning.message).lower() for warning in told)
    adapted = sorted({name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_A" in name})
    error = None
    try:
        model(input_ids=ids)
    except AttributeError as raised:
        error = str(raised)
    print(f"{options}: adapters at {', '.join(adapted)}; warnings of the router: {named}; error: {error}")
    return "router" in adapted, named, error


assert look() == (True, 0, "'tuple' object has no attribute 'dtype'"), "the behaviour has changed"
assert look(exclude_modules=["router"]) == (False, 0, None), "the behaviour has changed"
PY
