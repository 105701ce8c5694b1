#!/bin/sh
# transformers 5.23.0: a GGUF with `tokenizer.ggml.add_space_prefix` false is read as a tokenizer that puts a space.
#
# Expected: as llama.cpp does, "film" is read without a space before it. The key is in GGUF_TOKENIZER_MAPPING.
# What happens: it is read as `add_prefix_space`, and `sentencepiece_tokenizer` does not hand it to LlamaTokenizer, which
# puts a space before a text. Only the architectures gemma, gemma2 and gemma3 have builders that do not.
# Source: transformers/integrations/gguf/gguf_tokenizer_mapping.py.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import gguf
from transformers import AutoTokenizer

print(*(f"{name} {version(name)}" for name in ("transformers", "gguf", "tokenizers")))
names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581film"]
read = {}
for architecture in ("llama", "gemma2"):
    writer = gguf.GGUFWriter("model.gguf", architecture)
    writer.add_tokenizer_model("llama")
    writer.add_add_space_prefix(False)
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * len(names))
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    read[architecture] = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf").tokenize("film")
    print(architecture, read[architecture])
assert read == {"llama": ["\u2581", *"film"], "gemma2": [*"film"]}
PY
