#!/bin/sh
# peft 0.21.2 with transformers 5.23.0: weights that were frozen learn once `disable_adapter` has been used.
#
# Expected: `with model.disable_adapter():` leaves the model as it was. An adapter that was loaded without `is_trainable`,
# and weights that the user froze, stay frozen.
# What happens: after the block all weights of the active adapters require a gradient, and nothing says so. A loaded adapter
# learns as soon as an optimizer has its weights. `disable_adapter` is how training computes reference log-probabilities.
# Source: peft/tuners/tuners_utils.py, BaseTunerLayer.enable_adapters: it calls `set_adapter` without `inference_mode`
# (peft issue 3447).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
venv/bin/python - <<'PY'
from importlib.metadata import version

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
ids = torch.arange(8)[None]


def make_base():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def learning(model):
    return sum(weight.requires_grad for weight in model.parameters())


def learns(model):
    """Return whether a step of an optimizer that has all weights changes one."""
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loss = model(input_ids=ids, labels=ids).loss
    if loss.requires_grad:
        loss.backward()
    optimizer.step()
    return any(not torch.equal(old, new) for old, new in zip(before, model.parameters()))


def look(name, model):
    """Return how many weights learn before and after the adapter was off."""
    before = learning(model)
    with model.disable_adapter(), torch.inference_mode():
        model(input_ids=ids)
    after = learning(model)
    print(f"{name}: {before} of 4 adapter weights learn, after disable_adapter {after}")
    return before, after


lora = LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
model = get_peft_model(make_base(), lora)
model.save_pretrained("adapter")
for name, weight in model.named_parameters():
    if "lora_A" in name:
        weight.requires_grad_(False)
assert look("lora_A frozen", model) == (2, 4)

assert not learns(PeftModel.from_pretrained(make_base(), "adapter"))
loaded = PeftModel.from_pretrained(make_base(), "adapter")
assert look("an adapter that was loaded without is_trainable", loaded) == (0, 4)
changed = learns(loaded)
print("a step of Adam changes the loaded adapter:", changed)
assert changed
PY
