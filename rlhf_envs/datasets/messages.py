r"""Read prompts and completions, as strings or as messages, and turn conversations into text in one way.

Strings are joined as they are: a completion continues its prompt. Messages are `{"role", "content"}` (TRL's format,
https://huggingface.co/docs/trl/dataset_formats) or `{"from", "value"}` (ShareGPT's). For people, and for models whose
tokenizer has no chat template, a conversation is written in role lines:

    System: Be brief.

    User: Name a colour

    Assistant: Blue

The prompt ends with "Assistant:" and the completion begins with the space after it. Text cannot mark the end of a
message: one that holds "\n\nUser: " reads like two. The special tokens of a chat template can, since those
that the content of a message spells are escaped (see `rlhf_envs.control_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_envs.control_tokens import escape_control_tokens

from .implicit import end_of_implicit_prompt, repeats
from .templates import as_words, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Messages",
    "Prompt",
    "answer_to",
    "as_answer",
    "as_messages",
    "as_text",
    "as_text_row",
    "as_text_rows",
    "check_text",
    "in_role_lines",
    "is_plain",
    "is_role_lines",
    "kept_prompt",
    "list_in_cell",
    "needed",
    "opening",
    "read_answers",
    "read_pair",
    "read_prompt",
    "read_turns",
    "role_lines",
    "said",
    "shown",
    "turn_lines",
    "with_system",
]

Messages = list[dict[str, str]]
Prompt = str | Messages

CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS = ("question", "instruction", "query", "input", *CONVERSATIONS)  # where there is no "prompt"
SYSTEMS = ("system", "system_prompt")
# Columns in which other data have a part of the prompt, and those in which they have all of it. Neither is read.
PARTS = ("context", "history", "passage", "document", "article", "post")
WHOLES = ("text", "dialogue", "dialog", "trajectory", "problem", "inputs", "prompts", "user_prompt")
_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
_ROLES |= {role: role for role in ("system", "developer", "user", "assistant")}
_LIST = re.compile(r"\s*\[\s*\{\s*['\"](?:role|content|from|value)['\"]\s*:")


def check_text(text: str, where: str) -> None:
    """Raise a `ValueError` that begins with `where` if a text has a lone surrogate, such as half an emoji."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} has half a character, {text[error.start]!r} at place {error.start}: no tokenizer reads it; write "
            "the whole character, or remove it"
        ) from None


def as_text(
    prompt: Prompt,
    completion: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    variables: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Return a prompt and a completion as the two texts that a model reads, one after the other.

    Args:
        prompt: a string, which stays as it is, or messages.
        completion: what the assistant answers.
        tokenizer: write messages in its chat template, if it has one.
        variables: further variables of the template.

    Raises:
        ValueError: the chat template refuses the messages, or a conversation in it does not begin with its prompt.
    """
    head = opening(prompt, tokenizer, variables)
    if isinstance(prompt, str):
        return head, completion
    if tokenizer is None or not tokenizer.chat_template:
        return head, f" {escape_control_tokens(tokenizer, completion)}"
    whole = render(tokenizer, [*prompt, *as_answer(completion)], variables=variables)
    if not whole.startswith(head):
        raise ValueError(
            f"in the tokenizer's chat template a conversation does not begin with its prompt, which ends "
            f"{head[-60:]!r}: give rows of strings, or a tokenizer with another template"
        )
    return head, whole[len(head) :]


def opening(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None = None, variables: Mapping[str, Any] | None = None
) -> str:
    """Return the text after which the completion of a prompt begins: the first of the texts of `as_text`."""
    if isinstance(prompt, str):
        return prompt
    if tokenizer is not None and tokenizer.chat_template:
        return render(tokenizer, prompt, add_generation_prompt=True, variables=variables)
    return role_lines(prompt, tokenizer)


def in_role_lines(prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> tuple[list[str], list[str]]:
    """Return the texts of prompts and completions, which are strings or messages, for a model that is not known."""
    pairs = zip(prompts, completions, strict=True)
    both = [(prompt, done) if isinstance(done, str) else as_text(prompt, said(done)) for prompt, done in pairs]
    return [opening(prompt) for prompt, _ in both], [text for _, text in both]


def as_answer(completion: str) -> Messages:
    """Return what the assistant says as TRL has completions: a list of one message."""
    return [{"role": "assistant", "content": completion}]


def answer_to(prompt: Prompt, completion: str) -> Prompt:
    """Return a completion as rewards get it: messages where the prompt is messages, else the string."""
    return completion if isinstance(prompt, str) else as_answer(completion)


def said(completion: Prompt) -> str:
    """Return the text of a completion, which is a string or messages: what the assistant says, then role lines."""
    if isinstance(completion, str):
        return completion
    return "\n\n".join([*(message["content"] for message in completion[:1]), *turn_lines(completion[1:])])


def role_lines(messages: Messages, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """Return a conversation in role lines, with the line of the assistant begun, as a tokenizer is to read it."""
    return "\n\n".join([*turn_lines(as_words(messages, tokenizer)), "Assistant:"])


def is_role_lines(prompt: object) -> bool:
    """Return whether a prompt is the text of a conversation that `role_lines` has written."""
    return isinstance(prompt, str) and prompt.endswith("\n\nAssistant:") and "User: " in prompt


def kept_prompt(prompt: str, meta: Mapping[str, Any]) -> Prompt:
    """Return the messages that an item's `meta` keeps of its prompt, or else the prompt."""
    return meta.get("messages") or prompt


def as_text_row(
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    variables: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a pair or a rating with its prompt, chosen and rejected, or completion, as texts (see `as_text`).

    Raises:
        ValueError: the row has no such columns. The message names the column.
    """
    if "chosen" in row or "rejected" in row:
        prompt, *texts = read_pair(row)
        names: tuple[str, ...] = ("chosen", "rejected")
    else:
        names = ("completion",)
        prompt, texts = read_answers(read_prompt(row), {"completion": needed(row, "completion")})
    both = [as_text(prompt, text, tokenizer, variables) for text in texts]
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


def shown(prompt: Prompt) -> str:
    """Return a prompt as people read it: a single message of the user alone, a longer conversation in role lines."""
    if isinstance(prompt, str):
        return prompt
    alone = len(prompt) == 1 and prompt[0]["role"] == "user"
    return prompt[0]["content"] if alone else "\n\n".join(turn_lines(prompt))


def turn_lines(messages: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the turns of a conversation as people read them, such as "User: Hello"."""
    return [f"{message['role'].capitalize()}: {message['content']}" for message in messages]


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
    return [{"role": "system", "content": _content({"content": system}, SYSTEMS[0])}, *messages]


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


def read_turns(prompt: Prompt | None, answers: Mapping[str, Any]) -> tuple[Prompt, list[Prompt]]:
    """Return the prompt and each answer as `read_answers` does; one of several turns is the messages of its turns.

    Raises:
        ValueError: an answer is no text.
    """
    if not isinstance(prompt, list) and all(isinstance(answer, str) for answer in answers.values()):
        return prompt or "", list(answers.values())
    whole = {name: _conversation(prompt, answer, name) for name, answer in answers.items()}
    shared = 0
    first = next(iter(whole.values()))
    while all(shared < len(other) - 1 and other[shared] == first[shared] for other in whole.values()):
        shared += 1
    own = [messages[shared:] for messages in whole.values()]
    alone = [len(turns) == 1 and turns[0]["role"] == "assistant" for turns in own]
    return first[:shared], [turns[0]["content"] if one else turns for turns, one in zip(own, alone, strict=True)]


def as_messages(value: Any, name: str, tools: bool = False) -> Messages:
    """Return messages `{"role", "content"}` from a list of messages, one message, or what the user says as a string.

    With `tools`, texts of the role "tool" may be among them: what answers a call that the assistant wrote as text.

    Raises:
        ValueError: the value is none of these, or a message is not text. The message names the column.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{name!r} is {type(value).__name__}, not a string or a list of messages with something in it")
    return [{"role": _role(message, name, tools), "content": _content(message, name)} for message in messages]


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


def _role(message: Mapping[str, Any], name: str, tools: bool = False) -> str:
    if not {"role", "from"} & message.keys():
        raise ValueError(
            f"{name!r} is or holds an object of {', '.join(map(str, message)) or 'nothing'}, not a message of role and "
            "content: give the text itself"
        )
    given = message.get("role", message.get("from"))
    if tools and given == "tool":
        return "tool"
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise ValueError(f"{name!r} has a message of role {given!r}; text can hold {', '.join(_ROLES)}")
    return role


def _content(message: Mapping[str, Any], name: str) -> str:
    content = message.get("content", message.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or message.get("tool_calls"):
        raise ValueError(f"{name!r} has a message that is not text (a picture, a tool call): only text can be judged")
    return content
