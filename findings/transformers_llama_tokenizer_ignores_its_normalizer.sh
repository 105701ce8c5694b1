#!/bin/sh
# transformers 5.23.0 with tokenizers 0.23.3: LlamaTokenizer reads other tokens than the tokenizer.json that it loads.
#
# Expected: a folder gives the tokens of its tokenizer.json. Those of Llama 2, TinyLlama and Mistral have a normalizer that
# puts a space before every part of a text between special tokens, also before one that begins with a space.
# What happens: if tokenizer_config.json names LlamaTokenizer or LlamaTokenizerFast, vocabulary and merges are taken of the
# file, and the rest is built anew: a text that begins with a space has one token less, and so has a text after a special
# token. With PreTrainedTokenizerFast the same file is read as it is.
# Source: transformers/tokenization_utils_tokenizers.py, convert_to_native_format; models/llama/tokenization_llama.py.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3
venv/bin/python - <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers
from transformers import AutoTokenizer

print(*(f"{name} {version(name)}" for name in ("transformers", "tokenizers")))
names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581film"]
model = models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
plain = Tokenizer(model)
plain.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
plain.add_special_tokens(names[:3])
Path("folder").mkdir()
plain.save("folder/tokenizer.json")
texts = ("film", " film", "</s>film")
expected = [plain.encode(text, add_special_tokens=False).tokens for text in texts]
found = {}
for name in ("PreTrainedTokenizerFast", "LlamaTokenizerFast", "LlamaTokenizer"):
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    Path("folder/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **special}))
    tokenizer = AutoTokenizer.from_pretrained("folder")
    found[name] = [tokenizer.tokenize(text) for text in texts]
print("texts", "tokenizers", *found, sep=" | ")
for i, text in enumerate(texts):
    print(repr(text), expected[i], *(tokens[i] for tokens in found.values()), sep=" | ")
assert found["PreTrainedTokenizerFast"] == expected
for name in ("LlamaTokenizerFast", "LlamaTokenizer"):
    assert [len(a) - len(b) for a, b in zip(expected, found[name])] == [0, 1, 1]
PY
