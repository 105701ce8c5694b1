"""Read the prompt and the answers of a row of data, whose columns TRL, Alpaca, ShareGPT and others name differently."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .implicit import end_of_implicit_prompt, repeats
from .messages import Messages, Prompt, as_messages, as_text, said, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CONVERSATIONS",
    "PROMPTS",
    "SYSTEMS",
    "as_text_row",
    "as_text_rows",
    "is_plain",
    "list_in_cell",
    "needed",
    "read_answers",
    "read_dialog",
    "read_dialog_pair",
    "read_pair",
    "read_prompt",
    "read_turns",
    "with_system",
]

CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS = ("question", "instruction", "query", "input", *CONVERSATIONS)  # where there is no "prompt"
SYSTEMS = ("system", "system_prompt")
# Columns in which other data have a part of the prompt, and columns in which they have all of it. Neither is read.
PARTS = ("context", "history", "passage", "document", "article", "post")
WHOLES = ("text", "dialogue", "dialog", "trajectory", "problem", "inputs", "prompts", "user_prompt")
_LIST = re.compile(r"\s*\[\s*\{\s*['\"](?:role|content|from|value)['\"]\s*:")


def read_prompt(row: Mapping[str, Any]) -> Prompt | None:
    """Return the prompt of a row, None if it has none.

    The prompt is the column "prompt", or else one of `PROMPTS` (Alpaca's "instruction" with its "input"), which makes
    it a message. A column "system" makes it a conversation that begins with this text.

    Raises:
        ValueError: several columns could be the prompt or a part of it, or the prompt is no text.
    """
    names = ["prompt"] if row.get("prompt") is not None else [name for name in PROMPTS if row.get(name) is not None]
    names = names if names == ["messages"] else [name for name in names if name != "messages"]
    systems = [name for name in SYSTEMS if name in row]
    if names != ["prompt"]:
        _check_unread(row, names)
    if names == ["instruction", "input"] and isinstance(row["instruction"], str) and isinstance(row["input"], str):
        prompt: Any = "\n\n".join(text for text in (row["instruction"], row["input"]) if text)
    elif len(names) > 1:
        raise ValueError(
            f"the columns {', '.join(names)} could all be the prompt: name it with columns={{'prompt': 'NAME'}}"
        )
    elif names:
        prompt = row[names[0]]
    elif not any(row[name] for name in systems):
        return None
    else:
        prompt = []
    if isinstance(prompt, str) and names == ["prompt"] and not systems:
        return prompt
    return with_system(row, as_messages(prompt, names[0]) if prompt else [])


def with_system(row: Mapping[str, Any], messages: Messages) -> Messages:
    """Return messages that begin with the text of a row's column "system", if it has one and they have none."""
    system = next((row[name] for name in SYSTEMS if row.get(name)), None)
    if not system or (messages and messages[0]["role"] == "system"):
        return messages
    return [*as_messages([{"role": "system", "content": system}], SYSTEMS[0]), *messages]


def read_pair(row: Mapping[str, Any]) -> tuple[Prompt, str, str]:
    """Return (prompt, chosen, rejected) of a row, with the prompt explicit or not, also if the texts repeat it.

    Raises:
        ValueError: the row is no pair. The message names the column.
    """
    prompt, chosen, rejected = read_prompt(row), needed(row, "chosen"), needed(row, "rejected")
    if chosen == rejected:
        raise ValueError("'chosen' and 'rejected' are the same: there is nothing to prefer")
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        end = end_of_implicit_prompt(chosen, rejected)
        return chosen[:end], chosen[end:], rejected[end:]
    prompt, (better, worse) = read_answers(prompt, {"chosen": chosen, "rejected": rejected})
    asked = prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt[-1:])
    if all(repeats(asked, text) for text in (better, worse)):
        better, worse = better[len(asked) :], worse[len(asked) :]
        if not isinstance(prompt, str):
            better, worse = better.lstrip(), worse.lstrip()
    if better == worse:
        raise ValueError("'chosen' and 'rejected' are the same: there is nothing to prefer")
    return prompt, better, worse


def read_dialog_pair(row: Mapping[str, Any], shares_more: bool = False) -> tuple[Prompt, Prompt, Prompt]:
    """Return (prompt, chosen, rejected) as `read_pair` does; a completion of several turns is messages.

    Args:
        row: a pair.
        shares_more: see `read_dialog`.

    Raises:
        ValueError: the row is no pair. The message names the column.
    """
    answers = {name: needed(row, name) for name in ("chosen", "rejected")}
    if any(isinstance(answer, list) for answer in answers.values()):
        prompt, (better, worse) = read_dialog(read_prompt(row), answers, shares_more)
        if better == worse:
            raise ValueError("'chosen' and 'rejected' are the same: there is nothing to prefer")
        if not (isinstance(better, str) and isinstance(worse, str)):
            return prompt, better, worse
    return read_pair(row)


def read_dialog(
    prompt: Prompt | None, answers: Mapping[str, Any], shares_more: bool = False
) -> tuple[Prompt, list[Prompt]]:
    """Return the prompt and the text of each answer, by name a string or messages; of several turns, its messages.

    The prompt is the one that is given, as in TRL, or without one the conversation that all answers share. With
    `shares_more` it is the latter in both cases.

    Raises:
        ValueError: an answer is no text, or does not end with a message of the assistant.
    """
    shared, own = read_turns(prompt, answers, shares_more)
    for name, turns in zip(answers, own, strict=True):
        if not isinstance(turns, str) and turns[-1]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in turns)
            raise ValueError(
                f"{name!r} must be one assistant message (after the prompt), or turns that end with one, not messages "
                f"of: {roles}"
            )
    return shared, own


def read_answers(prompt: Prompt | None, answers: Mapping[str, Any]) -> tuple[Prompt, list[str]]:
    """Return the prompt and the text of each answer, by name a string or messages.

    If any of them is messages, the prompt is the conversation that all answers share.

    Raises:
        ValueError: an answer is no text, or is more than one message of the assistant.
    """
    shared, own = read_turns(prompt, answers)
    for name, answer in zip(answers, own, strict=True):
        if not isinstance(answer, str):
            roles = ", ".join(message["role"] for message in answer)
            raise ValueError(f"{name!r} must be one assistant message (after the prompt), not messages of: {roles}")
    return shared, [str(answer) for answer in own]


def read_turns(
    prompt: Prompt | None, answers: Mapping[str, Any], shares_more: bool = True
) -> tuple[Prompt, list[Prompt]]:
    """Return the prompt and each answer as `read_answers` does; one of several turns is the messages of its turns.

    With `shares_more=False` the turns after a prompt that is given are of the answers, also where all share them.

    Raises:
        ValueError: an answer is no text.
    """
    if not isinstance(prompt, list) and all(isinstance(answer, str) for answer in answers.values()):
        return prompt or "", list(answers.values())
    whole = {name: _conversation(prompt, answer, name) for name, answer in answers.items()}
    shared = 0
    first = next(iter(whole.values()))
    head = [] if shares_more or not prompt else as_messages(prompt, "prompt")
    starts = (at for at in range(len(first)) if first[at : at + len(head)] == head)
    end = next(starts) + len(head) if head else len(first)
    while shared < end and all(shared < len(other) - 1 and other[shared] == first[shared] for other in whole.values()):
        shared += 1
    own = [messages[shared:] for messages in whole.values()]
    alone = [len(turns) == 1 and turns[0]["role"] == "assistant" for turns in own]
    return first[:shared], [turns[0]["content"] if one else turns for turns, one in zip(own, alone, strict=True)]


def as_text_row(
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    variables: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a pair or a rating with its prompt, chosen and rejected, or completion, as texts (see `as_text`).

    What follows the first turn of a completion of several turns is written in role lines.

    Raises:
        ValueError: the row has no such columns. The message names the column.
    """
    texts: list[Prompt]
    if "chosen" in row or "rejected" in row:
        prompt, *texts = read_dialog_pair(row, shares_more=True)
        names: tuple[str, ...] = ("chosen", "rejected")
    else:
        names = ("completion",)
        prompt, texts = read_dialog(read_prompt(row), {"completion": needed(row, "completion")}, shares_more=True)
    both = [as_text(prompt, said(text), tokenizer, variables) for text in texts]
    return {**row, "prompt": both[0][0], **dict(zip(names, (text for _, text in both), strict=True))}


def as_text_rows(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    where: Callable[[int], str] = lambda index: f"row {index + 1}",
    variables: Mapping[str, Any] | None = None,
) -> list[Mapping[str, Any]]:
    """Return pairs or ratings as texts (see `as_text_row`). Those that are texts already stay as they are.

    Raises:
        ValueError: a row cannot be read. The message begins with `where` of its index.
    """
    texts = []
    for index, row in enumerate(rows):
        try:
            texts.append(row if is_plain(row) else as_text_row(row, tokenizer, variables))
        except ValueError as error:
            raise ValueError(f"{where(index)}: {error}") from None
    return texts


def is_plain(row: Mapping[str, Any]) -> bool:
    """Return whether a pair or a rating is in texts already, so that a model can read the prompt and what follows."""
    texts = [row.get(name) for name in ("prompt", "chosen", "rejected", "completion")]
    if not all(isinstance(text, str | None) for text in texts) or any(name in row for name in SYSTEMS):
        return False
    prompt, *answers = texts
    if prompt is None:
        return not any(row.get(name) is not None for name in (*PROMPTS, *PARTS, *WHOLES))
    return not all(repeats(prompt, answer or "") for answer in answers[:2])


def list_in_cell(row: Mapping[str, str]) -> str | None:
    """Return the first column of a table's row that holds a list of messages as text, None if none does.

    A CSV has no lists: pandas and `datasets` write them in Python's form, some without commas.
    """
    columns = {"prompt", "chosen", "rejected", "completion", "response", *PROMPTS} - {"messages"}
    return next((name for name, cell in row.items() if name in columns and _LIST.match(cell)), None)


def needed(row: Mapping[str, Any], column: str) -> Any:
    """Return the value in a column.

    Raises:
        ValueError: there is no such column, or nothing in it.
    """
    if column not in row:
        raise ValueError(f"no column {column!r} (there are: {', '.join(map(str, row)) or 'none'}): add it")
    if row[column] is None:
        raise ValueError(f"{column!r} is null: fill it or remove the row")
    return row[column]


def _check_unread(row: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise a ValueError if a row without a "prompt" has a column that may hold the prompt, or a part of it."""
    unread = [name for name in (PARTS if names else (*PARTS, *WHOLES)) if row.get(name)]
    if unread:
        beside = f" beside {', '.join(names)}" if names else ""
        raise ValueError(
            f"{unread[0]!r} may belong to the prompt{beside}, and is not read: write the whole prompt into a column "
            "'prompt', or rename this column"
        )


def _conversation(prompt: Prompt | None, answer: Any, name: str) -> Messages:
    """Return the whole conversation of a prompt and an answer, which may repeat the prompt or its end."""
    head = as_messages(prompt, "prompt") if prompt else []
    if isinstance(answer, str):
        if head and head[-1]["role"] == "system":
            raise ValueError("there is a system text and no prompt: name its column with columns={'prompt': 'NAME'}")
        return [*head, {"role": "assistant", "content": answer}]
    messages = as_messages(answer, name)
    if any(messages[at : at + len(head)] == head for at in range(len(messages))):
        return messages
    known = next(at for at in range(len(head) + 1) if messages[: len(head) - at] == head[at:])
    if known == len(head) and messages[0]["role"] != "assistant" and head[-1]["role"] != "system":
        raise ValueError(
            f"{name!r} is a conversation in which the prompt {shown(head)[:60]!r} does not stand: remove one of the two"
        )
    return head[:known] + messages
