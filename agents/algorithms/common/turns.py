"""Turn conversations of several turns into tokens, and say which of them the assistant wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlhf_envs.chat_format import ChatFormat
from rlhf_envs.datasets.messages import Messages
from rlhf_envs.tokens import encode_after

__all__ = ["Turns", "encode_turns"]


class Turns(NamedTuple):
    """Hold the tokens of a conversation.

    Attributes:
        prompt: the messages before the assistant's first turn, as the model is asked them.
        start: their tokens, with the beginning of the turn.
        rest: the tokens from there to the end of the last turn, its EOS included.
        learned: for each token of the rest, whether it is the assistant's.
    """

    prompt: Messages
    start: list[int]
    rest: list[int]
    learned: list[bool]


def encode_turns(chat: ChatFormat, messages: Messages, n_prompt: int, ends: Sequence[int], task: str = "") -> Turns:
    """Return the tokens of a conversation as its environment's agent would have written them.

    The chat template writes the conversation as a whole. A turn of the assistant is what it says and one EOS; the
    assistant's name before it and a line break after it are context, as they are for an agent that decodes.

    Args:
        chat: how conversations are written. Its template writes a turn in one way, see `ChatFormat.for_dialogs`.
        messages: the conversation, which ends with the assistant's turn.
        n_prompt: how many messages are the prompt. Turns of the assistant before that are context.
        ends: the ids that end a turn, see `rlhf_envs.tokens.end_ids`.
        task: the task's name, for messages.

    Raises:
        ValueError: the template refuses the conversation, or rewrites it as it goes on.
    """
    turns = [i for i, message in enumerate(messages) if i >= n_prompt and message["role"] == "assistant"]
    prompt = chat.read([{"prompt": messages[: turns[0]]}], task)[0]["prompt"]
    before = chat.text(prompt)
    start, written = chat.encode([before], [prompt])[0], before
    rest: list[int] = []
    learned: list[bool] = []
    for number, i in enumerate(turns):
        before, said = chat.texts(chat.with_system(messages[:i]), messages[i]["content"])
        if not before.startswith(written):
            rewritten = messages[turns[number - 1]]["content"][:60]
            raise ValueError(
                f"the chat template rewrites the assistant's turn {rewritten!r} as soon as another message follows: "
                "give a chat_template that keeps earlier turns"
            )
        context, turn = encode_after(chat.tokenizer, before[len(written) :]), encode_after(chat.tokenizer, said)
        end = next((at for at, token in enumerate(turn) if token in ends), None)
        if end is None and ends:
            turn.append(chat.tokenizer.eos_token_id if chat.tokenizer.eos_token_id in ends else ends[0])
        n = len(turn) if end is None else end + 1
        rest += [*context, *turn]
        learned += [False] * len(context) + [True] * n + [False] * (len(turn) - n)
        written = before + said
    last = len(learned) - learned[::-1].index(True)
    return Turns(prompt, start, rest[:last], learned[:last])
