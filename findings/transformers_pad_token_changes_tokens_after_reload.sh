#!/bin/sh
# transformers 5.23.0 with tokenizers 0.23.3: a pad token taken from the vocabulary changes texts, but only after the
# tokenizer has been saved and read again.
#
# Expected: `pad_token = "!"` (id 0 of GPT-2's and Qwen's vocabularies) says what fills rows. A tokenizer that is read again
# makes the same tokens and texts as the one that was saved.
# What happens: the setter leaves the tokenizer proper alone, so all is well at first. Reading adds the pad token as a special
# token. It is then matched before all merges, so "!!" becomes two tokens, which a model trained with the first tokenizer
# never saw. And skip_special_tokens=True drops every "!" from decoded texts. Nothing warns of it.
# Source: transformers/tokenization_utils_tokenizers.py, `TokenizersBackend.__init__` (tokens_to_add).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
venv/bin/python - <<'PY'
from importlib.metadata import version

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print(*(f"{name} {version(name)}" for name in ("transformers", "tokenizers")))
text = "Stop! No!!"
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False)
bpe.train_from_iterator([text] * 9, trainer)


def read(when, tokenizer):
    """Return the tokens of the text, and the text that they decode to without special tokens."""
    ids = tokenizer(text)["input_ids"]
    tokens, decoded = tokenizer.convert_ids_to_tokens(ids), tokenizer.decode(ids, skip_special_tokens=True)
    print(f"{when}: {tokens} {decoded!r}")
    return tokens, decoded


tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")
tokens, decoded = read("without a pad token", tokenizer)
assert tokens == ["Stop", "!", "ĠNo", "!!"] and decoded == text
tokenizer.pad_token = "!"
tokens, decoded = read("pad_token = '!'", tokenizer)
assert tokens == ["Stop", "!", "ĠNo", "!!"] and decoded == text
tokenizer.save_pretrained("saved")
tokens, decoded = read("saved and read again", AutoTokenizer.from_pretrained("saved"))
assert tokens == ["Stop", "!", "ĠNo", "!", "!"] and decoded == "Stop No"
PY
