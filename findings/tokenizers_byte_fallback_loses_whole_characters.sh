#!/bin/sh
# tokenizers 0.23.3 with sentencepiece 0.2.3: one cut character makes all byte-fallback characters beside it unreadable.
#
# Expected: the `ByteFallback` decoder (Llama 2, Mistral, Gemma) gives U+FFFD "for each inconvertible byte token", as its
# comment says, and the text of the others. SentencePiece and Python do so: where a completion ends within a character, at
# its limit of tokens, that character alone is lost.
# What happens: it reads a run of byte tokens as a whole. If the run is not all UTF-8, every byte of it becomes U+FFFD, also
# the bytes of whole characters: two Chinese characters and the first byte of a third are seven U+FFFD.
# Source: https://github.com/huggingface/tokenizers, decoders/byte_fallback.rs.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check tokenizers==0.23.3 sentencepiece==0.2.3
venv/bin/python - <<'PY'
import io
from importlib.metadata import version

import sentencepiece
from tokenizers import decoders

print(*(f"{name} {version(name)}" for name in ("tokenizers", "sentencepiece")))
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a b c"] * 9), model_writer=model, vocab_size=266, byte_fallback=True, model_type="bpe",
    hard_vocab_limit=False, minloglevel=2,
)
processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
texts = {}
for cut in (0, 2):  # the last character whole, and with only the first of its three bytes
    bytes_ = "你好吗".encode()[: 9 - cut]
    tokens = [f"<0x{byte:02X}>" for byte in bytes_]
    texts[cut] = decoders.ByteFallback().decode(tokens), processor.decode_pieces(tokens), bytes_.decode(errors="replace")
    print("{} bytes: tokenizers {!r}, sentencepiece {!r}, Python {!r}".format(len(bytes_), *texts[cut]))
assert texts[0] == ("你好吗",) * 3
assert texts[2] == ("\ufffd" * 7, "你好\ufffd", "你好\ufffd")
PY
