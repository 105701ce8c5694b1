"""Turn texts into tokens and back: the one place that does so for environments, rewards, fits and agents.

- A prompt and what follows it are one context: no second BOS, and no space that the text does not have.
- Special tokens are written by the data, by a chat template, or put before and after a text by the tokenizer: each
  once.
- A completion's text is what its tokens add to the prompt's text.
- Where text is cut, it is cut between characters.
- Words that spell a control token are words where they are escaped, see `rlhf_envs.control_tokens`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from rlhf_envs.control_tokens import (
    MARK,
    control_tokens,
    escape_control_tokens,
    find_control_tokens,
    has_escaped,
    split_at_control_tokens,
    unescape_control_tokens,
)
from rlhf_envs.datasets.messages import check_text
from rlhf_envs.datasets.templates import turn_end
from rlhf_envs.models import model_ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "added_tokens",
    "check_text",
    "common_ending",
    "completion_texts",
    "decode",
    "encode_after",
    "encode_completion",
    "encode_texts",
    "end_ids",
    "escape_control_tokens",
    "keep_end",
    "keep_start",
    "prompt_text",
    "unescape_control_tokens",
]

logger = logging.getLogger(__name__)

LONGEST = 3  # tokens of a cut character, at most: UTF-8 has up to 4 bytes
KEPT_TEXTS, KEPT_LETTERS = 64, 2_000_000  # from and up to where the tokens of a call are kept, see `_plain_all`
KEPT_CALLS = 4  # of a tokenizer
ANCHORS = ("\n", ".", "a")  # texts that stand before another, so that it is read as a continuation
_KEPT: WeakKeyDictionary[PreTrainedTokenizerBase, dict[Any, list[list[int]]]] = WeakKeyDictionary()
BROKEN = "\ufffd"  # what decoders write for bytes that are no character


def added_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and after a text, such as a BOS, or [CLS] and [SEP]."""
    plain, full = _read(tokenizer, text), tokenizer(text, verbose=False)["input_ids"]
    start = next(i for i in range(len(full) + 1) if full[i : i + len(plain)] == plain)
    return full[:start], full[start + len(plain) :]


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], closed: bool = False, opened: bool = True
) -> list[list[int]]:
    """Tokenize texts from their beginning, with the special tokens that the tokenizer puts before a text.

    Args:
        tokenizer: the model's tokenizer.
        texts: what the data or a chat template wrote; a text that begins with those special tokens gets no second ones.
        closed: whether to add what the tokenizer puts after a text too; nothing is added to a text that ends with it.
        opened: whether to add what it puts before a text. Nothing is added before a prompt in a chat template.

    Raises:
        ValueError: a text has half a character, or a word outside a vocabulary of words.
    """
    if not texts:
        return []
    for i, text in enumerate(texts):
        check_text(text, f"text {i}")
    plain = _plain_all(tokenizer, texts)
    sample = next((text for text, ids in zip(texts, plain, strict=True) if ids), None)  # shows where the text begins
    before, after = (tokenizer("")["input_ids"], []) if sample is None else added_tokens(tokenizer, sample)
    before = before if opened else []
    encoded = []
    for text, ids in zip(texts, plain, strict=True):
        if has_escaped(tokenizer, text):
            ids = _plain(tokenizer, text)
        written = next(k for k in range(len(before) + 1) if ids[: len(before) - k] == before[k:])
        head = before[:written]  # a template may write the last of them alone
        tail = [] if not closed or ids[len(ids) - len(after) :] == after else after
        encoded.append([*head, *ids, *tail])
    return encoded


def _plain_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Sequence[list[int]]:
    """Return the tokens of each text without special tokens of the tokenizer's own. They are kept: do not change them.

    The environments of a run and its evaluations have the same prompts. Reading them took most of the time that another
    environment took to make.
    """
    keep = len(texts) >= KEPT_TEXTS and sum(map(len, texts)) <= KEPT_LETTERS
    kept = _KEPT.setdefault(tokenizer, {}) if keep else {}
    key = tuple(texts), len(tokenizer)  # tokens may be added to a tokenizer
    found = kept.get(key)
    if found is None:
        with _naming_words(tokenizer, texts):
            found = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        while len(kept) >= KEPT_CALLS:
            kept.pop(next(iter(kept)), None)
        kept[key] = found
    return found


def encode_after(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text that goes on after another: no special tokens of the tokenizer's own, and no space.

    It is read after an anchor, because tokenizers like LLaMA's put a space before the first word of what they read.
    """
    check_text(text, f"the text {text[:40]!r}")
    return _continued(partial(_plain, tokenizer), text)


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, text: str, limit: int, ends: Sequence[int] | None = None
) -> tuple[list[int], bool]:
    """Return the tokens of a finished completion as an agent would write them, and whether it lost its end.

    It ends with an EOS, written by the data or added, unless there are more than `limit` tokens. `ends` are the ids
    that end a text (see `end_ids`), by default the tokenizer's EOS.
    """
    ids, eos = encode_after(tokenizer, text), tokenizer.eos_token_id
    ends = [] if eos is None and ends is None else [eos] if ends is None else ends
    last = next((at for at in reversed(range(len(ids))) if ids[at] in ends), None)
    if last is not None and not decode(tokenizer, ids[last + 1 :]).strip():
        ids = ids[: last + 1]  # a chat template ends a turn with EOS and a line break, which nobody writes
    elif ends:
        ids.append(eos if eos in ends else ends[0])
    return keep_start(tokenizer, ids, limit), len(ids) > limit


def keep_end(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], limit: int, added: Sequence[int] | None = None
) -> list[int]:
    """Return at most `limit` tokens: the last ones, from a character's beginning on, after what begins every text.

    `added` are the tokens of an empty text, which who cuts many texts reads once.
    """
    if len(ids) <= limit:
        return ids
    added = tokenizer("")["input_ids"] if added is None else added  # nothing but special tokens
    same = [token == first for token, first in zip(ids, added, strict=False)]
    n = [*same, False].index(False)  # how many of them begin this text
    n = min(max(n, ids[0] == tokenizer.bos_token_id), limit - 1)  # a template may write a BOS that no tokenizer adds
    first = len(ids) - limit + n
    return [*ids[:n], *ids[_border(tokenizer, ids, range(first, min(first + LONGEST, len(ids) - 1) + 1)) :]]


def keep_start(tokenizer: PreTrainedTokenizerBase, ids: list[int], limit: int) -> list[int]:
    """Return at most `limit` tokens: the first ones, up to the end of a character."""
    if len(ids) <= limit:
        return ids
    return ids[: _border(tokenizer, ids, range(limit, max(limit - LONGEST - 1, 0), -1))]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of tokens, with all special tokens. Other tokens that spell one are escaped."""
    return _escape_words(tokenizer, [], ids, _decode(tokenizer, ids))


def prompt_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], given: str) -> str:
    """Return the text of a prompt that was read as `ids`: as it was given, unless it was cut or its letters changed."""
    before = added_tokens(tokenizer, given)[0]
    added = bool(before) and ids[: len(before)] == before and _read(tokenizer, given)[: len(before)] != before
    read = decode(tokenizer, ids[len(before) :] if added else ids)
    return given if "".join(given.split()) == "".join(read.split()) else read  # decoders may add or drop spaces


def completion_texts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    cut: Sequence[bool] | None = None,
) -> list[str]:
    """Return what the tokens of completions add to the texts of their prompts' tokens.

    Args:
        tokenizer: the tokenizer of both.
        prompts: the tokens before the completions.
        completions: their tokens, without those that are no text (padding, the last EOS).
        cut: whether the limit of tokens ended a completion; its last character is left out if it is not whole.
    """
    contexts = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    decoded = tokenizer.batch_decode([*prompts, *contexts], **options)
    texts = []
    for i, (before, whole) in enumerate(zip(decoded, decoded[len(prompts) :], strict=False)):
        text = _added_text(tokenizer, completions[i], before, whole)
        if cut is not None and cut[i] and text.endswith(BROKEN):
            starts = [completions[i][:-k] for k in range(1, LONGEST + 1)]
            shorter = completion_texts(tokenizer, [prompts[i]] * LONGEST, starts)
            text = next((start for start in shorter if not start.endswith(BROKEN)), text)
        texts.append(_escape_words(tokenizer, prompts[i], completions[i], text))
    return texts


def common_ending(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> str:
    """Return what at least half of the texts end with, from an end on ("<|im_end|>" and a line break); else ""."""
    ids = [i for i in (tokenizer.eos_token_id, turn_end(tokenizer)) if i is not None]
    ends = [str(token) for token in tokenizer.convert_ids_to_tokens(ids)]
    found = ((text, next((end for end in ends if text.rstrip().endswith(end)), None)) for text in texts)
    endings = Counter(text[text.rindex(end) :] for text, end in found if end).most_common(1)
    return endings[0][0] if endings and 2 * endings[0][1] >= len(texts) else ""


def end_ids(tokenizer: PreTrainedTokenizerBase, model: str | None) -> list[int]:
    """Return the ids that end a text, sorted.

    They are the tokenizer's EOS, those that the model's configuration lists, and the end of a turn in the tokenizer's
    chat template. An id outside the tokenizer's vocabulary is left out, with a warning.

    Raises:
        ValueError: all of them are outside it, so that no text could end.
    """
    listed = model_ends(model) if model is not None else ()
    named = {tokenizer.eos_token_id, turn_end(tokenizer), *listed} - {None}
    ends = sorted(int(i) for i in named if 0 <= i < len(tokenizer))
    outside = sorted(named - set(ends))
    if outside:
        message = (
            f"EOS is {_listed(outside)}, and the tokenizer of {model!r} has {len(tokenizer)} tokens, so it can never "
            "be chosen"
        )
        if not ends:
            raise ValueError(f"{message}: give tokenizer and generation_config.json an eos_token_id below that")
        logger.warning("%s; texts end with %s", message, _listed(ends))
    return ends


def _listed(ids: Iterable[int]) -> str:
    return ", ".join(map(str, ids))


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text without special tokens of the tokenizer's own. Escaped control tokens are words."""
    ids = _read(tokenizer, text)
    if not has_escaped(tokenizer, text):
        return ids
    controls = {*control_tokens(tokenizer).values()}
    texts, at = split_at_control_tokens(tokenizer, text), [i for i, token in enumerate(ids) if token in controls]
    if len(texts) != len(at) + 1:
        return ids  # the marks stay in the tokens
    as_words = partial(_read, tokenizer, split_special_tokens=True)
    words: list[int] = []
    for part, start, end in zip(texts, [0, *(i + 1 for i in at)], [*at, len(ids)], strict=True):
        read = ids[start:end]
        if has_escaped(tokenizer, part):
            shown = unescape_control_tokens(tokenizer, part)
            other = as_words(shown) if read == _read(tokenizer, part) else _continued(as_words, shown)
            read = read if controls & {*other} else other  # a tokenizer of words has them as words too
        words += [*read, *ids[end : end + 1]]
    return words


def _continued(read: Callable[[str], list[int]], text: str) -> list[int]:
    """Return the tokens that `read` finds for a text that goes on after another."""
    for anchor in ANCHORS:
        start, whole = read(anchor), read(anchor + text)
        if not start:  # a tokenizer of words, which drops white space
            break
        if whole[: len(start)] == start:
            return whole[len(start) :]
    return read(text)


def _read(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> list[int]:
    with _naming_words(tokenizer, [text]):
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False, **options)["input_ids"]
    return ids


@contextmanager
def _naming_words(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[None]:
    """Raise a ValueError that names the words where a vocabulary of words has not all of the texts' words."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception or "[UNK]" not in str(error):  # `tokenizers` raises nothing more special
            raise
        known = tokenizer.get_vocab()
        unknown = dict.fromkeys(word for text in texts for word in text.split() if word not in known)
        raise ValueError(f"words outside the vocabulary: {', '.join(unknown)}; write texts in its words") from error


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _escape_words(tokenizer: PreTrainedTokenizerBase, before: list[int], ids: Sequence[int], text: str) -> str:
    """Return the text of `ids`, which come after others, with marks in the words that spell control tokens."""
    spelled, controls = find_control_tokens(tokenizer, text), {*control_tokens(tokenizer).values()}
    at = [i for i, token in enumerate(ids) if token in controls]
    if len(spelled) > len(at):
        start = _decode(tokenizer, before)
        parts = [_added_text(tokenizer, ids[:i], start, _decode(tokenizer, [*before, *ids[:i]])) for i in at]
        starts = {*map(len, parts)}
        for place in reversed([place for place in spelled if place not in starts]):
            text = text[: place + 1] + MARK + text[place + 1 :]
    return text


def _border(tokenizer: PreTrainedTokenizerBase, ids: list[int], places: Sequence[int]) -> int:
    """Return the first of the places where a character ends before the token there; the first place if none is."""
    whole = _decode(tokenizer, ids)
    return next((place for place in places if whole.startswith(_decode(tokenizer, ids[:place]))), places[0])


def _added_text(tokenizer: PreTrainedTokenizerBase, completion: Sequence[int], before: str, whole: str) -> str:
    """Return the text `whole` without the prompt's text; where a decoder joins their bytes, the completion's alone."""
    if not whole.startswith(before):
        anchor = _plain(tokenizer, ANCHORS[-1])
        before, whole = _decode(tokenizer, anchor), _decode(tokenizer, [*anchor, *completion])
    return whole.removeprefix(before)
