#!/bin/sh
# transformers 5.23.0: under bfloat16 autocast the KV cache of a Llama keeps float32, though the values are bfloat16.
#
# Expected: a DynamicCache holds keys and values in the types that the model gives it.
# What happens: rotary embeddings make the keys float32, the values are bfloat16. A layer of the cache makes both of its
# empty tensors in the type of the keys, and joining an empty float32 tensor and the values gives float32. So the values
# take twice their memory, and whoever copies them into memory of the values' type is refused by torch.
# Source: transformers/cache_utils.py, DynamicLayer.lazy_initialization and update.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))


class Watched(DynamicCache):
    def update(self, key_states, value_states, *args, **kwargs):
        print(f"given: keys {key_states.dtype}, values {value_states.dtype}")
        assert (key_states.dtype, value_states.dtype) == (torch.float32, torch.bfloat16)
        return super().update(key_states, value_states, *args, **kwargs)


config = LlamaConfig(
    vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=0
)
model, cache = LlamaForCausalLM(config).eval(), Watched()
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
    model(input_ids=torch.arange(8)[None], past_key_values=cache, use_cache=True)
print(f"kept: keys {cache.layers[0].keys.dtype}, values {cache.layers[0].values.dtype}")
assert cache.layers[0].values.dtype == torch.float32
PY
