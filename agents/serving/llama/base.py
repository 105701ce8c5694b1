"""Translate requests for a server of llama.cpp, which reads a GGUF of the model in a folder."""

from __future__ import annotations

import secrets
from functools import cached_property
from typing import Any

from ..dialect import CountingDialect, plain
from ..errors import Refusal
from ..export.gguf.tokens import Texts
from ..requests import Request

__all__ = ["LlamaDialect"]

SEEDS = 2**32 - 1  # the last one of 32 bits means: none


class LlamaDialect(CountingDialect):
    """Serve as the base of the dialects of llama.cpp's servers, which read a GGUF of the model in a folder."""

    advice = "ask without it"

    @cached_property
    def _texts(self) -> Texts:
        """Return what writes texts for the engine's GGUF, which may have been made elsewhere."""
        return Texts(self._tokenizer, strict=False)

    def translate(self, request: Request) -> dict[str, Any]:
        body = super().translate(request)
        self._check(request, body)
        if "messages" in body:
            body["messages"] = [self._said(message) for message in plain(body["messages"])]
        else:
            body["prompt"] = self._prompt(body["prompt"])
        seed = body.get("seed")
        body["seed"] = secrets.randbelow(SEEDS) if seed is None else seed % SEEDS
        return {**self._drawing(), **body}

    def _said(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message with what its GGUF cannot say done to its content."""
        content = message.get("content")
        return {**message, "content": self._texts.inner(content)} if isinstance(content, str) else message

    def _prompt(self, prompt: Any) -> Any:
        """Return texts with what their GGUF cannot say done: lower case, or a space before the first word."""
        if isinstance(prompt, list):
            return [self._prompt(one) for one in prompt]
        return self._texts(prompt) if isinstance(prompt, str) else prompt

    def _drawing(self) -> dict[str, Any]:
        """Return how tokens are drawn where the request does not say."""
        return {
            "temperature": self.settings.get("temperature", 1.0),
            "top_p": self.settings.get("top_p") or 1.0,
            "top_k": self.settings.get("top_k") or 0,
            "min_p": self.settings.get("min_p") or 0.0,
            "repeat_penalty": self.settings.get("repetition_penalty") or 1.0,
        }

    def _check(self, request: Request, body: dict[str, Any]) -> None:
        """Refuse what the engine would answer wrongly.

        Raises:
            Refusal: it would (400).
        """
        if others := [name for name in body.get("logit_bias", ()) if int(name) >= len(self._tokenizer)]:
            message = f"logit_bias: the model has no token {others[0][:20]}"
            raise Refusal(400, "invalid_request", message, param="logit_bias")
