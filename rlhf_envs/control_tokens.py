"""Tell control tokens that a text only spells from those that the data or a chat template wrote.

Control tokens are the special tokens of a tokenizer, such as `<|im_end|>`. In a text their letters stand for them.
Where somebody's words spell one, an invisible mark after its first character, U+2060 (word joiner), says that these are
only words. `rlhf_envs.tokens` reads the letters without the mark, as transformers does with
`split_special_tokens=True`. Every other tokenizer finds no control token in them either.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "control_tokens",
    "escape_control_tokens",
    "find_control_tokens",
    "has_escaped",
    "leading_control_token",
    "split_at_control_tokens",
    "unescape_control_tokens",
]

MARK = "\u2060"
# How most models write theirs, for texts that a model reads which is not known yet.
USUAL = re.compile(
    r"<\|[^\s|<>]+\|>|</?s>|<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn)>|\[(?:CLS|SEP|PAD|UNK|MASK)\]"
)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of the tokenizer's special tokens, by their texts."""
    added = getattr(tokenizer, "added_tokens_decoder", {})  # other objects with a chat template may have none
    return {token.content: i for i, token in added.items() if token.special and token.content}


def escape_control_tokens(tokenizer: PreTrainedTokenizerBase | None, text: str) -> str:
    """Return somebody's words with a mark in every control token that they spell, so that it is none.

    Without a tokenizer these are the usual ones of language models and classifiers, such as `<|im_end|>` and `[SEP]`.
    """
    pattern = USUAL if tokenizer is None else _pattern(*control_tokens(tokenizer))
    return pattern.sub(lambda found: _marked(found[0]), text)


def unescape_control_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text without the marks of `escape_control_tokens`, as people wrote it."""
    if not has_escaped(tokenizer, text):
        return text
    return _pattern(*map(_marked, control_tokens(tokenizer))).sub(lambda found: found[0].replace(MARK, "", 1), text)


def has_escaped(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Return whether a control token with a mark in it stands in the text."""
    return MARK in text and any(_marked(name) in text for name in control_tokens(tokenizer))


def find_control_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return where in the text a control token begins."""
    return [found.start() for found in _pattern(*control_tokens(tokenizer)).finditer(text)]


def leading_control_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """Return the id of the control token that a text begins with, None if it begins with none."""
    controls = control_tokens(tokenizer)
    found = _pattern(*controls).match(text)
    return None if found is None else controls[found[0]]


def split_at_control_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the texts between the control tokens, without the spaces that the tokenizer takes into those."""
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    pattern = _pattern(*control_tokens(tokenizer))
    between = pattern.split(text)
    for i, name in enumerate(pattern.findall(text)):
        if added[name].lstrip:
            between[i] = between[i].rstrip()
        if added[name].rstrip:
            between[i + 1] = between[i + 1].lstrip()
    return between


def _marked(name: str) -> str:
    return name[0] + MARK + name[1:]


@lru_cache(maxsize=16)
def _pattern(*names: str) -> re.Pattern[str]:
    """Return a pattern that finds the names, the longest first; without any it finds nothing."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")
