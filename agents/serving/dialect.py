"""Translate requests for the engine, and refuse what it would answer wrongly without a word.

As of transformers 5.23 `transformers serve` takes and ignores `logprobs`, `n`, `presence_penalty` and others, reads
`frequency_penalty` as another kind of penalty, keeps the stop text in the answer, writes 1,024 tokens where none are
named, and fails (500) over a prompt that is empty or too long
(findings/transformers_serve_answers_without_logprobs.sh). What llama.cpp's servers do is in
`llama/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rlhf_envs.models import load_tokenizer, model_positions

from .errors import Refusal
from .requests import Request

__all__ = ["CountingDialect", "Dialect", "Reader", "StopCutter", "TransformersDialect", "plain"]

Reader = Callable[[dict[str, Any]], dict[str, Any]]
MAX_NEW_TOKENS = 256  # of a model that does not say how long it writes
ELSEWHERE = (
    "serve the model with another engine, such as vLLM or llama.cpp, and give its address: rlhf serve --upstream"
)
# Fields with the values that change nothing; any other would be ignored, or mean something else.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "tool_choice": (None, "auto"),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
}
DROPPED = ("stream_options", "user", "metadata", "store")  # a stream's last chunk has the usage anyway


class Dialect:
    """Hand requests on as they are, to an engine that knows OpenAI's API.

    Attributes:
        at_once: requests that the engine answers at once, if nobody says otherwise.
        most_at_once: the most that it answers at once, whatever is said; None if others wait there without harm.
        names_ends: whether a stream without a `finish_reason` was cut off, also if it says that it is done.
    """

    at_once = 64
    most_at_once: int | None = None
    names_ends = False

    def translate(self, request: Request) -> dict[str, Any]:
        """Return the body for the engine, without its model.

        Raises:
            Refusal: the engine could not answer (400).
        """
        # What is ours: whose the request is, and whether it may be kept.
        without = {"model", "user", "metadata", "store"}
        body = request.model_dump(exclude_unset=True, exclude_none=True, exclude=without)
        if request.stream:
            body["stream_options"] = {"include_usage": True}  # for the metrics; clients get it if they asked
        return body

    def usage(self, request: Request, texts: Sequence[str]) -> dict[str, int] | None:
        """Return the tokens of an answer whose engine does not say them; None if they cannot be counted here."""
        return None

    def cutter(self, request: Request) -> StopCutter | None:
        """Return what cuts the answer at the stop texts, if the engine does not."""
        return None

    def reader(self, request: Request) -> Reader | None:
        """Return what puts the answer, or its parts in their order, into OpenAI's shape, if they have another."""
        return None

    def failure(self, words: str) -> Refusal | None:
        """Return what clients are told of an error of the engine's that has these words, if they are known."""
        return None


class CountingDialect(Dialect):
    """Count the tokens of prompts, and keep to what the model and the engine can do.

    Args:
        folder: a Hugging Face folder of the model that the engine serves.

    Attributes:
        engine: the engine's name in messages.
        advice: what to do instead, in messages.
        neutral: fields that the engine ignores or misreads, with the values that change nothing.
        settings: the model's `generation_config.json`.
    """

    engine: str
    advice: str
    neutral: dict[str, tuple[Any, ...]]
    at_once = 1

    def __init__(self, folder: str | Path) -> None:
        self._tokenizer = load_tokenizer(str(folder))
        self._positions = model_positions(str(folder))
        file = Path(folder) / "generation_config.json"
        self.settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self._max_new_tokens = int(self.settings.get("max_new_tokens") or MAX_NEW_TOKENS)

    def translate(self, request: Request) -> dict[str, Any]:
        body = request.model_dump(exclude_unset=True, exclude={"model", "max_tokens", "max_completion_tokens"})
        for name, neutral in self.neutral.items():
            if name in body and not _is_any(value := body.pop(name), neutral):
                self.refuse(name, f"={value!r}: the engine, {self.engine}, does not know it")
        for name in DROPPED:
            body.pop(name, None)
        body = {name: value for name, value in body.items() if value is not None}  # null says nothing
        n_prompt, field = self._count(body)
        return {
            **{name: value for name, value in body.items() if value is not None},
            "max_tokens": self._room(n_prompt, _asked(request), field),
        }

    def refuse(self, name: str, why: str) -> NoReturn:
        """Refuse a field.

        Raises:
            Refusal: always (400).
        """
        raise Refusal(400, "unsupported_parameter", f"{name}{why}: {self.advice}", param=name)

    def usage(self, request: Request, texts: Sequence[str]) -> dict[str, int]:
        n_prompt, _ = self._count(request.model_dump(exclude_unset=True))
        most = _asked(request) or self._max_new_tokens  # parts of characters would count more than once
        n = sum(min(self._length(text, add_special_tokens=False), most) for text in texts)
        return {"prompt_tokens": n_prompt, "completion_tokens": n, "total_tokens": n_prompt + n}

    def _count(self, body: dict[str, Any]) -> tuple[int, str]:
        """Return how many tokens a prompt has, and the name of its field."""
        if "messages" not in body:
            if not isinstance(body["prompt"], str):
                self.refuse("prompt", f": the engine, {self.engine}, takes one text")
            return self._length(body["prompt"]), "prompt"
        if not self._tokenizer.chat_template:
            message = "this model has no chat template: use /v1/completions"
            raise Refusal(400, "no_chat_template", message, param="messages")
        try:
            text: Any = self._tokenizer.apply_chat_template(
                plain(body["messages"]), tools=body.get("tools"), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # whatever the template raises: it is the model's, and the messages the client's
            message = f"messages do not suit the model's chat template: {type(error).__name__}: {str(error)[:200]}"
            raise Refusal(400, "invalid_messages", message, param="messages") from error
        return self._length(text, add_special_tokens=False), "messages"

    def _length(self, text: str, add_special_tokens: bool = True) -> int:
        """Return how many tokens a text has. What is too long is refused: no warning has to say so."""
        return len(self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])

    def _room(self, n_prompt: int, asked: int | None, field: str) -> int:
        """Return how many tokens to write at most."""
        if not n_prompt:
            raise Refusal(400, "empty_prompt", f"{field}: it has no token", param=field)
        wanted = asked or self._max_new_tokens
        if self._positions is None:
            return wanted
        left = self._positions - n_prompt
        if left < (asked or 1):
            message = f"the model takes {self._positions} tokens: {field} has {n_prompt}"
            message += f" and max_tokens is {asked}" if asked else ""
            raise Refusal(400, "context_length_exceeded", message, param=field)
        return min(wanted, left)


class TransformersDialect(CountingDialect):
    """Hand requests on to a `transformers serve` of the model in a folder."""

    engine, advice, neutral = "transformers serve", ELSEWHERE, NEUTRAL

    def cutter(self, request: Request) -> StopCutter | None:
        stops = [request.stop] if isinstance(request.stop, str) else request.stop
        return StopCutter(stops) if stops else None


def _asked(request: Request) -> int | None:
    """Return how many tokens a request asks for at most."""
    return request.max_tokens or getattr(request, "max_completion_tokens", None)


def _is_any(value: Any, others: Sequence[Any]) -> bool:
    """Return whether a value is one of others, with its type: `logprobs=0` is not False."""
    return any(type(value) is type(other) and value == other for other in others)


def plain(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose parts are joined to one text each, as the engine joins them."""
    return [
        {**message, "content": "".join(part["text"] for part in content)}
        if isinstance(content := message.get("content"), list)
        else message
        for message in messages
    ]


class StopCutter:
    """Cut a text that comes in pieces before the first of some stop texts.

    Args:
        stops: the texts, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held, self.is_cut = [*stops], "", False

    def feed(self, text: str) -> str:
        """Return what can be given out after another piece; the rest may be the beginning of a stop text."""
        if self.is_cut:
            return ""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.is_cut, self._held = True, ""
            return text[: min(places)]
        begun = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]

    def end(self) -> str:
        """Return what was held back, once no more comes."""
        held, self._held = self._held, ""
        return "" if self.is_cut else held
