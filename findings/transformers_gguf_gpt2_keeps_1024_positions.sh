#!/bin/sh
# transformers 5.23.0: a GGUF of a GPT-2 with other than 1,024 positions does not load.
#
# Expected: `gpt2.context_length` becomes the model's number of positions, as the other sizes in the file do.
# What happens: the mapping names it `n_ctx`, which GPT2Config no longer reads, so that n_positions stays 1,024, and loading
# fails with a mismatch of `wpe`. `gpt2.feed_forward_length` is not read either. What helps is `config=` with the right one.
# Source: transformers/integrations/ggml.py, GGUF_CONFIG_MAPPING["gpt2"].
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

print(*(f"{name} {version(name)}" for name in ("transformers", "gguf", "torch")))
config = GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config).eval()
writer = gguf.GGUFWriter("model.gguf", "gpt2")
writer.add_vocab_size(32)
writer.add_context_length(64)
writer.add_embedding_length(16)
writer.add_block_count(1)
writer.add_feed_forward_length(64)
writer.add_head_count(2)
writer.add_layer_norm_eps(1e-5)
writer.add_token_list([str(i) for i in range(32)])
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 1)
for key, tensor in model.state_dict().items():
    name = names.get_name(key, try_suffixes=(".weight", ".bias"))
    if key != "lm_head.weight":
        turned = tensor.T if name.startswith("blk") and tensor.ndim == 2 else tensor
        writer.add_tensor(name, turned.contiguous().numpy())
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

print("positions read:", AutoConfig.from_pretrained(".", gguf_file="model.gguf").n_positions)
try:
    AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf")
except RuntimeError as error:
    print("without config:", str(error)[:80])
else:
    raise SystemExit("it loads")
ids = torch.arange(8)[None]
with torch.inference_mode():
    back = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", config=config)(ids).logits
    assert torch.allclose(back, model(ids).logits, atol=1e-5)
PY
