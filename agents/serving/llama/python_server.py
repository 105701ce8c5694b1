"""Translate requests for the server of llama-cpp-python (`python -m llama_cpp.server`).

What it does otherwise than OpenAI's API says, as of 0.3.36, and what is done about it here:

- It draws with a temperature of 0.8, top-p 0.95, top-k 40, min-p 0.05 and a repetition penalty of 1.1 where a request
  does not say, and a chat goes on to the end of the context: the run's own settings are sent.
- Without a seed a request draws with one that follows from the last request's: a new one is sent.
- It ignores `n`, `best_of`, `max_completion_tokens`, `stream_options` and a stream's `echo`, knows no lists of prompts
  and no roles "developer", and fails (500) over a token in `logit_bias` that it does not have: refused, or translated.
- `suffix` puts the token 0 around the prompt; an echoed prompt without BOS has the log-probabilities of its tokens
  after themselves; a stream with log-probabilities loses characters that take several tokens: refused.
- A GGUF cannot say what the tokenizer does before it splits a text, such as lower case: it is done here.
- It answers one request at a time, and a stream that is running ends when another request comes, even one for
  `/v1/models`: it says that it is done, but names no end. One request is sent at a time, and such a stream is broken.
"""

from __future__ import annotations

from typing import Any

from ..requests import Request
from .base import LlamaDialect

__all__ = ["LlamaCppPythonDialect"]


class LlamaCppPythonDialect(LlamaDialect):
    """Hand requests on to llama-cpp-python's server."""

    engine = "llama-cpp-python"
    neutral = {"n": (None, 1), "best_of": (None, 1), "suffix": (None, "")}
    most_at_once = 1  # another request ends the stream that is running
    names_ends = True

    def translate(self, request: Request) -> dict[str, Any]:
        body = super().translate(request)
        if "messages" in body and body.get("logprobs"):
            body.setdefault("top_logprobs", 0)  # without it there are none
        return body

    def _check(self, request: Request, body: dict[str, Any]) -> None:
        super()._check(request, body)
        its = f"the engine, {self.engine},"
        if request.is_scored and request.stream:
            self.refuse("logprobs", f": in a stream with them {its} loses characters that take several tokens")
        if body.get("echo") and (request.stream or request.is_scored):
            self.refuse("echo", f": {its} does not give it in a stream, and not with log-probabilities")
        kind = (body.get("response_format") or {}).get("type", "text")
        if kind not in ("text", "json_object"):
            self.refuse("response_format", f": {its} knows text and json_object, not {str(kind)[:100]!r}")
        if any(message["role"] == "developer" for message in body.get("messages", ())):
            self.refuse("messages", f": {its} knows no role 'developer'; take 'system'")
