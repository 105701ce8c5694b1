"""Turn rows of prompts and completions into examples: tokens to read, and those among them to learn.

The prompt gives context and no loss. A completion ends with EOS, unless its row has `"finish_reason": "length"`. In a
conversation every turn of the assistant is a completion; one with `"weight": 0` has no loss.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlhf_envs.chat_format import ChatFormat
from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.messages import as_messages
from rlhf_envs.datasets.rows import read_prompt, with_system
from rlhf_envs.datasets.splits import take_split
from rlhf_envs.pictures import Pictures
from rlhf_envs.tokens import encode_after, encode_texts, keep_end, keep_start

from .completions import (
    EMPTY,
    LEFT_OUT,
    LOST_END,
    cut_end,
    has_loss,
    is_cut_short,
    is_empty,
    log_counts,
    read_completion,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORED", "Example", "encode_rows", "number_rows", "read_examples"]

Row = Mapping[str, Any]

logger = logging.getLogger(__name__)

IGNORED = -100  # the label of a token that has no loss, in PyTorch and transformers


@dataclass(frozen=True)
class Example:
    """Hold a context and its completions.

    Attributes:
        ids: the tokens.
        labels: for each token its id if it belongs to a completion, else -100.
        row: the row of the data, for its picture.
    """

    ids: list[int]
    labels: list[int]
    row: int = -1


def read_examples(
    data: str | Path | Sequence[Row], chat: ChatFormat, max_length: int, ends: Sequence[int]
) -> list[Example]:
    """Return the examples of the training split of data. The log says how many rows are cut or left out, and why.

    A text that is too long loses its end. An example has a token to learn that follows another token.

    Args:
        data: a file, or rows, as `rlhf sft` reads them.
        chat: how prompts are read and conversations written.
        max_length: the most tokens of an example.
        ends: the ids that end a completion.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is wrong, or nothing is left to learn. The message has the place and the fix.
    """
    source = str(data) if isinstance(data, str | Path) else "the rows"
    rows, places = number_rows(load_rows(data, required=()), source)
    part = take_split(rows, "train", source)
    found, counts = encode_rows(chat.tokenizer, part, max_length, ends, "cut", lambda i: places[id(part[i])], chat)
    examples = [example for example in found if any(label != IGNORED for label in example.labels[1:])]
    counts["rows left out, because nothing comes before their only token"] += len(found) - len(examples)
    log_counts(logger, +counts, len(part), f"contexts of {max_length} tokens")
    if not examples:
        raise ValueError(
            f"{source}: no completion is left to learn among its {len(part)} training rows, all are empty: give rows "
            "of {prompt, completion} or {messages}"
        )
    return examples


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    max_length: int,
    ends: Sequence[int],
    on_long_completion: Literal["drop", "cut", "error"] = "drop",
    where: Callable[[int], str] = lambda index: f"row {index + 1}",
    chat: ChatFormat | None = None,
    pictures: Pictures | None = None,
) -> tuple[list[Example], Counter[str]]:
    """Turn rows into examples of at most `max_length` tokens, and count what was cut or left out, by reason.

    Args:
        tokenizer: the model's tokenizer. Conversations are written with its chat template if it has one.
        rows: `{"prompt", "completion"}`, texts or messages, or `{"messages"}`.
        max_length: the most tokens of an example.
        ends: the ids that end a completion.
        on_long_completion: what happens to a row whose completions do not fit after one token of its prompt. "drop"
            leaves it out. "cut" keeps its first tokens, which then do not end with EOS. "error" refuses it.
        where: returns the place of the row of an index, for messages.
        chat: how prompts are read and conversations written, as in an environment; its tokenizer replaces `tokenizer`.
        pictures: the pictures of the rows, whose tokens stand in the prompts and are never cut.

    Raises:
        ValueError: a row has neither form or no completion, or does not fit with "error". The message has its place.
    """
    chat = ChatFormat(tokenizer) if chat is None else chat
    tokenizer = chat.tokenizer
    max_length -= 0 if pictures is None else len(pictures.tokens)
    examples: list[Example] = []
    counts = Counter[str]()
    for index, row in enumerate(rows):
        if row.get("messages") is None and is_empty(row.get("completion")):
            counts[EMPTY] += 1
            continue
        try:
            pieces, is_conversation = _pieces(chat, row)
            opened = not (tokenizer.chat_template and is_conversation)  # a template writes its own BOS, or none
            ids, labels = _encode(tokenizer, pieces, ends, opened)
        except ValueError as error:
            raise ValueError(f"{where(index)}: {error}") from error
        start = next(at for at, label in enumerate(labels) if label != IGNORED)  # tokens of the prompt
        room = max_length - (len(ids) - start)
        if len(ids) > max_length and room < min(start, 1):
            if on_long_completion == "error":
                raise ValueError(
                    f"{where(index)}: {len(ids) - start} tokens of completion and its prompt are more than "
                    f"max_length={max_length}: raise it, shorten the row, or drop or cut such rows"
                )
            if on_long_completion == "drop":
                counts[LEFT_OUT] += 1
                continue
            counts[LOST_END] += 1
            room = min(start, max_length // 2)
        elif len(ids) > max_length:
            counts["prompts that lost their beginning"] += 1
        prompt = keep_end(tokenizer, ids[:start], room) if len(ids) > max_length else ids[:start]
        rest = keep_start(tokenizer, ids[start:], max_length - len(prompt))
        if pictures is not None:
            prompt = pictures.place(chat, index, prompt, len(prompt) < start)
        learned = labels[start : start + len(rest)]
        examples.append(Example([*prompt, *rest], [*[IGNORED] * len(prompt), *learned], index))
    return examples, counts


class _Piece(NamedTuple):
    text: str
    is_completion: bool = False
    is_learned: bool = False
    is_ended: bool = True


def _pieces(chat: ChatFormat, row: Row) -> tuple[list[_Piece], bool]:
    """Return the texts of a row in order, and whether they are of a conversation."""
    if row.get("messages") is None:
        prompt, completion = read_completion(row, "completion")
        if chat.chat and isinstance(prompt, str) and prompt.strip():
            prompt = as_messages(prompt, "prompt")
        prompt = prompt if isinstance(prompt, str) else chat.with_system(prompt)
        head, tail = chat.texts(prompt, completion)
        short = is_cut_short(row)
        tail = cut_end(tail, completion) if short else tail
        return [_Piece(head), _Piece(tail, True, True, not short)], isinstance(prompt, list)
    messages = as_messages(row["messages"], "messages", tools=True)
    given = row["messages"] if isinstance(row["messages"], list) else [row["messages"]]
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    learned = [i for i in turns if has_loss(given[i], "messages")]
    if not learned:
        why = "every message of the assistant has weight 0" if turns else "no message has the role 'assistant'"
        raise ValueError(f"{why}, so there is nothing to learn")
    pieces: list[_Piece] = []
    written = ""
    for i in (i for i in turns if i <= learned[-1]):
        head, tail = chat.texts(chat.with_system(with_system(row, messages[:i])), messages[i]["content"])
        if not head.startswith(written):  # the template writes earlier turns in another way once more follow
            pieces, written = [], ""
        pieces += [_Piece(head[len(written) :]), _Piece(tail, True, i in learned)]
        written = head + tail
    return pieces, True


def _encode(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[_Piece], ends: Sequence[int], opened: bool = True
) -> tuple[list[int], list[int]]:
    """Return the tokens of a row's texts and their labels. Each finished completion ends with one of `ends`."""
    ids: list[int] = []
    labels: list[int] = []
    for text, is_completion, is_learned, is_ended in pieces:
        new = encode_after(tokenizer, text) if ids else encode_texts(tokenizer, [text], opened=opened)[0]
        has_end = bool(set(ends) & set(new[-2:]))  # a template may put a line break after its end
        if is_completion and is_ended and ends and not has_end:
            new = [*new, tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]]
        ids += new
        labels += new if is_learned else [IGNORED] * len(new)
    return ids, labels


def number_rows(rows: Sequence[Row], source: str) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return rows with their prompts, and the place in the source of each, by its `id`."""
    found, places = [], {}
    for number, row in enumerate(rows, start=1):
        place = f"{source}, row {number}"
        try:
            found.append(_with_prompt(row))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        places[id(found[-1])] = place
    return found, places


def _with_prompt(row: Row) -> dict[str, Any]:
    """Return a row with a prompt, by which it is split: of a conversation, what comes before the assistant's turns."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        return {**row, "prompt": read_prompt(row) or ""}
    if row.get("prompt") is not None:
        _check_in_messages(row["prompt"], messages)
        return dict(row)
    roles = [message.get("role", message.get("from")) if isinstance(message, dict) else None for message in messages]
    first = next((i for i, role in enumerate(roles) if role in ("assistant", "gpt")), len(messages))
    return {"prompt": messages[:first], **row}


def _check_in_messages(prompt: Any, messages: list[Any]) -> None:
    """Raise a ValueError if a prompt beside messages is none of them: it would not be learned."""
    known = [message["content"] for message in as_messages(messages, "messages", tools=True)]
    given = [message["content"] for message in as_messages(prompt, "prompt")]
    if missing := [text for text in given if not any(text in whole for whole in known)]:
        raise ValueError(
            f"the prompt {missing[0][:60]!r} is not in 'messages', which are learned: add it there, or remove it"
        )
