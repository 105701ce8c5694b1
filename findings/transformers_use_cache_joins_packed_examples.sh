#!/bin/sh
# transformers 5.23.0: `position_ids` that restart separate packed examples only without the cache.
#
# Expected: two examples in one row, with `position_ids` that restart, give the same logits as each
# example alone, or a warning says that they do not.
# What happens: with `use_cache=True`, the default, the second example attends to the first and its
# logits are wrong, without a warning. With `use_cache=False` they are right. A mask of ones, as a
# tokenizer returns it, joins the examples too. The forward pass creates an empty cache before the
# mask, and the search for packed rows is skipped where there is a cache or a mask.
# Source: transformers/masking_utils.py, `_preprocess_mask_arguments`;
# models/gpt2/modeling_gpt2.py, `GPT2Model.forward` and models/llama/modeling_llama.py, `LlamaModel.forward`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
gpt2 = GPT2Config(
    vocab_size=16, n_positions=32, n_embd=32, n_layer=2, n_head=2,
    bos_token_id=0, eos_token_id=1, initializer_range=0.5,
)
llama = LlamaConfig(
    vocab_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, initializer_range=0.5,
)
first = torch.tensor([[3, 1, 4, 1, 5, 9]])
second = torch.tensor([[2, 6, 5, 3, 5, 8]])
packed = torch.cat([first, second], dim=1)
position_ids = torch.arange(6).repeat(2)[None]


@torch.no_grad()
def difference(model, **options):
    alone = model(second).logits
    return (model(packed, position_ids=position_ids, **options).logits[:, 6:] - alone).abs().max().item()


print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))
for model in (GPT2LMHeadModel(gpt2).eval(), LlamaForCausalLM(llama).eval()):
    default = difference(model)
    uncached = difference(model, use_cache=False)
    masked = difference(model, use_cache=False, attention_mask=torch.ones_like(packed))
    print(
        f"{type(model).__name__:16} largest difference in logits: default {default:.4f},"
        f" use_cache=False {uncached:.4f}, use_cache=False with a mask of ones {masked:.4f}"
    )
    assert default > 1 and masked > 1 and uncached < 1e-3
PY
