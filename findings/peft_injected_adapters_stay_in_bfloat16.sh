#!/bin/sh
# peft 0.21.2 with transformers 5.23.0: the type of an adapter's weights depends on the function that adds it.
#
# Expected: LoRA on a bfloat16 model has float32 weights, as peft has made them since 0.11 because low precision trains badly.
# `inject_adapter_in_model` is "similar to get_peft_model", and `add_adapter` and `load_adapter` of a transformers model use it.
# What happens: only PeftModel casts the weights. The three others leave them in bfloat16, and nothing says so. One
# step of Adam with a learning rate of 1e-4 then leaves most weights as they were. `cast_adapter_dtype(model, "default")` helps.
# Source: peft/tuners/tuners_utils.py (cast_adapter_dtype); peft/mapping.py; transformers/integrations/peft.py.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
venv/bin/python - <<'PY'
from importlib.metadata import version

import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners.tuners_utils import cast_adapter_dtype
from transformers import GPT2Config, GPT2LMHeadModel

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
ids = torch.arange(8)[None]
lora = LoraConfig(r=8, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)


def make_base():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=64, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).bfloat16()


def look(name, model):
    """Return the type of an adapter's weights, and the share that one step of Adam changes."""
    weights = [weight for path, weight in model.named_parameters() if "lora_" in path]
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights, lr=1e-4)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    changed = torch.cat([(old != new).flatten() for old, new in zip(before, weights)]).float().mean().item()
    (dtype,) = {weight.dtype for weight in weights}
    print(f"{name}: {dtype}, {changed:.0%} of the weights changed by a step of Adam")
    return dtype, changed


model = get_peft_model(make_base(), lora)
model.save_pretrained("adapter")
cast = inject_adapter_in_model(lora, make_base())
cast_adapter_dtype(cast, "default")
outcomes = [
    look("get_peft_model", model),
    look("PeftModel.from_pretrained", PeftModel.from_pretrained(make_base(), "adapter")),
    look("inject_adapter_in_model, then cast_adapter_dtype", cast),
    look("inject_adapter_in_model", inject_adapter_in_model(lora, make_base())),
]
added, loaded = make_base(), make_base()
added.add_adapter(lora)
outcomes.append(look("model.add_adapter", added))
loaded.load_adapter("adapter")
outcomes.append(look("model.load_adapter", loaded))
assert all(dtype == torch.float32 and changed > 0.95 for dtype, changed in outcomes[:3])
assert all(dtype == torch.bfloat16 and changed < 0.5 for dtype, changed in outcomes[3:])
PY
