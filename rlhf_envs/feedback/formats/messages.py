"""Turn conversations into text, which people judge, and back.

In TRL's formats (https://huggingface.co/docs/trl/dataset_formats) a prompt and completions are strings or lists of
messages `{"role", "content"}`. The store holds strings. A prompt of one user message becomes that message's content. A
longer prompt becomes a transcript, and its messages are kept in the item's `meta["messages"]`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["completion_messages", "completion_text", "prompt_messages", "prompt_text", "split_implicit_prompt"]

Messages = list[dict[str, str]]

_ROLES = ("system", "developer", "user", "assistant")


def prompt_text(prompt: Any) -> tuple[str, Messages | None]:
    """Return the text of a prompt, and its messages if the text alone does not say everything.

    Raises:
        ValueError: the prompt is neither a string nor a conversation in text.
    """
    if isinstance(prompt, str):
        return prompt, None
    messages = _messages(prompt, "prompt")
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"], None
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages), messages


def completion_text(completion: Any, name: str) -> str:
    """Return the text of a completion.

    Raises:
        ValueError: the completion is neither a string nor one assistant message.
    """
    if isinstance(completion, str):
        return completion
    messages = _messages(completion, name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(f"{name!r} must be one assistant message (after the prompt), not messages of: {roles}")
    return messages[0]["content"]


def prompt_messages(prompt: str, meta: dict[str, Any]) -> Messages:
    """Return the messages of an item's prompt."""
    return meta.get("messages") or [{"role": "user", "content": prompt}]


def completion_messages(completion: str) -> Messages:
    """Return a completion as messages."""
    return [{"role": "assistant", "content": completion}]


def split_implicit_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Return (prompt, chosen, rejected) from two texts or conversations that begin alike, as TRL's `extract_prompt`.

    Texts are split at the end of the last "Assistant:" that they share (the format of Anthropic's HH), else before the
    first word in which they differ. Prompt and completion joined give the text again.
    """
    if isinstance(chosen, list) and isinstance(rejected, list):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        return chosen[:shared], chosen[shared:], rejected[shared:]
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        raise ValueError("'chosen' and 'rejected' must both be strings, or both lists of messages")
    shorter = min(len(chosen), len(rejected))
    prompt = chosen[: next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)]
    turn = prompt.rfind("\n\nAssistant:")
    end = turn + len("\n\nAssistant:") if turn >= 0 else _last_word(prompt)
    return chosen[:end], chosen[end:], rejected[end:]


def _last_word(text: str) -> int:
    """Return the index at which the white space before the last, perhaps unfinished, word begins."""
    if text.rstrip() != text:
        return len(text.rstrip())
    parts = text.rsplit(None, 1)
    return len(parts[0]) if len(parts) == 2 else 0


def _messages(value: Any, name: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name!r} is {type(value).__name__}, not a string or a list of messages with something in it")
    return [{"role": _role(message, name), "content": _content(message, name)} for message in value]


def _role(message: Any, name: str) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        raise ValueError(f"{name!r} has a message of role {role!r}; text can hold {', '.join(_ROLES)}")
    return str(role)


def _content(message: dict[str, Any], name: str) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or message.get("tool_calls"):
        raise ValueError(f"{name!r} has a message that is not text (a picture, a tool call): only text can be judged")
    return content
