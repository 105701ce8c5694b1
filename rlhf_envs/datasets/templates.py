"""Write conversations in a tokenizer's chat template. Only the template writes control tokens, never a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs.control_tokens import escape_control_tokens, leading_control_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "ROLES",
    "after_turn",
    "as_words",
    "check_keeps_turns",
    "is_template_file",
    "read_template",
    "render",
    "turn_end",
]

ROLES = "roles"  # the name of lines such as "User: Hello", see `rlhf_envs.datasets.messages`
ANSWER = "answer"
THINKING = f"<think>\nreason\n</think>\n\n{ANSWER}"
TURNS = [{"role": "user", "content": "question"}, {"role": "assistant", "content": ANSWER}]


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Return messages in the tokenizer's chat template. What a content spells of control tokens is escaped.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: objects of role and content.
        add_generation_prompt: whether the text ends with the beginning of the assistant's turn.
        variables: further variables of the template, such as `{"enable_thinking": False}`.

    Raises:
        ValueError: the template refuses a message, or is none. The message has the number of the first one refused.
    """
    from jinja2 import TemplateError

    words = as_words(messages, tokenizer)

    def write(part: list[dict[str, str]]) -> str | Exception:
        try:
            options = {"add_generation_prompt": add_generation_prompt, **(variables or {})}
            return str(tokenizer.apply_chat_template(part, tokenize=False, **options))
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            return error

    text = write(words)
    if isinstance(text, str):
        return text
    refused = next(n for n in range(len(words)) if n + 1 == len(words) or not isinstance(write(words[: n + 1]), str))
    raise ValueError(
        f"the tokenizer's chat template refuses message {refused + 1} of {len(words)}, of role "
        f"{messages[refused]['role']!r}: {text}"
    ) from text


def as_words(messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase | None) -> list[dict[str, str]]:
    """Return messages in which no content spells a control token."""
    return [{**message, "content": escape_control_tokens(tokenizer, message["content"])} for message in messages]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the control token that the chat template writes after what the assistant says; None if there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        text = render(tokenizer, TURNS)
    except ValueError:  # it refuses every conversation, which the first prompt will show
        return None
    _, found, rest = text.rpartition(ANSWER)
    return leading_control_token(tokenizer, rest.lstrip()) if found else None


def after_turn(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    variables: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Return what the chat template writes after the assistant's last turn: the end of that turn, and all behind it.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: a conversation that ends with a turn of the assistant and one message to answer it.
        variables: further variables of the template.

    Returns:
        the control token that ends a turn, "" if the template has none; and the text up to the assistant's next turn.

    Raises:
        ValueError: the template refuses a message, or leaves one of the two out.
    """
    *before, _, reply = messages
    known = "".join([str(tokenizer.chat_template), *(message["content"] for message in messages)])
    mark = next(mark for mark in (f"{ANSWER}{i}" for i in count()) if mark not in known)
    text = render(tokenizer, [*before, {"role": "assistant", "content": mark}, reply], True, variables)
    _, found, rest = text.rpartition(mark)
    if not found or as_words([reply], tokenizer)[0]["content"].strip() not in rest:
        raise ValueError(
            f"the chat template does not write the {reply['role']} message {reply['content'][:60]!r} after the "
            "assistant's turn: give the reply another role, or the environment another chat_template"
        )
    end = leading_control_token(tokenizer, rest.lstrip())
    if end is None:
        return "", rest
    shown = str(tokenizer.convert_ids_to_tokens(end))
    return shown, rest.lstrip().removeprefix(shown)


def check_keeps_turns(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Mapping[str, str]], variables: Mapping[str, Any] | None = None
) -> None:
    """Raise a ValueError if the chat template rewrites a turn of the assistant as soon as another message follows.

    A context only grows, so that the agent would read its own turns in another form than users of the template do.
    """
    head = render(tokenizer, prompt, True, variables)

    def keeps(answer: str) -> bool:
        turns = [*prompt, {"role": "assistant", "content": answer}, TURNS[0]]
        whole = render(tokenizer, turns, True, variables)
        words = as_words(turns[-2:-1], tokenizer)[0]["content"]
        return whole.startswith(head) and whole[len(head) :].lstrip().startswith(words)

    plain = keeps(ANSWER)
    if keeps(THINKING) or (plain and head.rstrip().endswith("</think>")):  # which leaves nothing to think
        return
    what = "drops what the agent thought in earlier turns" if plain else "rewrites earlier turns of the agent"
    raise ValueError(
        f"the chat template {what}, and a dialog's context only grows: after {head[-40:]!r} comes another text as soon "
        "as a reply follows. Give a chat_template that keeps earlier turns (TRL publishes such variants for training, "
        "qwen3_training.jinja among them), or other chat_template_kwargs"
    )


def is_template_file(template: str) -> bool:
    """Return whether this names a file of a template. The text of a template has braces, and a file's name has none."""
    return template != ROLES and "{" not in template


def read_template(template: str) -> str:
    """Return the text of a chat template that is given as text, as the path of a file, or as "roles".

    Raises:
        ValueError: there is no such file.
    """
    if not is_template_file(template):
        return template
    if not Path(template).is_file():
        raise ValueError(
            f"chat_template={template!r}: there is no such file, and a template's text has braces; give a file, a "
            f"text, or {ROLES!r} for lines such as 'User: Hello'"
        )
    return Path(template).read_text(encoding="utf-8")
