#!/bin/sh
# peft 0.21.2 with transformers 5.23.0: merging adapters of tied embeddings gives another model, and can be silent.
#
# Expected: merge_and_unload() gives a model with the logits of the model with its adapters. `ensure_weight_tying=True` is
# the remedy that the warning about tied weights names.
# What happens: with adapters on the embedding of a model whose head shares its weights, the merged weights change the
# head too, which had no adapter. Nothing warns of it. With adapters on both and ensure_weight_tying=True the logits
# differ as well. Adapters on the attention alone merge exactly.
# Source: peft/tuners/tuners_utils.py (merge_and_unload); peft/tuners/lora/layer.py (Embedding.merge).
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
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()
print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
ids = torch.arange(8)[None]


def change(targets, **options):
    """Return by how much merging changes the logits, and whether a warning spoke of tied weights."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        lora = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **options)
        model = get_peft_model(GPT2LMHeadModel(config).eval(), lora).eval()
        with torch.inference_mode():
            before = model(input_ids=ids).logits
            after = model.merge_and_unload()(input_ids=ids).logits
    warned = any("tie_word_embeddings" in str(warning.message) for warning in told)
    difference = float((before - after).abs().max())
    print(f"{targets} {options}: logits up to {float(before.abs().max()):.2f}, changed by {difference:.2g}, warned: {warned}")
    return difference, warned


assert change(["c_attn"])[0] < 1e-5
difference, warned = change(["wte"])
assert difference > 0.1 and not warned
assert change(["wte", "lm_head"], ensure_weight_tying=True)[0] > 0.1
PY
