#!/bin/sh
# peft 0.18.0 with transformers 5.3.0: an untied head in modules_to_save is said to be tied.
#
# Expected: no warning, since the model has `tie_word_embeddings=False` and two matrices of its own.
# What happens: "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter". peft asks which weights the class
# could tie, and not whether this model ties them. peft 0.21.2 with transformers 5.23.0 is silent. Who turns warnings into errors cannot train the
# head beside adapters at the older pair.
# Source: peft/tuners/tuners_utils.py, _check_tied_modules and _get_module_names_tied_with_embedding.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > look.py <<'PY'
import sys
import warnings
from importlib.metadata import version

from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=False
)
model = LlamaForCausalLM(config)
assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr(), "the two are untied"
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head"]))
tied = [str(warning.message) for warning in told if "tie_word_embeddings=True" in str(warning.message)]
print(f"peft {version('peft')}, transformers {version('transformers')}: {[text[:80] for text in tied]}")
assert len(tied) == int(sys.argv[1]), "the behaviour has changed"
PY
for pins in "peft==0.18.0 transformers==5.3.0 1" "peft==0.21.2 transformers==5.23.0 0"; do
    set -- $pins
    python3 -m venv --clear venv
    venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 "$1" "$2"
    venv/bin/python look.py "$3"
done
