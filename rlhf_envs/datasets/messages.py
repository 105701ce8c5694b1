r"""Say what prompts and completions are, strings or messages, and turn conversations into text in one way.

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

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_envs.control_tokens import escape_control_tokens

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
    "check_text",
    "in_role_lines",
    "is_role_lines",
    "kept_prompt",
    "kept_turns",
    "opening",
    "role_lines",
    "said",
    "shown",
    "turn_lines",
]

Messages = list[dict[str, str]]
Prompt = str | Messages

_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
_ROLES |= {role: role for role in ("system", "developer", "user", "assistant")}


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
    spoken = [message["content"] for message in completion[:1] if message["role"] == "assistant"]
    return "\n\n".join([*spoken, *turn_lines(completion[len(spoken) :])])


def role_lines(messages: Messages, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """Return a conversation in role lines, with the line of the assistant begun, as a tokenizer is to read it."""
    return "\n\n".join([*turn_lines(as_words(messages, tokenizer)), "Assistant:"])


def is_role_lines(prompt: object) -> bool:
    """Return whether a prompt is the text of a conversation that `role_lines` has written."""
    return isinstance(prompt, str) and prompt.endswith("\n\nAssistant:") and "User: " in prompt


def kept_prompt(prompt: str, meta: Mapping[str, Any]) -> Prompt:
    """Return the messages that an item's `meta` keeps of its prompt, or else the prompt."""
    return meta.get("messages") or prompt


def kept_turns(completion: str, completions: Sequence[str], meta: Mapping[str, Any]) -> Prompt:
    """Return the messages that an item's `meta` keeps of one of its completions of several turns, or else its text."""
    turns = meta.get("turns")
    if completion not in completions or not isinstance(turns, list) or len(turns) != len(completions):
        return completion
    kept = turns[completions.index(completion)]
    try:
        return as_messages(kept, "turns") if isinstance(kept, list) else completion
    except ValueError:  # it is no conversation: people can write anything into an item's meta
        return completion


def shown(prompt: Prompt) -> str:
    """Return a prompt as people read it: a single message of the user alone, a longer conversation in role lines."""
    if isinstance(prompt, str):
        return prompt
    alone = len(prompt) == 1 and prompt[0]["role"] == "user"
    return prompt[0]["content"] if alone else "\n\n".join(turn_lines(prompt))


def turn_lines(messages: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the turns of a conversation as people read them, such as "User: Hello"."""
    return [f"{message['role'].capitalize()}: {message['content']}" for message in messages]


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
