"""Read the prompts of an environment: which are conversations, and how these become text and tokens."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rlhf_envs.datasets.messages import Messages, Prompt, as_messages, as_text, opening, role_lines
from rlhf_envs.datasets.templates import ROLES, after_turn, as_words, check_keeps_turns, read_template
from rlhf_envs.tokens import encode_after, encode_texts, escape_control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

__all__ = ["CHAT_OPTIONS", "ChatFormat", "check_system_prompt", "choose_template"]

CHAT_OPTIONS = ("system_prompt", "chat", "chat_template", "chat_template_kwargs")  # the environment's arguments
MESSAGE_KEYS = {"role", "content", "from", "value", "weight"}  # the last is for `rlhf sft` alone


class Templated(Protocol):
    """Bring a chat template: what a task has, and the tasks of a mixture."""

    @property
    def chat_template(self) -> str | None:
        """Return the chat template of models that have none."""

    @property
    def subtasks(self) -> Mapping[str, Templated]:
        """Return the tasks of a mixture by name."""


class ChatFormat:
    """Read prompts of messages, and write them as text and as tokens.

    Args:
        tokenizer: the model's tokenizer.
        system_prompt: the system message of conversations that have none.
        chat: whether a prompt that is a string is what the user says.
        chat_template: the text of a template or its file, instead of the tokenizer's; "roles" for lines such as "User:
            Hello".
        chat_template_kwargs: further variables of the template.

    Attributes:
        tokenizer: the model's tokenizer, with this chat template.
        variables: further variables of the template.
        options: the arguments that were given; they name no file.

    Raises:
        ValueError: an argument is wrong, or `chat` has no template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str | None = None,
        chat: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (("system_prompt", system_prompt), ("chat_template", chat_template)):
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ValueError(f"{name}={value!r}: expected a text")
        if not isinstance(chat, bool):
            raise ValueError(f"chat={chat!r}: expected True or False")
        self.tokenizer, self.system_prompt, self.chat = tokenizer, system_prompt, chat
        self._roles = chat_template == ROLES
        if chat_template is not None:  # the tokenizer is shared, so it keeps its own
            chat_template = read_template(chat_template)
            self.tokenizer = copy.copy(tokenizer)
            self.tokenizer.chat_template = None if self._roles else chat_template
        self.variables = _check_variables(tokenizer, chat_template_kwargs)
        given = system_prompt, chat or None, chat_template, self.variables or None
        self.options = {name: value for name, value in zip(CHAT_OPTIONS, given, strict=True) if value is not None}
        if chat:
            self._check_template("chat=True")

    @property
    def has_own_template(self) -> bool:
        """Return whether it writes in another template than the model's tokenizer has."""
        return "chat_template" in self.options and not self._roles

    def read(self, rows: Sequence[Mapping[str, Any]], task: str) -> list[dict[str, Any]]:
        """Return the rows with each prompt as the string or the messages that the agent is asked.

        Raises:
            ValueError: a message cannot be read, or there is no template for it. The error names the task and the row.
        """
        read = []
        for i, row in enumerate(rows):
            try:
                read.append({**row, "prompt": self._read(row.get("prompt"))} if "prompt" in row else dict(row))
            except ValueError as error:
                raise ValueError(f"task {task!r}: row {i}: {error}") from None
        return read

    def text(self, prompt: Prompt) -> str:
        """Return the text of a prompt: of messages, with the beginning of the assistant's turn.

        Raises:
            ValueError: the template refuses a message, or leaves one out that is not the assistant's.
        """
        return self._checked(opening(prompt, self.tokenizer, self.variables), prompt)

    def texts(self, prompt: Prompt, completion: str) -> tuple[str, str]:
        """Return the text of a prompt, and that of the completion after it.

        Raises:
            ValueError: as `text` does, or in the template a conversation does not begin with its prompt.
        """
        head, tail = as_text(prompt, completion, self.tokenizer, self.variables)
        return self._checked(head, prompt), tail

    def _checked(self, text: str, prompt: Prompt) -> str:
        """Return the text of a prompt, after checking that every message is in it."""
        for message in () if isinstance(prompt, str) else as_words(prompt, self.tokenizer):
            # Of what the assistant said before, templates leave out the thinking.
            if message["role"] != "assistant" and message["content"].strip() not in text:
                raise ValueError(
                    f"the chat template leaves out the {message['role']} message {message['content'][:60]!r}: put its "
                    "text into another message, or give another chat_template"
                )
        return text

    def encode(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the tokens of the texts of prompts. A template writes all special tokens that there are before it."""
        ids: list[list[int]] = [[] for _ in texts]
        for opened in (True, False):
            at = [i for i, prompt in enumerate(prompts) if (self._roles or isinstance(prompt, str)) == opened]
            encoded = encode_texts(self.tokenizer, [texts[i] for i in at], opened=opened)
            for i, found in zip(at, encoded, strict=True):
                ids[i] = found
        return ids

    def prepare_dialogs(self, prompts: Sequence[Prompt]) -> None:
        """Make sure that the template writes a turn of the agent in one way, whatever follows it.

        A template that does not is replaced by the variant for training that TRL has of it, if TRL is installed.

        Raises:
            ValueError: it does not, and there is no such variant.
        """
        prompt = next((prompt for prompt in prompts if not isinstance(prompt, str)), None)
        if prompt is None or self._roles:
            return
        try:
            check_keeps_turns(self.tokenizer, prompt, self.variables)
        except ValueError as error:
            template = _training_variant(self.tokenizer)
            if template is None:
                raise
            self.tokenizer = copy.copy(self.tokenizer)
            self.tokenizer.chat_template = self.options["chat_template"] = template
            check_keeps_turns(self.tokenizer, prompt, self.variables)
            logger.warning("TRL's variant of the chat template for training takes its place: %s", error)

    def for_dialogs(self, prompt: Prompt) -> ChatFormat:
        """Return the form for conversations like this one that go on after a turn, see `prepare_dialogs`.

        Raises:
            ValueError: the template does not write a turn in one way.
        """
        other = copy.copy(self)
        other.options = dict(self.options)
        other.prepare_dialogs([prompt])
        return other

    def encode_reply(self, messages: Messages, plain: str | None = None) -> list[int]:
        """Return the tokens from the end of the agent's turn to the beginning of its next turn.

        They are what the template writes there, after its end of a turn. Where the agent has ended its turn by another
        EOS, that one stands in its place. What the reply spells of control tokens is words.

        Args:
            messages: the dialog, which ends with the agent's turn and the reply to it.
            plain: the form of replies to prompts that are strings, with `{text}` and perhaps `{role}`.

        Raises:
            ValueError: the template refuses the reply or leaves it out, or the tokenizer cannot read it.
        """
        reply = messages[-1]
        if plain is not None:
            text, role = escape_control_tokens(self.tokenizer, reply["content"]), reply["role"].capitalize()
            return _encoded(self.tokenizer, plain.format(text=text, role=role))
        if self._roles:
            return _encoded(self.tokenizer, f"\n\n{role_lines([reply], self.tokenizer)}")
        end, text = after_turn(self.tokenizer, messages, self.variables)
        tokens = _encoded(self.tokenizer, end + text)
        return tokens[1:] if end else tokens  # the agent has written the end itself

    def _read(self, prompt: Any) -> Any:
        """Return one prompt as `read` does. What is neither text nor messages stays, for `check_rows` to refuse."""
        if not isinstance(prompt, list | dict) and (not self.chat or not isinstance(prompt, str) or not prompt.strip()):
            return prompt
        messages = as_messages(prompt, "prompt")
        _check_messages([prompt] if isinstance(prompt, dict) else prompt, messages)
        self._check_template("a prompt of messages")
        return self.with_system(messages)

    def with_system(self, messages: Messages) -> Messages:
        """Return a conversation that begins with the system message, if there is one and it has none of its own."""
        if self.system_prompt is None or (messages and messages[0]["role"] in ("system", "developer")):
            return messages
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def _check_template(self, what: str) -> None:
        if not self._roles and not self.tokenizer.chat_template:
            raise ValueError(
                f"{what} needs a chat template, and the tokenizer has none: give chat_template (a file, a text, or "
                f"{ROLES!r} for lines such as 'User: Hello'), or take another model"
            )


def choose_template(tokenizer: PreTrainedTokenizerBase, given: str | None, task: Templated) -> str | None:
    """Return the chat template that is `given`, else the task's if the tokenizer has none of its own.

    A mixture has none where its tasks have different ones; that is logged.
    """
    if given is not None or tokenizer.chat_template:
        return given
    own = {name: one.chat_template for name, one in task.subtasks.items() if one.chat_template is not None}
    if task.chat_template is None and own:
        logger.warning(
            "the tasks %s of the mixture have different chat templates, so it takes none of them: give it a "
            "chat_template for all, or take a model that has one",
            " and ".join(map(repr, own)),
        )
    return task.chat_template


def check_system_prompt(system_prompt: str | None, has_conversations: bool, whose: str) -> None:
    """Raise a ValueError for a system prompt without a conversation to begin; `whose` are the prompts."""
    if system_prompt is not None and not has_conversations:
        raise ValueError(
            f"system_prompt={system_prompt[:60]!r} begins conversations, and all prompts of {whose} are strings: give "
            "chat=True as well, which makes them what the user says"
        )


def _training_variant(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the variant that TRL has of the tokenizer's chat template; None without TRL, or if it has none."""
    try:
        from trl.chat_template_utils import get_training_chat_template

        template: str | None = get_training_chat_template(tokenizer)
    except (ImportError, ValueError, TypeError):  # it is not installed, or knows no variant of this template
        return None
    return template


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text that goes on after another.

    Raises:
        ValueError: it has none, or the tokenizer cannot read it.
    """
    try:
        tokens = encode_after(tokenizer, text)
    except ValueError as error:
        raise ValueError(f"the tokenizer cannot read the reply {text!r}: {error}") from error
    if not tokens:
        raise ValueError(f"the reply {text!r} has no tokens")
    return tokens


def _check_variables(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return further variables of a chat template, after checking that none is an argument of `apply_chat_template`."""
    if not isinstance(given, Mapping | None) or not all(isinstance(name, str) for name in given or {}):
        raise ValueError(f"chat_template_kwargs={given!r}: expected variables of the template, {{'name': value}}")
    own = {*inspect.signature(tokenizer.apply_chat_template).parameters} - {"tools", "documents"} if given else set()
    if taken := sorted(own & (given or {}).keys()):
        raise ValueError(f"chat_template_kwargs has {taken[0]!r}, which the environment sets: leave it out")
    return dict(given or {})


def _check_messages(given: Any, messages: Messages) -> None:
    """Raise a ValueError if messages have something that no chat template would show, or end with the assistant's."""
    for number, message in enumerate(messages, start=1):
        where = f"message {number} of {len(messages)}, of role {message['role']!r},"
        raw = given[number - 1] if isinstance(given, list) else {}
        unknown = [key for key, value in raw.items() if key not in MESSAGE_KEYS and value is not None]
        if unknown:
            raise ValueError(f"{where} has a key {unknown[0]!r}: a message is role and content; remove it")
        if not message["content"].strip():
            raise ValueError(f"{where} has no content: fill it or remove the message")
    if messages[-1]["role"] == "assistant":
        raise ValueError(
            "the last message is the assistant's: the agent writes a whole answer and does not go on with one; remove "
            "it, or give the whole text as a string"
        )
