#!/bin/sh
# transformers 5.23.0: a field of one's own in a model's generation config is saved, and not read again.
#
# Expected: what `save_pretrained` writes into generation_config.json, `from_pretrained` reads.
# What happens: a model that was built from its config gets a generation config that is marked `_from_model_config`. The
# mark is saved too, and a config with it drops every field that transformers does not know, without a warning. With
# the mark set to false by hand, the same file keeps the field.
# Source: transformers/generation/configuration_utils.py, `GenerationConfig.__init__` and `from_model_config`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0
venv/bin/python - <<'PY'
import json
from importlib.metadata import version

from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

logging.disable_progress_bar()
print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))
size = dict(n_positions=8, n_embd=4, n_layer=1, n_head=1)
model = GPT2LMHeadModel(GPT2Config(vocab_size=8, bos_token_id=0, eos_token_id=1, **size))
model.generation_config.update(do_sample=True, temperature=0.7)
model.generation_config.trained_by = "me"
model.save_pretrained("model")


def read():
    config = GPT2LMHeadModel.from_pretrained("model").generation_config
    return config.temperature, getattr(config, "trained_by", None)


with open("model/generation_config.json") as file:
    saved = json.load(file)
marked = read()
with open("model/generation_config.json", "w") as file:
    json.dump(saved | {"_from_model_config": False}, file)
unmarked = read()
print("saved:", saved["temperature"], saved["trained_by"], "_from_model_config", saved["_from_model_config"])
print("read:", *marked)
print("read without the mark:", *unmarked)
assert saved["_from_model_config"] and saved["trained_by"] == "me"
assert marked == (0.7, None) and unmarked == (0.7, "me")
PY
