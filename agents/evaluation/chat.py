"""Talk with whatever writes completions, one turn after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from rlhf_envs.datasets.messages import Messages, Prompt, opening
from rlhf_envs.models import load_tokenizer

from .generate import generate_in
from .prompting import open_prompts
from .source import Source

__all__ = ["Chat", "Style"]

Style = Literal["template", "roles", "plain"]
NEXT_TURN = "\n\nUser:"  # what a model that writes role lines puts after its own turn
ROOM = 128  # new tokens per turn of a model that was trained in no environment


class Chat:
    r"""Hold a conversation with an agent, a policy, a model or a run.

    Args:
        source: what answers, see `agents.generate`.
        style: "template" writes the conversation in the tokenizer's chat template; "roles" in lines such as
            "User: Hello\n\nAssistant:"; "plain" lets the model go on with the text. By default "template" if the
            tokenizer has one, else "plain".
        system: the text that a conversation in messages begins with.
        seed: the seed of the first turn; every further turn takes the next one.
        max_new_tokens: the room for an answer; by default the run's, and 128 for a model.
        decoding: `temperature`, `top_k` and `top_p` by name; by default the source's own.
        deterministic: take the most probable token.
        env_kwargs: further arguments of the environment.
        trust: load an SB3 zip, which holds pickles.

    Attributes:
        messages: the turns so far.

    Raises:
        ValueError: the tokenizer has no chat template, or a system text goes with plain text.
    """

    def __init__(
        self,
        source: Any,
        style: Style | None = None,
        system: str | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
        decoding: Mapping[str, Any] | None = None,
        deterministic: bool = False,
        env_kwargs: Mapping[str, Any] | None = None,
        trust: bool = False,
    ) -> None:
        self.source = Source.of(source, trust).with_decoding(decoding or {})
        name = self.source.tokenizer_name
        has_template = name is not None and bool(load_tokenizer(name).chat_template)
        if style == "template" and not has_template:
            raise ValueError(f"{self.source.name} has no chat template: take style 'roles' or 'plain'")
        self.style: Style = style or ("template" if has_template else "plain")
        if system and self.style == "plain":
            raise ValueError("a system text needs messages: take style 'roles', or a model with a chat template")
        known = self.source.env_id is not None or self.source.env is not None
        self.max_new_tokens = max_new_tokens if max_new_tokens is not None or known else ROOM
        self.seed, self.deterministic, self.env_kwargs = seed, deterministic, env_kwargs
        self._start: Messages = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget the conversation."""
        self.messages: Messages = list(self._start)

    def say(self, text: str) -> str:
        """Add the user's turn, and return the answer, which is added too."""
        asked = [*self.messages, {"role": "user", "content": text}]
        answer = self._complete(self._prompt(asked))
        if self.style == "roles":
            answer = answer.split(NEXT_TURN)[0]
        if self.style != "plain":
            answer = answer.strip()
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer

    def _prompt(self, messages: Messages) -> Prompt:
        if self.style == "template":
            return messages
        if self.style == "roles":
            return opening(messages)
        prompt = ""
        for message in messages:  # what the user writes begins a new word
            space = " " if message["role"] == "user" and prompt and not prompt[-1].isspace() else ""
            prompt += space + message["content"]
        return prompt

    def _complete(self, prompt: Prompt) -> str:
        batch = open_prompts(self.source, [prompt], None, self.max_new_tokens, self.env_kwargs)
        if self.source.policy is None:
            self.source = replace(self.source, policy=self.source.build_policy(batch))
        with self.source.acting(batch) as policy:
            done = generate_in(batch, policy, np.zeros(1, int), self.seed, self.deterministic, self.source.best_of)
        self.seed += 1
        return done[0].completion
