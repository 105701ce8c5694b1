"""Write a tokenizer into a GGUF, and texts as llama.cpp has to get them to read the tokenizer's tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from tokenizers import Tokenizer, models

from .byte_level import split_name
from .sentencepiece import BYTES, MARK, SpaceMarks, flat, read_marks, scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Texts", "add_ends", "add_tokenizer", "content_of"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # gguf.TokenType
SAID = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "user")]
ASK = "do it yourself, or ask through `rlhf serve --upstream`, which does"


class Texts:
    """Write texts as llama.cpp has to get them to read the tokens that a tokenizer reads.

    A GGUF cannot say all that a tokenizer does to a text before it splits it, such as lower case. Of spaces it says
    whether llama.cpp puts one before every part of a text; parts lie between the added tokens. Where a tokenizer has
    other rules, it says what suits more parts of the template's chats; without a template, what suits most texts.

    Args:
        tokenizer: a fast tokenizer.
        strict: refuse a tokenizer whose spaces GGUF cannot say. Otherwise nothing is done about its spaces.

    Attributes:
        marks: how it marks spaces; None of a tokenizer of another kind than SentencePiece's.
        adds_space: whether the GGUF says that llama.cpp puts a space before each part.
        template: the chat template, as the GGUF has it: with the space before that llama.cpp does not put.
        lost: what GGUF cannot say of all this, as sentences.

    Raises:
        ValueError: llama.cpp cannot split text as the tokenizer does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strict: bool = True) -> None:
        content = content_of(tokenizer)
        model, steps = content["model"], flat(content["normalizer"], "normalizers")
        self.marks: SpaceMarks | None = None
        if model["type"] == "BPE" and model["byte_fallback"]:
            try:
                self.marks = read_marks(content)
            except ValueError:
                if strict:
                    raise
        steps = steps[: self.marks.n_others] if self.marks else steps
        self._normalizer = _normalizer(steps)
        self._added = frozenset(token["content"] for token in content["added_tokens"])
        # Those that are found in the text itself. Without a normalizer all are.
        found = [token["content"] for token in content["added_tokens"] if not (token["normalized"] and steps)]
        words = "|".join(map(re.escape, sorted(found, key=len, reverse=True)))
        self._separators = re.compile(f"({words})" if found else r"(\A\b\B)")
        self.lost: list[str] = []
        if steps:
            names = ", ".join(step["type"] for step in steps)
            self.lost.append(f"GGUF has no word for what the tokenizer does before it splits ({names}): {ASK}.")
        self.template: Any = tokenizer.chat_template
        self.adds_space = self.marks is not None and self._choose(tokenizer, self.marks)

    def __call__(self, text: str) -> str:
        """Return a text as llama.cpp has to get it."""
        parts = self._parts(text)
        return "".join(
            part if is_token else self._spaced(self.inner(part), is_first) for part, is_token, is_first in parts
        )

    def inner(self, text: str) -> str:
        """Return a text that will stand within another one, such as a message in a chat, as llama.cpp has to get it."""
        return str(self._normalizer.normalize_str(text)) if self._normalizer else text

    def n_bytes(self, token: str) -> int:
        """Return how many bytes of text a token is, by its name in the tokenizer."""
        if token in self._added:
            return len(token.encode())
        if self.marks is None:
            return len(token)  # byte-level BPE has a letter per byte
        return 1 if token in BYTES else len(token.replace(MARK, " ").encode())

    def _parts(self, text: str) -> Iterator[tuple[str, bool, bool]]:
        """Return the parts of a text, whether each is an added token, and whether it begins the text."""
        return ((part, bool(i % 2), not i) for i, part in enumerate(self._separators.split(text)) if part)

    def _spaced(self, part: str, is_first: bool) -> str:
        """Return a part of a text with the space that llama.cpp does not put, or without the one that it puts."""
        if self.marks is None or (is_put := self.marks.is_before(part, is_first)) == self.adds_space:
            return part
        if is_put:
            return f" {part}"
        return part[1:] if part.startswith((" ", MARK)) and part[1:] else part  # of nothing there is nothing before

    def _choose(self, tokenizer: PreTrainedTokenizerBase, marks: SpaceMarks) -> bool:
        """Return whether llama.cpp is to put a space before each part. Say what that loses."""
        if marks.before in ("each", "never"):
            return marks.before == "each"
        chats = [[part for part in self._parts(chat) if not part[1]] for chat in _chats(tokenizer)]
        puts = [[marks.is_before(part, is_first) for part, _, is_first in parts] for parts in chats]
        with_space, without = sum(map(sum, puts)), sum(put.count(False) for put in puts)
        # Where each chat begins with a space, the template can give it.
        gives = isinstance(self.template, str) and all(
            parts and parts[0][2] and put[0] for parts, put in zip(chats, puts, strict=True)
        )
        wrong = {True: without, False: with_space - len(chats) * gives}
        adds_space = not chats or wrong[True] <= wrong[False]
        self.lost.append(_rule(marks, adds_space))
        if n := wrong[adds_space]:
            self.lost.append(
                f"In chats llama.cpp reads {n} of {with_space + without} parts with a space more or less than the "
                "tokenizer."
            )
        if gives and not adds_space:
            self.template = "{{ ' ' }}" + self.template  # a block drops white space before it
        return adds_space


def content_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return a fast tokenizer as `tokenizer.json` has it."""
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return content


def _normalizer(steps: list[dict[str, Any]]) -> Any:
    """Return what does these steps of a normalizer; None if there are none."""
    if not steps:
        return None
    empty = json.loads(Tokenizer(models.BPE()).to_str())
    return Tokenizer.from_str(json.dumps(empty | {"normalizer": {"type": "Sequence", "normalizers": steps}})).normalizer


def _rule(marks: SpaceMarks, adds_space: bool) -> str:
    """Return where llama.cpp puts a space and the tokenizer does not, or the other way round, as a sentence."""
    if adds_space:
        others = " and after special tokens" if marks.before == "first" else ""
        return (
            f"llama.cpp puts a space before every text, and this tokenizer none before one that begins with a space"
            f"{others}: leave that one out, or ask through `rlhf serve --upstream`, which does."
        )
    return (
        "llama.cpp puts no space before a text, as suits this model's chats; the tokenizer puts one before other texts "
        f"that begin with none: {ASK}."
    )


def _chats(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return chats of the template, without and with a system's message, as far as it takes them."""
    found = []
    for messages in (SAID, [{"role": "system", "content": "Hi"}, *SAID]) if tokenizer.chat_template else ():
        try:
            found.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except (TemplateError, KeyError, TypeError, ValueError):  # of the template: it takes no such chat
            continue
    return [str(chat) for chat in found]


def add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[str]:
    """Add a BPE tokenizer, byte-level or of SentencePiece's kind, and its chat template.

    Returns:
        What is lost of it, as sentences.

    Raises:
        ValueError: it is of another kind, or splits text in a way that has no name.
    """
    kind = _kind(tokenizer)
    if kind != "BPE":
        raise ValueError(
            "--to gguf writes tokenizers of BPE, such as GPT-2's, Llama's, Qwen's and Gemma's, and this one is a "
            f"{kind}: take --to hf"
        )
    texts, content = Texts(tokenizer), content_of(tokenizer)
    named = {i: token for token, i in tokenizer.get_vocab().items()}
    if max(named) >= vocab_size:
        raise ValueError(f"the tokenizer has the id {max(named)}, and the model's vocabulary ends at {vocab_size - 1}")
    names = [named.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in content["model"]["merges"]]
    types = _types(content["added_tokens"], named, names, tokenizer.unk_token if texts.marks else None)
    notes = [*texts.lost, *_unsaid(content, bool(texts.marks and texts.marks.before == "each"))]
    if texts.marks:
        writer.add_tokenizer_model("llama")
        writer.add_add_space_prefix(texts.adds_space)
        matched = {name for name, of in zip(names, types, strict=True) if of in (UNKNOWN, CONTROL, USER_DEFINED)}
        found, strays = scores(names, merges, texts.marks.splits, matched)
        writer.add_token_scores(found)
        notes += _strays(strays)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split_name(content["pre_tokenizer"], bool(content["model"].get("ignore_merges"))))
    writer.add_token_list(names)
    writer.add_token_types(types)
    if merges:  # which transformers reads of either kind
        writer.add_token_merges([" ".join(merge) for merge in merges])
    elif not texts.marks:  # transformers reads one of both
        writer.add_token_scores([0.0] * vocab_size)
        notes.append(
            "llama.cpp reads no tokenizer without merges, and this one has none: the file is for transformers."
        )
    notes += _add_special(writer, tokenizer, names, bool(texts.marks))
    if texts.template is not None:
        writer.add_chat_template(texts.template)
    return notes


def _kind(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the kind of a tokenizer, "BPE" of those that are written."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        return type(tokenizer).__name__
    model = tokenizer.backend_tokenizer.model
    name = type(model).__name__
    parts = [part for part in ("continuing_subword_prefix", "end_of_word_suffix") if getattr(model, part, None)]
    return f"{name} with its own {parts[0]}" if parts else name


def _types(added: list[dict[str, Any]], named: dict[int, str], names: list[str], unknown: str | None) -> list[int]:
    """Return the type of each token, as gguf numbers them.

    Args:
        added: the added tokens, as `tokenizer.json` has them.
        named: the tokens that there are, by id.
        names: of all rows.
        unknown: the token for what has none, of a tokenizer of SentencePiece's kind.
    """
    kinds = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in added}
    if unknown is not None:
        kinds |= {i: UNKNOWN for i in kinds if names[i] == unknown}
        # Gemma's runs of spaces: merges make them too, and as user-defined ones they would be written as marks.
        kinds |= {i: NORMAL for i, kind in kinds.items() if kind == USER_DEFINED and not names[i].strip(MARK)}
        kinds |= {i: BYTE for i, name in named.items() if name in BYTES}
    return [kinds.get(i, NORMAL) if i in named else UNUSED for i in range(len(names))]


def _add_special(writer: Any, tokenizer: PreTrainedTokenizerBase, names: list[str], is_marked: bool) -> list[str]:
    """Add which tokens are special, and which of them are put around a text. Return what is lost."""
    for word in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{word}_token_id")) is not None:
            getattr(writer, f"add_{word}_token_id")(number)
    probe = tokenizer("a")["input_ids"]
    adds_bos = bool(probe) and probe[0] == tokenizer.bos_token_id is not None
    writer.add_add_bos_token(adds_bos)
    writer.add_add_eos_token(bool(probe) and probe[-1] == tokenizer.eos_token_id is not None)
    lost = []
    if adds_bos and not all(chat.startswith(str(tokenizer.bos_token)) for chat in _chats(tokenizer)):
        lost.append(f"llama-server begins each chat with {tokenizer.bos_token!r}, and the chat template does not.")
    if is_marked and tokenizer.eos_token_id is None:
        lost.append(f"The tokenizer has no token that ends a text: llama.cpp takes the third one for it, {names[2]!r}.")
    return lost


def _unsaid(content: dict[str, Any], has_prefix: bool) -> list[str]:
    """Return what GGUF cannot say of the added tokens, as sentences."""
    flags = ["lstrip", "rstrip", "single_word", *(["normalized"] if has_prefix else [])]
    odd = [token["content"] for token in content["added_tokens"] if any(token[flag] for flag in flags)]
    if not odd:
        return []
    return [
        f"llama.cpp finds an added token wherever its text is, and keeps the spaces around it. The tokenizer does not "
        f"with {len(odd)} of them: {odd[0]!r} is one."
    ]


def _strays(strays: list[str]) -> list[str]:
    """Return which tokens llama.cpp makes and the tokenizer does not, as a sentence."""
    if not strays:
        return []
    return [
        f"llama.cpp reads {len(strays)} tokens where the tokenizer reads two each, as no merge makes them: "
        f"{strays[0]!r} is one."
    ]


def add_ends(writer: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Add the tokens that end a completion beside the tokenizer's own: GGUF has room for two. Return what is lost."""
    given = getattr(model.generation_config, "eos_token_id", None)
    ends = given if isinstance(given, list) else [] if given is None else [given]
    others = [number for number in ends if number != tokenizer.eos_token_id]
    for add, number in zip((writer.add_eot_token_id, writer.add_eom_token_id), others, strict=False):
        add(number)
    if left := others[2:]:
        return [f"GGUF has room for three tokens that end a completion, and the model has {len(left)} more: {left}."]
    return []
