#!/bin/sh
# trl 1.16.0: with the training variant of Qwen3's chat template, an answer without a thinking block is rewritten.
#
# Expected: `get_training_chat_template` gives a "prefix-preserving" template, and `is_chat_template_prefix_preserving` says so.
# In a dialog, what the model has read and written is then the beginning of its next prompt.
# What happens: that holds for an answer with a thinking block in the template's own layout. Before an answer without one comes
# an empty block that the model did not write. A thought that ran out of tokens, or ends with one newline, is rewritten too.
# The check compares two texts of the template, before and after a tool's message; it looks at no generation prompt.
# With enable_thinking=False the prompt itself ends with the empty block, and an answer without one is kept.
# Source: trl/chat_templates/qwen3_training.jinja; trl/chat_template_utils.py, is_chat_template_prefix_preserving.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 trl==1.16.0 transformers==5.23.0
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
from importlib.metadata import version

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from trl.chat_template_utils import get_training_chat_template, is_chat_template_prefix_preserving, qwen3_chat_template

print(*(f"{name} {version(name)}" for name in ("trl", "transformers")))
letters = Tokenizer(BPE({letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
letters.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
letters.decoder = ByteLevelDecoder()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<|im_end|>")
tokenizer.chat_template = qwen3_chat_template
before = is_chat_template_prefix_preserving(tokenizer)
tokenizer.chat_template = get_training_chat_template(tokenizer)
after = is_chat_template_prefix_preserving(tokenizer)
print(f"prefix-preserving, as trl says: Qwen3's template {before}, its training variant {after}")


def kept(answer, **variables):
    """Return whether the next prompt begins with the prompt and the answer."""
    question = [{"role": "user", "content": "2 + 2?"}]
    dialog = [*question, {"role": "assistant", "content": answer}, {"role": "user", "content": "Sure?"}]
    prompt, whole = (
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
        for messages in (question, dialog)
    )
    same = whole.startswith(f"{prompt}{answer}<|im_end|>\n")
    shown = whole[whole.index("<|im_start|>assistant\n") :].split("<|im_end|>")[0]
    print(f"{answer!r} {variables or ''}: kept {same}, the next prompt has {shown!r}")
    return same


outcomes = [
    kept("<think>\nTwo pairs.\n</think>\n\n4"),
    kept("4"),
    kept("<think>\nTwo pairs.\n</think>\n4"),
    kept("<think>\nTwo pairs, so"),
    kept("4", enable_thinking=False),
]
assert (before, after) == (False, True), "the behaviour has changed"
assert outcomes == [True, False, False, False, True], "the behaviour has changed"
PY
