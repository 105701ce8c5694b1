"""Translate requests for llama.cpp's own server, `llama-server`, and put its answers into OpenAI's shape.

What it does otherwise than OpenAI's API says, as of build b11434, and what is done about it here:

- It draws with a temperature of 0.8, top-p 0.95, top-k 40 and min-p 0.05 where a request does not say, and writes to
  the end of the context: the run's own settings are sent.
- It ignores `echo`, `suffix` and `best_of`, and a token in `logit_bias` that it does not have: refused.
- `logprobs: 0`, and `top_logprobs: 0` of a chat, give no log-probabilities: one is asked for, and taken out.
- Log-probabilities of a text have the shape of a chat's: they get that of a text.
- A character of several tokens has the log-probability of the last one alone: such an answer is refused.
- Of several prompts or completions one is counted: the tokens are counted here.
- A chat that ends with the assistant's message is a text to go on with, and comes back with it: refused.
- Tools that it cannot read are an error of its own (500): that is a 400.
- Its slots share one context. Once they need more together, it ends them all with an error (500): that is a 503.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..dialect import Reader
from ..errors import Refusal
from ..export.gguf.tokens import Texts
from ..requests import ChatRequest, CompletionRequest, Request
from .base import LlamaDialect

__all__ = ["LlamaServerDialect"]

# Its errors with the status 500 that are none of its own.
FULL, UNREAD = "Context size has been exceeded", ("Failed to parse tools", "Failed to parse messages")


class LlamaServerDialect(LlamaDialect):
    """Hand requests on to `llama-server`."""

    engine = "llama-server"
    neutral = {"best_of": (None, 1), "echo": (None, False), "suffix": (None, "")}
    at_once = 4  # as many as it has slots, unless it is told otherwise

    def translate(self, request: Request) -> dict[str, Any]:
        body = super().translate(request)
        if request.stream:
            body["stream_options"] = {"include_usage": True}
        if request.is_scored:
            name = "top_logprobs" if isinstance(request, ChatRequest) else "logprobs"
            body[name] = max(_n_alternatives(request), 1)
        return body

    def failure(self, words: str) -> Refusal | None:
        if words.startswith(UNREAD):
            message = "the engine cannot read the tools, or the tool calls of a message: they lack the API's shape"
            return Refusal(400, "engine_refused", message)
        if FULL in words:
            message = "the engine had no room for all that it wrote at once: try again soon, or ask for fewer tokens"
            return Refusal(503, "engine_busy", message, retry_after=2)
        return None

    def reader(self, request: Request) -> Reader:
        return _Reads(request, self._tokenizer, self._texts)

    def usage(self, request: Request, texts: Sequence[str]) -> dict[str, int]:
        found = super().usage(request, texts)
        if isinstance(request, CompletionRequest) and isinstance(request.prompt, list):
            found["prompt_tokens"] = sum(self._lengths(request.prompt))
            found["total_tokens"] = found["prompt_tokens"] + found["completion_tokens"]
        return found

    def _count(self, body: dict[str, Any]) -> tuple[int, str]:
        if isinstance(prompt := body.get("prompt"), list):
            lengths = self._lengths(prompt)
            return max(lengths, default=0) if all(lengths) else 0, "prompt"
        return super()._count(body)

    def _lengths(self, prompt: list[Any]) -> list[int]:
        """Return how many tokens each prompt has."""
        prompts = [prompt] if prompt and isinstance(prompt[0], int) else prompt
        return [len(self._tokenizer(one)["input_ids"] if isinstance(one, str) else one) for one in prompts]

    def _check(self, request: Request, body: dict[str, Any]) -> None:
        super()._check(request, body)
        if body.get("messages") and body["messages"][-1]["role"] == "assistant":
            self.refuse("messages", f": the engine, {self.engine}, would go on with the last one, the assistant's")
        prompt = body.get("prompt", "")
        ids = [id for one in prompt for id in (one if isinstance(one, list) else [one]) if isinstance(id, int)]
        if others := [id for id in ids if id >= len(self._tokenizer)]:
            raise Refusal(400, "invalid_request", f"prompt: the model has no token {others[0]}", param="prompt")


def _n_alternatives(request: Request) -> int:
    """Return of how many tokens beside each one the log-probabilities are asked for."""
    return (request.top_logprobs if isinstance(request, ChatRequest) else getattr(request, "logprobs", 0)) or 0


class _Reads:
    """Put an answer, or its parts one after the other, into OpenAI's shape."""

    def __init__(self, request: Request, tokenizer: Any, texts: Texts) -> None:
        self._is_text, self._n = not isinstance(request, ChatRequest), _n_alternatives(request)
        prompt = getattr(request, "prompt", "")
        self._is_one = (request.n or 1) == 1 and (isinstance(prompt, str) or isinstance(next(iter(prompt), 0), int))
        self._tokenizer, self._texts = tokenizer, texts
        self._written = Counter[int]()  # characters of each choice

    def __call__(self, content: dict[str, Any]) -> dict[str, Any]:
        try:
            for choice in content.get("choices") or ():
                if entries := (choice.get("logprobs") or {}).get("content"):
                    choice["logprobs"] = self._scores(choice, entries)
                if self._is_text:
                    self._written[choice.get("index", 0)] += len(choice.get("text") or "")
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise Refusal(502, "engine_error", "the engine's answer does not have llama-server's shape") from error
        return content if self._is_one or "usage" not in content else {**content, "usage": None}  # counted here

    def _scores(self, choice: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
        for entry in entries:
            own = self._tokenizer.convert_ids_to_tokens(entry["id"])
            if own not in self._tokenizer.all_special_tokens and len(entry["bytes"]) > self._texts.n_bytes(own):
                message = "the engine lost log-probabilities of a character that takes several tokens: ask without them"
                raise Refusal(502, "engine_without_logprobs", message, param="logprobs")
            entry["top_logprobs"] = entry["top_logprobs"][: self._n]
        if not self._is_text:
            return {"content": [_without_id(entry) for entry in entries]}
        begins, offsets = self._written[choice.get("index", 0)], []
        for entry in entries:
            offsets.append(begins)
            begins += len(entry["token"])
        return {
            "tokens": [_name(entry) for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [{_name(other): other["logprob"] for other in entry["top_logprobs"]} for entry in entries],
            "text_offset": offsets,
        }


def _without_id(entry: dict[str, Any]) -> dict[str, Any]:
    others = [{name: value for name, value in other.items() if name != "id"} for other in entry["top_logprobs"]]
    return {**{name: value for name, value in entry.items() if name != "id"}, "top_logprobs": others}


def _name(entry: dict[str, Any]) -> str:
    """Return a token as its text; of a part of a character as OpenAI does, by its bytes."""
    try:
        return bytes(entry["bytes"]).decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry["bytes"])
