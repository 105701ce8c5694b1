#!/bin/sh
# transformers 5.23.0: the text model of a Gemma 3 folder, asked for with its text config, has random weights.
#
# Expected: `AutoModelForCausalLM.from_pretrained(folder, config=config.get_text_config())` gives the language model that the
# folder holds, as it does for Llama 4, or raises.
# What happens: Gemma3ForCausalLM with new random weights, all of them. The only sign is a logged table of missing and
# unexpected weights; Llama 4 gets one of unexpected weights. What helps is to load the whole model and to copy its text model.
# Source: the folder's names begin with "language_model.model.", those of both text models with "model.". base_model_prefix is
# "language_model" in transformers/models/llama4/modeling_llama4.py and "model" in models/gemma3/modeling_gemma3.py.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
from importlib.metadata import version

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
)
from transformers.utils import logging

logging.set_verbosity_error()  # the table, of which the counts are printed
print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))
ids = torch.arange(3, 11)[None]
small = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
vision |= {"image_size": 28, "patch_size": 14}


def look(model, folder):
    """Return the share of the text model's weights that the folder holds, and whether its logits are the whole model's."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.1)
    model.eval().save_pretrained(folder)
    held = {tuple(weight.flatten().tolist()) for weight in model.state_dict().values()}
    config = AutoConfig.from_pretrained(folder).get_text_config()
    text, info = AutoModelForCausalLM.from_pretrained(folder, config=config, output_loading_info=True)
    text.eval()
    weights = [tuple(weight.flatten().tolist()) for weight in text.parameters()]
    known = sum(weight in held for weight in weights) / len(weights)
    with torch.inference_mode():
        same = torch.allclose(text(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
    table = f"{len(info['missing_keys'])} missing, {len(info['unexpected_keys'])} unexpected"
    name = f"{type(model).__name__} as {type(text).__name__}"
    print(f"{name}: {known:.0%} of the weights are the folder's ({table}), same logits: {same}")
    return known, same


config = Gemma3Config(text_config=small, vision_config=vision, mm_tokens_per_image=4, image_token_index=63)
gemma = Gemma3ForConditionalGeneration(config)
assert look(gemma, "gemma") == (0, False), "the behaviour has changed"
whole = AutoModelForCausalLM.from_pretrained("gemma").eval()
text = AutoModelForCausalLM.from_config(whole.config.get_text_config()).eval()
text.model.load_state_dict(whole.model.language_model.state_dict())
text.lm_head.load_state_dict(whole.lm_head.state_dict())
with torch.inference_mode():
    assert torch.allclose(text(input_ids=ids).logits, gemma(input_ids=ids).logits, atol=1e-5)
llama = Llama4ForConditionalGeneration(
    Llama4Config(
        text_config=small | {"intermediate_size_mlp": 16, "num_local_experts": 2, "moe_layers": [0]},
        vision_config=vision | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
    )
)
assert look(llama, "llama") == (1, True), "the behaviour has changed"
PY
