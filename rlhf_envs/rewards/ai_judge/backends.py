"""Put a question to a judge: to a server that speaks OpenAI's chat protocol, or to a local model."""

from __future__ import annotations

import http.client
import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from rlhf_envs.api_keys import read_api_key
from rlhf_envs.datasets.messages import role_lines
from rlhf_envs.datasets.templates import render
from rlhf_envs.feedback.suggesting import version_of
from rlhf_envs.models import load_causal_lm, load_tokenizer, resolve
from rlhf_envs.models.devices import find_device
from rlhf_envs.rewards.scores import RewardError

from .settings import JudgeSettings

__all__ = ["Backend", "JudgeError", "LocalModel", "Refused", "Reply", "Server"]

BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # answers that may be another one later
PAUSE = 0.5  # seconds before the first retry, doubled before each further one
LONGEST_PAUSE = 60.0
LARGEST_ANSWER = 4 * 2**20  # bytes
TRANSIENT = (OSError, http.client.HTTPException)


class JudgeError(RewardError):
    """Say what a judge did wrong, or that it cannot be asked."""


class Refused(Exception):
    """Signal that a server takes this one question not, such as one that is too long for its model."""


class Reply(NamedTuple):
    """Hold an answer, and how many tokens it and its question have."""

    text: str
    tokens: int


class Backend(Protocol):
    """Describe what answers questions. It may be called by several threads at once."""

    def ask(self, messages: list[dict[str, str]], options: Sequence[str], spend: Callable[[], None]) -> Reply:
        """Return the answer to a chat. `spend` is called before every request, and may raise."""

    def fingerprint(self) -> str:
        """Return what tells its model from others."""


class Server:
    """Ask a server over its `/v1/chat/completions`. Busy servers and broken answers are asked again, with pauses."""

    def __init__(self, settings: JudgeSettings) -> None:
        assert settings.url is not None
        parts = urlsplit(settings.url)
        self._parts, self._settings = parts, settings
        self._path = f"{parts.path.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
        self._place = f"{parts.scheme}://{parts.netloc}"
        self._free = threading.BoundedSemaphore(settings.concurrency)

    def fingerprint(self) -> str:
        """Return the model's name at the server; what stands behind the name is the server's affair."""
        return self._settings.model

    def ask(self, messages: list[dict[str, str]], options: Sequence[str], spend: Callable[[], None]) -> Reply:
        """Return the answer to a chat.

        Raises:
            JudgeError: the server does not answer, refuses the key, or answers in another form at every try.
            Refused: it takes this question not.
        """
        body = {
            "model": self._settings.model,
            "messages": messages,
            "temperature": self._settings.temperature,
            "max_tokens": self._settings.max_tokens,
        }
        data = json.dumps(body).encode()
        problem = ""
        for attempt in range(self._settings.retries + 1):
            spend()
            pause = PAUSE * 2**attempt * random.uniform(0.75, 1.25)
            try:
                with self._free:
                    status, text, wait = self._post(data)
            except TRANSIENT as error:
                problem = str(error) or type(error).__name__
            else:
                if status < 300:
                    try:
                        return _read_reply(text, messages)
                    except ValueError as error:
                        problem = f"answered in another form than a chat completion: {error}: {text[:120]!r}"
                else:
                    problem = f"answered {status}: {_words(text)}"
                    if status not in BUSY:
                        if status in (400, 413, 422):
                            raise Refused(problem)
                        raise JudgeError(f"the judge at {self._place} {problem}{self._about_key(status)}")
                    pause = max(pause, min(wait, LONGEST_PAUSE))
            if attempt < self._settings.retries:
                time.sleep(min(pause, LONGEST_PAUSE))
        raise JudgeError(f"the judge at {self._place}: {problem} (after {self._settings.retries + 1} tries)")

    def _post(self, data: bytes) -> tuple[int, str, float]:
        """Send a request. Return the status, the body, and for how many seconds the server asks to wait."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json"}
        if name := self._settings.api_key_env:
            headers["Authorization"] = f"Bearer {self._key(name)}"
        end = time.monotonic() + self._settings.timeout
        with closing(kind(self._parts.netloc, timeout=self._settings.timeout)) as connection:
            connection.request("POST", self._path, data, headers)
            with connection.getresponse() as response:
                parts, size = [], 0
                while part := response.read1(65536):
                    parts.append(part)
                    size += len(part)
                    if size > LARGEST_ANSWER:
                        raise JudgeError(f"the judge at {self._place} answered with more than {LARGEST_ANSWER:,} bytes")
                    if time.monotonic() > end:  # the socket's own limit is for each part
                        raise TimeoutError(f"no whole answer within {self._settings.timeout:g} seconds")
                text = b"".join(parts).decode(errors="replace")
                return response.status, text, _seconds(response.getheader("Retry-After"))

    def _key(self, name: str) -> str:
        try:
            key = read_api_key(name)
        except ValueError as error:
            raise JudgeError(f"the judge at {self._place}: {error}") from None
        if key is None:
            raise JudgeError(f"the judge at {self._place} needs a key: set the environment variable {name}")
        return key

    def _about_key(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        name = self._settings.api_key_env
        return f"; the key is in {name}" if name else "; it wants a key: name its variable, api_key_env: ..._API_KEY"


class LocalModel:
    """Ask a causal language model on this machine which of the possible verdicts is the likeliest to follow.

    So it always has a verdict, and gives no reason. Without possible verdicts it writes its likeliest answer. The
    question is in the model's chat template if it has one, and one that is too long for the model is refused. The model
    is loaded at the first question.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._loaded: Any = None

    def fingerprint(self) -> str:
        """Return a hash of the model's files."""
        return version_of(resolve(self._settings.model)) or self._settings.model

    def ask(self, messages: list[dict[str, str]], options: Sequence[str], spend: Callable[[], None]) -> Reply:
        """Return the likeliest option, by the mean log-probability of its tokens; without options what it writes."""
        with self._lock:
            spend()
            model, tokenizer = self._load()
            if options:
                return _likeliest(model, tokenizer, messages, options)
            return _written(model, tokenizer, messages, self._settings.max_tokens)

    def _load(self) -> Any:
        if self._loaded is None:
            model: Any = load_causal_lm(self._settings.model)
            self._loaded = model.to(find_device("auto")), load_tokenizer(self._settings.model)
        return self._loaded


def _likeliest(model: Any, tokenizer: Any, messages: list[dict[str, str]], options: Sequence[str]) -> Reply:
    import torch

    begin = _opening(tokenizer, messages)
    best, most = "", -math.inf
    longest = getattr(model.config, "max_position_embeddings", None)
    total = 0
    for option in options:
        ids = tokenizer(option, add_special_tokens=False)["input_ids"]
        if longest is not None and len(begin) + len(ids) > longest:
            raise Refused(f"the question has {len(begin) + len(ids)} tokens, and the model reads {longest}")
        row = torch.tensor([begin + ids], device=model.device)  # (1, tokens)
        with torch.no_grad():
            log_probs = model(row).logits[0, len(begin) - 1 : -1].float().log_softmax(-1)  # (option, vocabulary)
        total += row.shape[1]
        mean = float(log_probs.gather(1, row[0, len(begin) :, None]).mean())
        if mean > most:
            best, most = option, mean
    return Reply(best, total)


def _written(model: Any, tokenizer: Any, messages: list[dict[str, str]], most: int) -> Reply:
    """Return the answer that a model writes, token by token the likeliest."""
    import torch

    begin = _opening(tokenizer, messages)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and len(begin) >= longest:
        raise Refused(f"the question has {len(begin)} tokens, and the model reads {longest}")
    row = torch.tensor([begin], device=model.device)  # (1, tokens)
    n = most if longest is None else min(most, longest - len(begin))
    with torch.no_grad():
        ids = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=n, do_sample=False)[0]
    return Reply(tokenizer.decode(ids[len(begin) :], skip_special_tokens=True), len(ids))


def _opening(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Return the tokens of a chat, with the assistant's turn begun."""
    if getattr(tokenizer, "chat_template", None):
        text = render(tokenizer, messages, add_generation_prompt=True)
    else:
        text = role_lines(messages, tokenizer)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _read_reply(text: str, messages: list[dict[str, str]]) -> Reply:
    """Return the text and the tokens of a chat completion; ValueError if it is none."""
    try:
        content = json.loads(text)
        answer = content["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}") from None
    if answer is None:  # a model that only thought, until its tokens were spent
        answer = ""
    if not isinstance(answer, str):
        raise ValueError("its content is no text")
    usage = content.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:  # not told: about 4 characters each
        tokens = (sum(len(message["content"]) for message in messages) + len(answer)) // 4 + 1
    return Reply(answer, tokens)


def _words(text: str) -> str:
    """Return the message of an error's JSON, or its beginning."""
    try:
        error = json.loads(text)["error"]
        words = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError, RecursionError):
        words = text
    return " ".join(str(words).split())[:200]


def _seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After; 0 for none, or for a date."""
    try:
        seconds = float(header or 0)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
