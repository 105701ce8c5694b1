#!/bin/sh
# transformers 5.23.0: OPT's activation checkpointing brings dropout with it, though no dropout module is in training mode.
#
# Expected: checkpointing saves memory and changes no result. A model in eval mode can be checkpointed (PPO trains without
# dropout, so that the ratio to the sampled log-probabilities starts at 1).
# What happens: a block in eval mode is not checkpointed, and nothing says so. GPT-2's blocks can be in training mode without
# dropout: it is in modules of theirs, which stay in eval mode. OPT has no dropout module. Its blocks call F.dropout with their
# own `training`, so the checkpointed logits are random. What helps is `block.dropout = 0`.
# Source: transformers/modeling_layers.py, GradientCheckpointingLayer; transformers/models/opt/modeling_opt.py, OPTDecoderLayer.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))
ids = torch.arange(3, 11)[None]
opt = OPTForCausalLM(
    OPTConfig(vocab_size=32, hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2)
)
gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))


def look(name, model, block, norm):
    """Return whether backward recomputes the block, and whether the logits are those without dropout."""
    runs = []
    hook = norm.register_forward_hook(lambda *_: runs.append(1))
    logits = model(input_ids=ids, use_cache=False).logits
    logits.sum().backward()
    hook.remove()
    block.eval()
    same = torch.equal(logits, model(input_ids=ids, use_cache=False).logits)
    print(f"{name}: recomputed {len(runs) > 1}, as without dropout {same}")
    return len(runs) > 1, same


gpt2_block, opt_block = gpt2.transformer.h[0], opt.model.decoder.layers[0]
outcomes = []
for model, block, norm in (gpt2, gpt2_block, gpt2_block.ln_1), (opt, opt_block, opt_block.final_layer_norm):
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.eval()
    outcomes.append(look(f"{type(model).__name__}, eval mode", model, block, norm))
    block.training = True  # the block alone, not the modules in it
    outcomes.append(look(f"{type(model).__name__}, blocks alone in training mode", model, block, norm))
opt_block.training, opt_block.dropout = True, 0.0
outcomes.append(look("OPTForCausalLM, the same with block.dropout = 0", opt, opt_block, opt_block.final_layer_norm))
assert not any(isinstance(module, torch.nn.Dropout) for module in opt.modules())
assert outcomes == [(False, True), (True, True), (False, True), (True, False), (True, True)]
PY
