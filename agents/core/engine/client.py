"""Ask a server that speaks the OpenAI completions protocol for completions as token ids with log-probabilities."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rlhf_envs.api_keys import read_api_key

__all__ = ["Completion", "CompletionsEngine", "EngineError", "Sampling"]

BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another one later
PAUSE = 0.5  # seconds before the first retry, doubled before each further one
TRANSIENT = (OSError, http.client.HTTPException, json.JSONDecodeError)


class EngineError(RuntimeError):
    """Say what an engine did wrong, or that it does not answer."""


class _BusyError(Exception):
    """Hold an answer of the engine that a retry may change."""


class Sampling(NamedTuple):
    """Hold how tokens are drawn, as a `TokenPolicy` draws them.

    Attributes:
        n_tokens: the size of the vocabulary that tokens are drawn from.
        stop_ids: the ids that end a completion; the last one belongs to it.
        seed: seeds the completion; None leaves it to the engine.
    """

    n_tokens: int
    stop_ids: Sequence[int]
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None


class Completion:
    """Hold a completion while an engine writes it.

    Attributes:
        ids: the token ids so far.
        log_probs: the log-probability of each under the distribution it was drawn from, says the engine.
        finish_reason: why it ended, "stop" or "length"; None while it is being written.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.log_probs: list[float] = []
        self.finish_reason: str | None = None
        self.is_cancelled = False
        self._error: EngineError | None = None
        self._n_taken = 0
        self._changed = threading.Condition()

    def take(self) -> tuple[int, float] | None:
        """Wait for the next token and return it with its log-probability; None after the last one.

        Raises:
            EngineError: the engine failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._n_taken < len(self.ids) or self.is_over)
            if self._n_taken < len(self.ids):
                self._n_taken += 1
                return self.ids[self._n_taken - 1], self.log_probs[self._n_taken - 1]
            if self._error is not None:
                raise self._error
            return None

    def wait(self) -> None:
        """Wait for the end.

        Raises:
            EngineError: the engine failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_over)
            if self._error is not None:
                raise self._error

    @property
    def is_over(self) -> bool:
        """Return whether no more tokens come."""
        return self.finish_reason is not None or self._error is not None

    def cancel(self) -> None:
        """Say that no more tokens are wanted: the connection closes with the next answer."""
        self.is_cancelled = True

    def add(self, ids: Sequence[int], log_probs: Sequence[float]) -> None:
        """Append tokens that the engine has written."""
        with self._changed:
            self.log_probs += log_probs
            self.ids += ids
            self._changed.notify_all()

    def end(self, reason: str | EngineError) -> None:
        """Note why no more tokens come."""
        with self._changed:
            if isinstance(reason, EngineError):
                self._error = reason
            else:
                self.finish_reason = reason
            self._changed.notify_all()


class CompletionsEngine:
    """Ask a server for completions over its `/v1/completions`, each in a request of its own, streamed.

    The server gets and returns token ids: text that is tokenised again may be other tokens. vLLM and SGLang return them
    where `return_token_ids` asks for them.

    Args:
        url: the server's address, such as "http://localhost:8000", with or without "/v1".
        model: the name under which it serves the model; by default the first that it lists.
        api_key_env: the environment variable with the API key, if the server wants one.
        timeout: seconds without an answer, or without a next token, after which a request counts as failed.
        retries: how often a request is repeated that fails on the way or is turned away because the server is busy. A
            repeated request goes on from the tokens that came before.
        concurrency: the most requests at a time.

    Raises:
        ValueError: an argument is wrong.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api_key_env: str = "RLHF_ENGINE_API_KEY",
        timeout: float = 120.0,
        retries: int = 3,
        concurrency: int = 256,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"engine={url!r}: expected an address such as http://localhost:8000")
        if not timeout > 0 or retries < 0 or concurrency < 1:
            raise ValueError(
                f"timeout={timeout}, retries={retries}, concurrency={concurrency} of the engine: expected seconds "
                "above 0, a number from 0 on, and a number from 1 on"
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self.timeout, self.retries = timeout, retries
        self._api_key_env, self._model = api_key_env, model
        self._free = threading.BoundedSemaphore(concurrency)

    @property
    def model(self) -> str:
        """Return the name under which the server serves the model.

        Raises:
            EngineError: the server does not answer, or lists no model.
        """
        if self._model is None:
            listed = self.call("GET", "/v1/models").get("data") or []
            if not listed:
                raise EngineError(f"{self.url} serves no model: its /v1/models is empty")
            self._model = str(listed[0]["id"])
        return self._model

    @model.setter
    def model(self, name: str) -> None:
        self._model = name

    def complete(self, prompts: Sequence[Sequence[int]], max_tokens: int, sampling: Sampling) -> list[Completion]:
        """Return the completions of prompts, all at their end.

        Raises:
            EngineError: see `start`.
        """
        completions = [self.start(prompt, max_tokens, sampling) for prompt in prompts]
        for completion in completions:
            completion.wait()
        return completions

    def start(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling) -> Completion:
        """Return the completion of a prompt, which a thread fills as the tokens come.

        Its `take` raises an EngineError if the server does not answer or refuses; if it gives no token ids, no or
        impossible log-probabilities, ids outside the vocabulary, or more tokens than asked for; or if it stops at
        another token than the `stop_ids`.
        """
        completion, model = Completion(), self.model
        body = {
            "model": model,
            "stream": True,
            "return_token_ids": True,
            "logprobs": 1,
            "temperature": sampling.temperature,
            "top_k": -1 if sampling.top_k is None else sampling.top_k,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            # the server's own defaults may come from the model's generation_config.json
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(sampling.stop_ids),
            **({} if sampling.seed is None else {"seed": sampling.seed}),
        }
        arguments = (completion, list(prompt), max_tokens, body, sampling)
        threading.Thread(target=self._fill, args=arguments, daemon=True).start()
        return completion

    def _fill(
        self, completion: Completion, prompt: list[int], max_tokens: int, body: dict[str, Any], sampling: Sampling
    ) -> None:
        """Write what the server answers into the completion, and ask again where that fails on the way."""
        try:
            for attempt in range(self.retries + 1):
                try:
                    with self._free:
                        self._stream(completion, prompt, max_tokens, body, sampling)
                    return
                except (*TRANSIENT, _BusyError) as error:
                    if attempt == self.retries or completion.is_cancelled:
                        raise self._explained(error) from error
                    time.sleep(PAUSE * 2**attempt)
        except EngineError as error:
            completion.end(error)
        except Exception as error:  # a thread's own error would reach nobody
            completion.end(EngineError(f"{self.url} gave an answer of another form: {type(error).__name__}: {error}"))

    def _stream(
        self, completion: Completion, prompt: list[int], max_tokens: int, body: dict[str, Any], sampling: Sampling
    ) -> None:
        left = max_tokens - len(completion.ids)
        asked = body | {"prompt": prompt + completion.ids, "max_tokens": left}
        with closing(self._choices(asked)) as choices:
            for choice in choices:
                if completion.is_cancelled:
                    completion.end("cancelled")
                    return
                ids, log_probs = _read_tokens(choice, self.url)
                self._check(ids, log_probs, left, sampling)
                left -= len(ids)
                completion.add(ids, log_probs)
                if (reason := choice.get("finish_reason")) is not None:
                    self._check_end(completion, reason, sampling)
                    completion.end(reason)
                    return
        raise http.client.HTTPException("the answer ended before the completion did")

    def _choices(self, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Yield the parts of an answer, as the server sends them."""
        with self._request("POST", "/v1/completions", body) as response:
            last = time.monotonic()
            for line in response:
                if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                    content = json.loads(data)
                    if "error" in content:
                        raise EngineError(f"{self.url} failed: {_words(content)}")
                    if choices := content.get("choices"):
                        if len(choices) != 1:
                            raise EngineError(f"{self.url} gave {len(choices)} choices in one part: expected 1")
                        last = time.monotonic()
                        yield choices[0]
                if time.monotonic() - last > self.timeout:
                    raise TimeoutError(f"no token for {self.timeout:g} seconds")

    def _check(self, ids: list[int], log_probs: list[float], left: int, sampling: Sampling) -> None:
        if len(ids) > left:
            raise EngineError(f"{self.url} gave {len(ids)} tokens where at most {left} were left to draw")
        for token, log_prob in zip(ids, log_probs, strict=True):
            if not 0 <= token < sampling.n_tokens:
                raise EngineError(
                    f"{self.url} drew token {token}, and the vocabulary here has {sampling.n_tokens} tokens: it serves "
                    "another model, or one whose embedding has more rows than the tokenizer has tokens"
                )
            if not math.isfinite(log_prob) or log_prob > 1e-3:
                raise EngineError(f"{self.url} gave token {token} the log-probability {log_prob}")

    def _check_end(self, completion: Completion, reason: str, sampling: Sampling) -> None:
        if reason not in ("stop", "length") or not completion.ids:
            raise EngineError(f"{self.url} ended a completion of {len(completion.ids)} tokens with {reason!r}")
        if reason == "stop" and completion.ids[-1] not in sampling.stop_ids:
            raise EngineError(
                f"{self.url} stopped after token {completion.ids[-1]}, and episodes here end with one of "
                f"{list(sampling.stop_ids)}: it has another EOS in its generation_config.json, or leaves the EOS out"
            )

    # Requests

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return the answer's JSON; `{"text": ...}` if it is a text.

        Raises:
            EngineError: the server does not answer or refuses.
        """
        for attempt in range(self.retries + 1):
            try:
                with self._request(method, path, body) as response:
                    text = response.read().decode(errors="replace")
                break
            except (*TRANSIENT, _BusyError) as error:
                if attempt == self.retries:
                    raise self._explained(error) from error
                time.sleep(PAUSE * 2**attempt)
        try:
            content = json.loads(text)
        except json.JSONDecodeError:
            content = text
        return content if isinstance(content, dict) else {"text": text}

    @contextmanager
    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give the answer, which is closed at the end of the `with` block."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json"}
        try:
            key = read_api_key(self._api_key_env)
        except ValueError as error:
            raise EngineError(f"{self.url}: {error}") from None
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        with closing(kind(parts.netloc, timeout=self.timeout)) as connection:
            connection.request(method, parts.path + path, None if body is None else json.dumps(body), headers)
            with connection.getresponse() as response:
                if response.status >= 300:
                    words = f"{response.status} for {path}: {_words(response.read().decode(errors='replace'))}"
                    raise _BusyError(words) if response.status in BUSY else EngineError(f"{self.url} answered {words}")
                yield response

    def _explained(self, error: Exception) -> EngineError:
        """Return an error of the way to the server, with what can be done about it."""
        tried = f"after {self.retries + 1} tries"
        if isinstance(error, _BusyError):
            return EngineError(f"{self.url} answered {error} ({tried})")
        reason = str(error) or type(error).__name__
        return EngineError(
            f"the engine at {self.url} does not answer ({reason}, {tried}): start it, or look at its log; a run that "
            "left a checkpoint goes on with --resume"
        )


def _read_tokens(choice: Mapping[str, Any], url: str) -> tuple[list[int], list[float]]:
    """Return the token ids and log-probabilities of a part of an answer."""
    ids = choice.get("token_ids")
    log_probs = (choice.get("logprobs") or {}).get("token_logprobs")
    if ids is None and choice.get("text"):
        raise EngineError(
            f"{url} gives no token ids: it needs to know return_token_ids, as vLLM and SGLang do. Text is not "
            "tokenised again here, because it may be other tokens than the engine drew"
        )
    if not ids:  # the last part of an answer may be empty
        return [], []
    if log_probs is None or len(log_probs) != len(ids) or None in log_probs:
        n = 0 if log_probs is None else len(log_probs)
        raise EngineError(f"{url} gave {n} log-probabilities for {len(ids)} tokens: it needs to know logprobs")
    return [int(i) for i in ids], [float(p) for p in log_probs]


def _words(answer: Any) -> str:
    """Return what a server says in an answer, without the form around it."""
    if isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except json.JSONDecodeError:
            return answer[:500].strip() or "nothing"
    while isinstance(answer, Mapping):
        inner = next((answer[key] for key in ("error", "message", "detail") if answer.get(key)), None)
        if inner is None:
            break
        answer = inner
    return str(answer)[:500]
