"""Answer requests for completions with an engine's, and take what people say of them."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import httpx2
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from rlhf_envs.feedback import StoreError
from rlhf_envs.privacy import Masker

from . import relay
from .engine import Engine
from .envelope import Exchange, exchange_of
from .errors import Refusal, refusal_body
from .limits import Admission
from .masking import refuse_unmasked
from .requests import ChatRequest, CompletionRequest, Feedback, FeedbackStored
from .requests import Request as AskedRequest
from .served import Completion, Desk, annotator_of, completion_of
from .telemetry import Telemetry, log_json
from .watch import Watch

__all__ = ["Gateway", "Settings"]

Result = TypeVar("Result")
MANY_CHARACTERS = 20_000  # their tokens take too long to count beside other requests
# What a second completion of a prompt is asked without.
ONCE = ("stream", "stream_options", "seed", "n", "best_of", "echo", "logprobs", "top_logprobs")


@dataclass(frozen=True)
class Settings:
    """Hold the gateway's limits.

    Attributes:
        name: the model's name for clients.
        per_minute: requests per minute of a key without a limit of its own.
        at_once: requests at once of such a key.
        places: requests that the engine answers at once; None for what suits the engine.
        waiting: requests that may wait for the engine.
        patience: seconds that a request waits for a place at most.
        timeout: seconds that the engine may be silent; a completion that is no stream comes in one piece.
        longest: seconds that a completion may take in all.
        max_body: bytes of a request's body.
    """

    name: str
    per_minute: int = 600
    at_once: int = 64
    places: int | None = None
    waiting: int = 128
    patience: float = 30.0
    timeout: float = 120.0
    longest: float = 600.0
    max_body: int = 2**20


class Gateway:
    """Answer requests for completions.

    Args:
        desk: takes what people say of completions; None for a server that keeps nothing.
        masker: masks private data in completions; None gives them out as they are.

    Attributes:
        draining: whether the server is about to end: what runs is finished, and nothing new begins.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        telemetry: Telemetry,
        desk: Desk | None = None,
        masker: Masker | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.settings, self.engine, self.telemetry = settings, engine, telemetry
        self.desk, self.masker, self.watch = desk, masker, watch
        self._storing = asyncio.Lock()  # so that two who judge one completion at the same time share its item
        self._reviewing: set[asyncio.Task[None]] = set()
        places = settings.places or engine.at_once
        self._admission = Admission(places, settings.waiting, settings.patience)
        telemetry.running.set_function(lambda: self.admission.n_running)
        telemetry.waiting.set_function(lambda: self.admission.n_waiting)
        silent = httpx2.Timeout(settings.timeout, connect=5.0)
        # uvicorn, the server of most engines, closes what is idle for 5 s: a request must not meet that.
        pool = httpx2.Limits(max_connections=places + 8, max_keepalive_connections=places, keepalive_expiry=2.0)
        self.client = httpx2.AsyncClient(trust_env=False, timeout=silent, limits=pool)
        self.draining = False
        self.started = int(time.time())

    @property
    def admission(self) -> Admission:
        """Return what lets requests reach the engine. How many at once may become known with its first answer."""
        places = self.engine.dialect.most_at_once or self.settings.places or self.engine.at_once
        if places != self._admission.at_once:
            self._admission = Admission(places, self.settings.waiting, self.settings.patience)
        return self._admission

    async def complete(self, http: Request, request: AskedRequest) -> Response:
        """Answer a request, whole or as a stream."""
        exchange = exchange_of(http.scope)
        if self.draining:
            raise Refusal(503, "draining", "the server is about to end: try again soon", retry_after=5)
        if request.model != self.settings.name:
            message = f"there is no model {request.model!r} here; there is {self.settings.name!r}"
            raise Refusal(404, "model_not_found", message, param="model")
        if self.masker is not None:
            refuse_unmasked(request)
        asked = self._asked(request, await self._translate(request))
        exchange.fields |= {"completion": asked.id, "stream": bool(request.stream)}
        answering = self._stream if request.stream else self._whole
        return await _unless_gone(http, answering(exchange, asked, request))

    def _asked(self, request: AskedRequest, body: dict[str, Any]) -> relay.Asked:
        """Return a request as it is sent to the engine."""
        is_chat = isinstance(request, ChatRequest)
        return relay.Asked(
            path="/v1/chat/completions" if is_chat else "/v1/completions",
            body=body,
            id=f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(16)}",
            model=self.settings.name,
            is_scored=request.is_scored,
            cutter=self.engine.dialect.cutter(request),
            reader=self.engine.dialect.reader(request),
            masker=self.masker,
            n_choices=_n_choices(request),
            wants_usage=bool(request.stream_options and request.stream_options.include_usage),
            usage=partial(self._usage, request),
        )

    async def close(self) -> None:
        """Give up the reviews that are still being made, and the connections to the engine."""
        for task in [*self._reviewing]:
            task.cancel()
        await asyncio.gather(*self._reviewing, return_exceptions=True)
        await self.client.aclose()

    async def _translate(self, request: AskedRequest) -> dict[str, Any]:
        """Return the body for the engine. Counting the tokens of a long prompt takes a thread, others are quick."""
        translate = self.engine.dialect.translate
        is_long = exceeds(request, MANY_CHARACTERS)
        return await asyncio.to_thread(translate, request) if is_long else translate(request)

    async def _usage(self, request: AskedRequest, texts: Sequence[str]) -> dict[str, int] | None:
        """Return the tokens of a prompt and its completions, if they can be counted here. Long texts take a thread."""
        usage = self.engine.dialect.usage
        is_long = exceeds(request, MANY_CHARACTERS) or sum(map(len, texts)) > MANY_CHARACTERS
        return await asyncio.to_thread(usage, request, texts) if is_long else usage(request, texts)

    async def _whole(self, exchange: Exchange, asked: relay.Asked, request: AskedRequest) -> Response:
        waited = await exchange.stack.enter_async_context(self.admission.place())
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.longest):
                content, answer = await relay.ask(self.client, self.engine, asked)
        except TimeoutError:
            raise Refusal(504, "engine_timeout", "the engine took too long") from None
        engine = answer.last - begun
        self._note(exchange, answer, waited)
        self._keep(exchange, asked, request, answer)
        own = time.monotonic() - exchange.begun - exchange.reading - engine - waited
        self.telemetry.own.observe(own)
        timing = ", ".join(f"{n};dur={1000 * s:.2f}" for n, s in (("queue", waited), ("engine", engine), ("own", own)))
        body = json.dumps(content, separators=(",", ":"))  # in ASCII: an engine may cut a surrogate pair in two
        return Response(body, media_type="application/json", headers={"Server-Timing": timing})

    async def _stream(self, exchange: Exchange, asked: relay.Asked, request: AskedRequest) -> Response:
        waited = await exchange.stack.enter_async_context(self.admission.place())
        ends = asyncio.get_running_loop().time() + self.settings.longest
        try:
            async with asyncio.timeout_at(ends):
                events, answer = await relay.open_stream(self.client, self.engine, asked, exchange.stack)
        except TimeoutError:
            raise Refusal(504, "engine_timeout", "the engine took too long") from None
        exchange.stack.callback(lambda: self._note(exchange, answer, waited))

        async def relayed() -> AsyncIterator[bytes]:
            async for event in self._relayed(exchange, events, ends):
                if answer.is_whole:  # this is the last one: whoever has it may judge the completion
                    self._keep(exchange, asked, request, answer)
                yield event

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(relayed(), media_type="text/event-stream", headers=headers)

    async def _relayed(self, exchange: Exchange, events: AsyncIterator[bytes], ends: float) -> AsyncIterator[bytes]:
        """Yield a stream's events. A stream that breaks ends with an error as its last event, and without [DONE]."""
        try:
            async for event in _until(events, ends):
                yield event
        except (Refusal, TimeoutError) as error:
            late = Refusal(504, "engine_timeout", "the engine took too long")
            refusal = error if isinstance(error, Refusal) else late
            exchange.code = refusal.code
            yield relay.as_event(refusal_body(refusal))

    def _note(self, exchange: Exchange, answer: relay.Answer, waited: float) -> None:
        """Count an answer's tokens and times, as far as it came."""
        self.telemetry.waited.observe(waited)
        self.telemetry.tokens.labels("prompt").inc(answer.prompt_tokens)
        self.telemetry.tokens.labels("completion").inc(answer.completion_tokens)
        if exchange.fields["stream"] and answer.first is not None:
            self.telemetry.first.observe(answer.first - exchange.begun)
        exchange.fields |= {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "queue_ms": round(1000 * waited, 2),
            "whole": answer.is_whole,
        }

    def _keep(self, exchange: Exchange, asked: relay.Asked, request: AskedRequest, answer: relay.Answer) -> None:
        """Have a completion watched, and keep it for what people say of it; by chance, have it reviewed."""
        if not answer.is_whole or (self.desk is None and self.watch is None):
            return
        completion = completion_of(request, asked.id, answer.texts, exchange.key)
        if completion is None:
            return
        if self.watch is not None:
            self.watch.see(completion)
        if self.desk is None:
            return
        self.desk.recent.add(completion)
        if self.desk.is_sampled(completion):
            task = asyncio.create_task(self._review(self.desk, request, completion))
            self._reviewing.add(task)
            task.add_done_callback(self._reviewing.discard)

    async def _review(self, desk: Desk, request: AskedRequest, completion: Completion) -> None:
        """Draw a second completion of the prompt, if the engine is idle, and put both into the review queue."""
        other: str | None = None
        again: dict[str, Any] = {name: None for name in ONCE if name in type(request).model_fields}
        again["temperature"] = request.temperature or None  # at 0 both would be the same
        second = request.model_copy(update=again)
        try:
            if not self.admission.n_waiting and not self.draining:
                asked = self._asked(second, await self._translate(second))
                async with self.admission.place(), asyncio.timeout(self.settings.longest):
                    _, answer = await relay.ask(self.client, self.engine, asked)
                other = answer.texts[0] if answer.texts else None
        except (Refusal, TimeoutError) as error:
            log_json("review", logging.WARNING, completion=completion.id, problem=type(error).__name__)
        try:
            await asyncio.to_thread(desk.review, completion, other)
        except (StoreError, ValueError) as error:
            log_json("review", logging.ERROR, completion=completion.id, problem=type(error).__name__)
        else:
            self.telemetry.sampled.inc()

    async def take_feedback(self, exchange: Exchange, given: Feedback) -> FeedbackStored:
        """Store what a user says of a completion that was written for the same key."""
        if self.desk is None:
            raise Refusal(404, "feedback_off", "this server keeps no feedback: rlhf serve --store")
        completion = self.desk.recent.get(given.id, exchange.key)
        if completion is None or given.choice >= len(completion.texts):
            message = "there is no such completion of this key: it is unknown, or too old to be judged"
            raise Refusal(404, "completion_not_found", message, param="id")
        who, answers = annotator_of(exchange.key, given.user), given.answers()
        async with self._storing:
            try:
                await asyncio.to_thread(self.desk.take, completion, given.choice, answers, who, given.comment)
            except StoreError as error:
                log_json("store", logging.ERROR, problem=type(error).__name__)
                message = "the store cannot be written now: try again soon"
                raise Refusal(503, "store_unavailable", message, retry_after=5) from error
        for kind in answers:
            self.telemetry.feedback.labels(kind).inc()
        return FeedbackStored(id=given.id, stored=[*answers], annotator=who, policy=self.desk.policy)


async def _until(events: AsyncIterator[bytes], ends: float) -> AsyncIterator[bytes]:
    """Yield events until a moment of the loop's clock, and then raise TimeoutError."""
    while True:
        async with asyncio.timeout_at(ends):
            event = await anext(events, None)
        if event is None:
            return
        yield event


async def _unless_gone(http: Request, answering: Awaitable[Result]) -> Result:
    """Return what is awaited. Once the client is gone, it is cancelled.

    Raises:
        Refusal: the client is gone (499, which nobody reads).
    """
    task, gone = asyncio.ensure_future(answering), asyncio.create_task(_is_gone(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "client_gone", "the client is gone")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one


async def _is_gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _n_choices(request: AskedRequest) -> int:
    """Return how many completions are asked for."""
    prompt = getattr(request, "prompt", "")
    is_one = isinstance(prompt, str) or not prompt or isinstance(prompt[0], int)
    return (request.n or 1) * (1 if is_one else len(prompt))


def exceeds(request: AskedRequest, most: int) -> bool:
    """Return whether a request's texts have more than so many characters."""
    if isinstance(request, CompletionRequest):
        return len(request.prompt) > most
    assert isinstance(request, ChatRequest)
    contents = [message.content or "" for message in request.messages]
    return sum(len(c) if isinstance(c, str) else sum(len(part.text) for part in c) for c in contents) > most
