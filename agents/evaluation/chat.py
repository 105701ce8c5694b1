"""Talk with whatever writes completions, one turn after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlhf_envs.datasets.messages import Messages, Prompt, role_lines
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.models import load_tokenizer
from rlhf_envs.tokens import BROKEN, escape_control_tokens, unescape_control_tokens

from .generate import generate_in
from .prompting import lent_template, open_prompts
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
            "User: Hello\n\nAssistant:"; "plain" lets the model go on with the whole text, until it ends that by EOS:
            then the next turn begins a new text. By default "template" if the tokenizer has one, or the task of the run
            has one for models without, else "plain".
        system_prompt: the system message that a conversation begins with.
        seed: the seed of the first turn; every further turn takes the next one.
        max_new_tokens: the room for an answer; by default the run's, and 128 for a model.
        decoding: `temperature`, `top_k` and `top_p` by name; by default the source's own.
        deterministic: take the most probable token.
        env_kwargs: further arguments of the environment.
        trust: load an SB3 zip, which holds pickles.

    Attributes:
        messages: the turns so far. Where an answer has words that spell a control token, they are escaped.

    Raises:
        ValueError: the tokenizer has no chat template, or a system prompt goes with plain text.
    """

    def __init__(
        self,
        source: Any,
        style: Style | None = None,
        system_prompt: str | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
        decoding: Mapping[str, Any] | None = None,
        deterministic: bool = False,
        env_kwargs: Mapping[str, Any] | None = None,
        trust: bool = False,
    ) -> None:
        self.source = Source.of(source, trust).with_decoding(decoding or {})
        self._keeps_cache = self.source.policy is None or isinstance(source, str | Path)  # nobody else has the policy
        name = self.source.tokenizer_name
        self._tokenizer = None if name is None else load_tokenizer(name)
        own = "chat_template" in {**self.source.env_kwargs, **(env_kwargs or {})}
        has_template = own or (self._tokenizer is not None and bool(self._tokenizer.chat_template))
        has_template = has_template or lent_template(self.source, env_kwargs) is not None
        if style == "template" and not has_template:
            raise ValueError(f"{self.source.name} has no chat template: take style 'roles' or 'plain'")
        self.style: Style = style or ("template" if has_template else "plain")
        if system_prompt and self.style == "plain":
            raise ValueError(
                f"system_prompt={system_prompt[:60]!r} needs messages: take style 'roles', or a model with a chat "
                "template"
            )
        self._known = self.source.env_id is not None or self.source.env is not None
        self.max_new_tokens = max_new_tokens if max_new_tokens is not None or self._known else ROOM
        unasked = {} if self.style == "template" else {"chat": False, "system_prompt": None}  # the run's may differ
        self.seed, self.deterministic, self.env_kwargs = seed, deterministic, {**(env_kwargs or {}), **unasked}
        self._start: Messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self.reset()

    def reset(self) -> None:
        """Forget the conversation."""
        self.messages: Messages = list(self._start)
        self._ended = False  # whether the last completion ended by EOS

    def load(self) -> None:
        """Load the model now, and not at the first turn.

        Raises:
            ValueError, OSError: there is no such model, or it cannot be loaded.
        """
        if self._tokenizer is not None:
            tokens = (str(self._tokenizer.decode([i], skip_special_tokens=True)) for i in range(len(self._tokenizer)))
            self._open(self._prompt([{"role": "user", "content": next(text for text in tokens if text.strip())}]))
        elif not self._known:  # else its environment has the words
            self._open("the")

    def say(self, text: str, on_text: Callable[[str], None] | None = None) -> str:
        """Add the user's turn, and return the answer, which is added too. It is the same with and without `on_text`.

        Args:
            text: what the user says. No control token stands in it: what spells one is words.
            on_text: called after every token with the text that is new, which may be "". If it raises a
                `KeyboardInterrupt`, the answer ends there.
        """
        if self._ended and self.style == "plain":
            self.reset()  # after its EOS a model that goes on with texts has nothing to say
        asked = [*self.messages, {"role": "user", "content": text}]
        prompt = self._prompt(asked)
        text = self._complete(prompt) if on_text is None else self._stream(prompt, on_text)
        answer = self._answer(text)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return self._shown(answer)

    def _prompt(self, messages: Messages) -> Prompt:
        if self.style == "template":
            return messages
        if self.style == "roles":
            return role_lines(messages, self._tokenizer)
        prompt = ""
        for message in messages:
            if message["role"] == "assistant":
                prompt += message["content"]
            else:  # what the user writes begins a new word
                space = " " if prompt and not prompt[-1].isspace() else ""
                prompt += space + escape_control_tokens(self._tokenizer, message["content"])
        return prompt

    def _stream(self, prompt: Prompt, on_text: Callable[[str], None]) -> str:
        """Return what the model writes after the prompt, and tell `on_text` what is new of the answer."""
        text = sent = ""

        def send(answer: str) -> None:
            nonlocal sent
            new, sent = answer.removeprefix(sent), answer
            on_text(new)

        def read(episodes: EpisodeBatch) -> None:
            nonlocal text
            text = episodes.texts([0])[1][0]
            send(self._shown(self._answer(text, whole=False)))

        try:
            text = self._complete(prompt, read)
            send(self._shown(self._answer(text)))
        except KeyboardInterrupt:
            text = text.rstrip(BROKEN)
        return text

    def _open(self, prompt: Prompt) -> EpisodeBatch:
        """Return an episode that begins with the prompt, with the model loaded."""
        batch = open_prompts(self.source, [prompt], None, self.max_new_tokens, self.env_kwargs, grows=True)
        if self.source.policy is None:
            self.source = replace(self.source, policy=self.source.build_policy(batch))
        return batch

    def _complete(self, prompt: Prompt, on_step: Callable[[EpisodeBatch], None] | None = None) -> str:
        batch = self._open(prompt)
        seed, self.seed = self.seed, self.seed + 1
        self._ended = False
        options: dict[str, Any] = {"best_of": self.source.best_of, "on_step": on_step}
        with self.source.acting(batch, self._keeps_cache) as policy:
            (done,) = generate_in(batch, policy, np.zeros(1, int), seed, self.deterministic, **options)
        self._ended = done.finish_reason == "eos"
        return done.completion

    def _answer(self, text: str, whole: bool = True) -> str:
        """Return the answer in what a model wrote; if more may come, without an end that may change yet."""
        if not whole:
            text = text.rstrip(BROKEN)
        if self.style == "roles":
            text = text.split(NEXT_TURN)[0]
            begun = range(0 if whole else len(NEXT_TURN) - 1, 0, -1)
            text = text.removesuffix(next((NEXT_TURN[:n] for n in begun if text.endswith(NEXT_TURN[:n])), ""))
        return text if self.style == "plain" else text.strip()

    def _shown(self, answer: str) -> str:
        return answer if self._tokenizer is None else unescape_control_tokens(self._tokenizer, answer)
