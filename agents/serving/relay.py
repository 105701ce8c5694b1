"""Ask the engine, check what it answers, and give that out under our own id and our model's name."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from rlhf_envs.privacy import Masker

from .dialect import Reader, StopCutter
from .engine import Engine
from .errors import Refusal
from .masking import MaskedChoices
from .requests import MOST_CHOICES

__all__ = ["Answer", "Asked", "as_event", "ask", "open_stream"]

MAX_ANSWER = 64 * 2**20  # bytes
# An engine may close a connection just as it is used again. That shows at once; then the request is sent once more.
CLOSED, STALE_SECONDS = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError), 1.0
END_SECONDS = 0.1  # for the end of a stream after "[DONE]"


@dataclass
class Asked:
    """Hold a request as it is sent to the engine, and how its answer is given out.

    Attributes:
        path: of the engine's address: "/v1/chat/completions" or "/v1/completions".
        body: what is sent.
        id: the completion's id for our client.
        model: the model's name for our client.
        is_scored: whether log-probabilities are asked for.
        cutter: cuts the text at the stop texts; None if the engine does.
        reader: puts what the engine says into OpenAI's shape; None if it has that.
        usage: counts the tokens of these texts, if the engine does not say them; gives None if it cannot.
        masker: masks private data in the answer; None leaves it as it is.
        n_choices: how many completions are asked for.
        wants_usage: whether a stream's client asked for the tokens.
    """

    path: str
    body: dict[str, Any]
    id: str
    model: str
    is_scored: bool
    cutter: StopCutter | None
    usage: Callable[[Sequence[str]], Awaitable[dict[str, int] | None]]
    reader: Reader | None = None
    masker: Masker | None = None
    n_choices: int = 1
    wants_usage: bool = False

    @property
    def is_chat(self) -> bool:
        """Return whether the answer is a message."""
        return self.path.endswith("chat/completions")

    def masks(self) -> MaskedChoices | None:
        """Return what masks one answer, if it is masked."""
        return None if self.masker is None else MaskedChoices(self.masker, self.is_chat)


@dataclass
class Answer:
    """Hold what is known of an answer, also while it comes.

    Attributes:
        texts: the texts of its choices, as the engine wrote them.
        prompt_tokens: as the engine counts them.
        first: when the first text came, by `time.monotonic`.
        last: when the engine was last heard.
        is_whole: whether it came to its end.
        is_counted: whether its tokens were said.
    """

    texts: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first: float | None = None
    last: float = 0.0
    is_whole: bool = False
    is_counted: bool = False

    def add(self, choice: int, text: str) -> None:
        """Append a piece to a choice's text."""
        if not 0 <= choice < MOST_CHOICES:
            raise Refusal(502, "engine_error", "the engine's answer has a choice that was not asked for")
        self.texts += [""] * (choice + 1 - len(self.texts))
        self.texts[choice] += text
        if text and self.first is None:
            self.first = time.monotonic()

    def count(self, content: dict[str, Any]) -> None:
        """Take over the tokens that an answer says it has."""
        usage = content.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _whole(usage.get("prompt_tokens"))
            self.completion_tokens = _whole(usage.get("completion_tokens"))
            self.is_counted = True


async def ask(client: httpx2.AsyncClient, engine: Engine, asked: Asked) -> tuple[dict[str, Any], Answer]:
    """Return the engine's whole answer, as it goes to the client.

    Raises:
        Refusal: the engine refuses, is away, or answers nonsense.
    """
    async with AsyncExitStack() as stack:
        response = await _send(client, engine, asked, stack)
        content = _content(await _read(response, engine), asked)
    answer, masks = Answer(is_whole=True, last=time.monotonic()), asked.masks()
    choices = []
    for choice in _check(content, engine, asked):
        place, text = _whole(choice.get("index")), _text_of(choice, asked)
        if asked.cutter is not None:
            cut = asked.cutter.feed(text) + asked.cutter.end()
            if asked.cutter.is_cut:
                choice["finish_reason"] = "stop"
            _put_text(choice, cut, asked)
            text = cut
        answer.add(place, text)
        choices.append(choice if masks is None else await masks.whole(place, choice, text))
    _check_number(len(choices), asked)
    answer.count(content)
    if not answer.is_counted and (usage := await asked.usage(answer.texts)) is not None:
        content["usage"] = usage
        answer.count(content)
    content = {**content, "choices": choices} if masks is None else masks.envelope(content, choices)
    return {**content, "id": asked.id, "model": asked.model}, answer


async def open_stream(
    client: httpx2.AsyncClient, engine: Engine, asked: Asked, stack: AsyncExitStack
) -> tuple[AsyncIterator[bytes], Answer]:
    """Ask for a stream. Return its server-sent events and what becomes known of the answer while they are read.

    The first event is read already, so that an engine that refuses or lies is found out before the client has a status.
    `stack` closes the connection, which tells the engine to stop.

    Raises:
        Refusal: as of `ask`.
    """
    response = await _send(client, engine, asked, stack)
    answer, events = Answer(), _events(response, engine)
    chunks = _chunks(events, engine, asked, answer)
    first = await anext(chunks, None)
    if first is None:
        raise Refusal(502, "engine_error", "the engine's stream has no event")

    async def relay() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return relay(), answer


async def _chunks(events: AsyncIterator[str], engine: Engine, asked: Asked, answer: Answer) -> AsyncIterator[bytes]:
    """Yield the events of a stream for the client, checked and under our names. Raise Refusal if it breaks."""
    finished, masks, ended = False, asked.masks(), set[int]()
    content: dict[str, Any] = {}
    usage: Any = None
    async for data in events:
        answer.last = time.monotonic()
        if data == "[DONE]":
            finished = not engine.dialect.names_ends or len(ended) == asked.n_choices
            await _end(events)
            break
        content = _content(data, asked)
        if content.get("error"):
            failed = Refusal(502, "engine_error", "the engine failed while it wrote the completion")
            raise engine.dialect.failure(_words(content)) or failed
        choices = _check(content, engine, asked)
        for choice in choices:
            if choice.get("finish_reason") is not None:
                finished = True
                ended.add(_whole(choice.get("index")))
            _cut(choice, asked)
            answer.add(_whole(choice.get("index")), _text_of(choice, asked))
        answer.count(content)
        if "usage" in content and not choices:
            usage = content["usage"] or usage
            continue
        if asked.wants_usage:
            usage = content.pop("usage", None) or usage  # it comes once, in a part of its own
        if masks is not None:
            shown = [masks.part(_whole(c.get("index")), c, _text_of(c, asked)) for c in choices]
            content = masks.envelope(content, shown)
        yield as_event({**content, "id": asked.id, "model": asked.model})
    if not finished:
        raise Refusal(502, "engine_error", "the engine's stream broke off")
    _check_number(len(answer.texts), asked)
    if masks is not None and (rest := masks.rest()):
        held = {name: value for name, value in content.items() if name != "usage"} | {"choices": rest}
        yield as_event({**held, "id": asked.id, "model": asked.model})
    if not answer.is_counted:
        usage = await asked.usage(answer.texts)
        answer.count({"usage": usage})
    if usage and asked.wants_usage:
        yield _usage_event(content, usage, asked)
    answer.is_whole = True
    yield b"data: [DONE]\n\n"


def _usage_event(content: dict[str, Any], usage: dict[str, Any], asked: Asked) -> bytes:
    """Return the part of a stream that says how many tokens it has."""
    kept: dict[str, Any] = {name: content[name] for name in ("object", "created") if name in content}
    return as_event({**kept, "choices": [], "usage": usage, "id": asked.id, "model": asked.model})


async def _end(events: AsyncIterator[str]) -> None:
    """Read a stream to its end, which comes with its last event: only then is its connection used again."""
    with suppress(TimeoutError, Refusal):
        async with asyncio.timeout(END_SECONDS):
            await anext(events, None)


def _cut(choice: dict[str, Any], asked: Asked) -> None:
    """Cut a chunk at the stop texts. What is held back comes with the last chunk."""
    if asked.cutter is None:
        return
    text, is_last = asked.cutter.feed(_text_of(choice, asked)), choice.get("finish_reason") is not None
    if is_last:
        text += asked.cutter.end()
        if asked.cutter.is_cut:
            choice["finish_reason"] = "stop"
    _put_text(choice, text, asked)


async def _send(client: httpx2.AsyncClient, engine: Engine, asked: Asked, stack: AsyncExitStack) -> httpx2.Response:
    """Send a request; return the answer with its body unread. Raise Refusal unless its status is 200."""
    if engine.problem is not None:
        raise Refusal(503, "engine_unavailable", f"{engine.problem}: try again soon", retry_after=engine.retry_after)
    body = json.dumps({**asked.body, "model": engine.model}).encode("ascii")
    headers = {"Content-Type": "application/json", **engine.headers}
    stack.enter_context(engine.answering())
    begun = time.monotonic()
    for is_last in (False, True):
        way, url = _Way(), engine.url + asked.path
        request = client.build_request("POST", url, content=body, headers=headers, extensions={"trace": way})
        try:
            response = await client.send(request, stream=True)
            break
        except httpx2.HTTPError as error:
            is_stale = isinstance(error, CLOSED) and not way.is_new and time.monotonic() - begun < STALE_SECONDS
            if is_last or not is_stale:
                raise _lost(error, engine) from error
    stack.push_async_callback(response.aclose)
    if response.status_code != 200:
        raise _refused(response, await _read(response, engine), engine, asked)
    return response


class _Way:
    """Note whether a request opens a connection, as httpx calls this."""

    is_new = False

    async def __call__(self, event: str, details: dict[str, Any]) -> None:
        self.is_new |= event == "connection.connect_tcp.started"


async def _read(response: httpx2.Response, engine: Engine) -> bytes:
    """Return the body of an answer."""
    blocks, size = [], 0
    try:
        async for block in response.aiter_bytes():
            blocks.append(block)
            size += len(block)
            if size > MAX_ANSWER:
                raise Refusal(502, "engine_error", f"the engine's answer has more than {MAX_ANSWER} bytes")
    except httpx2.HTTPError as error:
        raise _lost(error, engine) from error
    return b"".join(blocks)


async def _events(response: httpx2.Response, engine: Engine) -> AsyncIterator[str]:
    """Yield the data of the events in a stream."""
    try:
        async for event in httpx2.EventSource(response):
            if event.data and event.data != "null":  # llama-server's first event of a stream of several prompts
                yield event.data
    except httpx2.SSEError as error:
        raise Refusal(502, "engine_error", "the engine's stream is none") from error
    except httpx2.HTTPError as error:
        raise _lost(error, engine) from error


def _content(data: str | bytes, asked: Asked) -> dict[str, Any]:
    """Return a JSON object of the engine, in OpenAI's shape."""
    content = _json_of(data)
    if not isinstance(content, dict):
        raise Refusal(502, "engine_error", "the engine's answer is no JSON object")
    return content if asked.reader is None else asked.reader(content)


def _json_of(data: str | bytes) -> Any:
    """Return what is written in JSON; None if it is none."""
    try:
        return json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _check(content: dict[str, Any], engine: Engine, asked: Asked) -> list[dict[str, Any]]:
    """Return the choices of an answer, or of a part of it.

    Raises:
        Refusal: it is of another model than was asked for, or lacks what was (502).
    """
    if not engine.names(content.get("model")):
        message = "the engine answered with another model than it was asked for: its answer is not handed on"
        raise Refusal(502, "engine_model_mismatch", message)
    choices = content.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Refusal(502, "engine_error", "the engine's answer has no choices")
    for choice in choices:
        if asked.is_scored and _text_of(choice, asked) and not choice.get("logprobs"):
            message = "the engine left the log-probabilities out that were asked for: it does not know them"
            raise Refusal(502, "engine_without_logprobs", message, param="logprobs")
    return choices


def _check_number(found: int, asked: Asked) -> None:
    """Raise Refusal if the engine wrote fewer completions than were asked for (502)."""
    if found < asked.n_choices:
        message = f"the engine wrote {found} of the {asked.n_choices} completions that were asked for"
        raise Refusal(502, "engine_error", message)


def _text_of(choice: dict[str, Any], asked: Asked) -> str:
    """Return the text of a choice, or of a part of one."""
    holder = choice
    if asked.is_chat:
        found = choice.get("delta", choice.get("message"))
        holder = found if isinstance(found, dict) else {}
    text = holder.get("content" if asked.is_chat else "text")
    return text if isinstance(text, str) else ""


def _put_text(choice: dict[str, Any], text: str, asked: Asked) -> None:
    if not asked.is_chat:
        choice["text"] = text
    elif isinstance(found := choice.get("delta", choice.get("message")), dict) and (text or "content" in found):
        found["content"] = text


def _refused(response: httpx2.Response, body: bytes, engine: Engine, asked: Asked) -> Refusal:
    """Return what the client is told of an engine's error. Only what the client did wrong is in the engine's words."""
    status, words = response.status_code, _words(_json_of(body))
    if status in (400, 404, 413, 422):
        if "/" in engine.model or "\\" in engine.model:  # a path, which clients need not know
            words = words.replace(engine.model, asked.model)
        words = words if asked.masker is None else asked.masker.mask(words)
        return Refusal(400, "engine_refused", f"the engine refuses the request: {words}")
    if status in (429, 503):
        after = response.headers.get("retry-after", "")
        seconds = min(float(after), 600.0) if after.isdecimal() else engine.retry_after
        return Refusal(503, "engine_busy", "the engine is busy: try again soon", retry_after=seconds)
    failed = Refusal(502, "engine_error", f"the engine answered with the status {status}")
    return engine.dialect.failure(words) or failed


def _words(content: Any) -> str:
    """Return the message of an error, in OpenAI's shape or FastAPI's."""
    found = content if isinstance(content, dict) else {}
    error = found.get("error", found.get("detail", found.get("message")))
    words = error.get("message") if isinstance(error, dict) else error
    return str(words)[:500] if words else "without a reason"


def _lost(error: httpx2.HTTPError, engine: Engine) -> Refusal:
    """Return what the client is told when the connection to the engine failed."""
    if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
        return Refusal(504, "engine_timeout", "the engine took too long")
    message = "the engine went away while it was asked: try again soon"
    return Refusal(503, "engine_unavailable", message, retry_after=engine.retry_after)


def as_event(content: dict[str, Any]) -> bytes:
    """Return a JSON object as a server-sent event."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n\n"


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
