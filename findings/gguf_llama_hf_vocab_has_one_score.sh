#!/bin/sh
# gguf 0.19.0: LlamaHfVocab gives every token the score -1000, so that the file splits words otherwise.
#
# Expected: a GGUF of the kind "llama" with the tokens, scores and types of `LlamaHfVocab` gives the tokenizer's tokens.
# llama.cpp reads no merges of this kind: it joins the neighbours whose token has the highest score.
# What happens: `get_token_score` is a placeholder that returns -1000 for all of them. What is made of the file joins from
# left to right. Shown with transformers, which makes merges of the scores too; llama-cpp-python 0.3.36 gives the same.
# Source: gguf/vocab.py, LlamaHfVocab.get_token_score.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0
venv/bin/python - <<'PY'
from importlib.metadata import version
from pathlib import Path

import gguf
from gguf.vocab import LlamaHfVocab
from transformers import AutoTokenizer, LlamaTokenizer

print(*(f"{name} {version(name)}" for name in ("gguf", "transformers", "tokenizers")))
bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
merges = [("b", "c"), ("a", "b")]  # "bc" is made first
names = ["<unk>", "<s>", "</s>", *bytes_, "\u2581", "a", "b", "c", "ab", "bc"]
tokenizer = LlamaTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=merges)
tokenizer.save_pretrained("folder")
writer = gguf.GGUFWriter("folder/model.gguf", "llama")
vocabulary = LlamaHfVocab(Path("folder"))
tokens, scores, types = zip(*vocabulary.all_tokens())
print("scores:", {*scores})
writer.add_tokenizer_model(vocabulary.tokenizer_model)
writer.add_token_list(tokens)
writer.add_token_scores(scores)
writer.add_token_types(types)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.close()
for name in ("tokenizer.json", "tokenizer_config.json"):
    (Path("folder") / name).unlink()
back = AutoTokenizer.from_pretrained("folder", gguf_file="model.gguf")
ours, theirs = tokenizer.tokenize("abc"), back.tokenize("abc")
print("the tokenizer:", ours, " its GGUF:", theirs)
assert {*scores} == {-1000.0} and (ours, theirs) == (["\u2581", "a", "bc"], ["\u2581", "ab", "c"])
PY
