"""Find prompts that are not given by themselves, but begin the texts that answer them."""

from __future__ import annotations

import re
import unicodedata

from rlhf_envs.words import UNSPACED, split_words

__all__ = ["end_of_implicit_prompt", "repeats"]

_TURN = "\n\nAssistant:"
_NO_SPACES = re.compile(f"[{UNSPACED}\u3000-\u303f\uff00-\uffef]")  # with the punctuation of full width


def repeats(prompt: str, text: str) -> bool:
    """Return whether a text is the prompt with more words after it.

    A prompt of a single word, such as "Hi", does not count: an answer may begin with it.
    """
    rest = text[len(prompt) :]
    if not prompt or not text.startswith(prompt) or not rest.strip():
        return False
    unspaced = bool(_NO_SPACES.match(prompt[-1]))
    if len(split_words(prompt)) < (4 if unspaced else 2):
        return False
    return unspaced or not (prompt[-1].isalnum() and rest[0].isalnum())


def end_of_implicit_prompt(chosen: str, rejected: str) -> int:
    """Return where the prompt ends that two texts begin with.

    That is after the last "Assistant:" that they share (the format of Anthropic's HH), else before the first word in
    which they differ. In a script without spaces it is before the first character in which they differ.
    """
    shorter = min(len(chosen), len(rejected))
    shared = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    turn = chosen.rfind(_TURN, 0, shared)
    if turn >= 0:
        return turn + len(_TURN)
    last = min(shared, shorter - 1)  # neither text is all prompt
    for end in range(last, 0, -1):
        if chosen[end].isspace() and end < shared and not chosen[end - 1].isspace():
            return end
        marked = any(unicodedata.category(text[end]).startswith("M") for text in (chosen, rejected))
        if _NO_SPACES.match(chosen[end - 1]) and not marked and not chosen[end].isspace():
            return end
    return 0
