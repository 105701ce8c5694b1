"""Answer as an engine that speaks OpenAI's API would, without a model: for tests of the gateway, and for its load.

    python -m benchmarks.fake_engine PORT [SECONDS_PER_WORD]

It writes the words of the prompt backwards, and says in every answer how long it took (`seconds`). A prompt that begins
with "!" asks for one of the ways in which engines go wrong, see `wrongly`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

MODEL = "backwards"


class FakeEngine:
    """Hold what is asked of the engine.

    Attributes:
        seen: how often something happened: requests by their path, and "given up" where a client went away.
        last: the last body.
        per_word: seconds that a word takes.
        go_on: ends what is held.
        models: what the engine says it has.
        pieces: what it writes, whatever the prompt; None for the prompt's words backwards.
        names_ends: whether a stream's last chunk has a `finish_reason`.
        owner: whose its models are, in its list of them.
        tells_usage: whether a stream has the tokens of the answer in its last chunk.
        most: completions that it writes at most, however many are asked for.
        refusal: the message of its errors.
        clients: the addresses that requests for completions came from: one per connection.
    """

    def __init__(self, per_word: float = 0.0) -> None:
        self.seen, self.last, self.per_word = Counter[str](), dict[str, Any](), per_word
        self.go_on = threading.Event()
        self.models: Any = [MODEL]
        self.pieces: list[str] | None = None
        self.names_ends = self.tells_usage = True
        self.owner: str | None = None
        self.most, self.refusal = 128, "no"
        self.headers: dict[str, str] = {}
        self.clients = set[Any]()
        self.app = Starlette(
            routes=[
                Route("/health", lambda request: JSONResponse({"status": "ok"})),
                Route("/v1/models", self.list_models),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
            ]
        )

    async def list_models(self, request: Request) -> Response:
        self.seen[request.url.path] += 1
        rows = [{"id": name, "object": "model", "owned_by": self.owner} for name in self.models]
        return JSONResponse({"object": "list", "data": rows})

    async def complete(self, request: Request) -> Response:
        begun = time.monotonic()
        body = self.last = await request.json()
        self.seen[request.url.path] += 1
        self.headers = dict(request.headers)
        self.clients.add(request.client)
        chat = "messages" in body
        prompt = body["messages"][-1].get("content") if chat else body["prompt"]
        prompt = prompt if isinstance(prompt, str) else json.dumps(prompt)
        if prompt.startswith("!") and (wrong := await self.wrongly(request, prompt[1:], body)) is not None:
            return wrong
        pieces = [f"{word} " for word in reversed(prompt.split())][: body.get("max_tokens") or 10**6] or [" "]
        pieces = pieces if self.pieces is None else self.pieces
        if body.get("stream"):
            return StreamingResponse(self.stream(pieces, body, chat, prompt, begun), media_type="text/event-stream")
        await asyncio.sleep(self.per_word * len(pieces))
        choices = [choice("".join(pieces), body, chat, whole=True, index=i) for i in range(self.n_choices(body))]
        return JSONResponse(self.envelope(choices, body, chat, prompt, len(pieces), begun))

    async def stream(
        self, pieces: list[str], body: dict[str, Any], chat: bool, prompt: str, begun: float
    ) -> AsyncIterator[str]:
        done = False
        try:
            for number, piece in enumerate(pieces):
                await asyncio.sleep(self.per_word)
                if "!hold" in piece:
                    await self.hold(60)
                last = number == len(pieces) - 1
                ends = last and self.names_ends
                parts = [
                    choice(piece, body, chat, whole=False, last=ends, index=i) for i in range(self.n_choices(body))
                ]
                content = self.envelope(parts, body, chat, prompt, number + 1, begun)
                if not (last and self.tells_usage):
                    del content["usage"]
                yield f"data: {json.dumps(content)}\n\n"
                if "!break" in piece:
                    raise ConnectionAbortedError
                if "!error" in piece:
                    yield 'data: {"error": {"message": "out of memory"}}\n\n'
                    return
            yield "data: [DONE]\n\n"
            done = True
        except ConnectionAbortedError:
            done = True
            return  # no [DONE], no finish_reason
        finally:
            if not done:
                self.seen["given up"] += 1

    def n_choices(self, body: dict[str, Any]) -> int:
        prompt = body.get("prompt")
        prompts = len(prompt) if isinstance(prompt, list) and not isinstance((prompt or [0])[0], int) else 1
        return min((body.get("n") or 1) * prompts, self.most)

    def envelope(
        self, choices: list[Any], body: dict[str, Any], chat: bool, prompt: str, n: int, begun: float
    ) -> dict[str, Any]:
        kind = "chat.completion" if chat else "text_completion"
        n_prompt = len(prompt.split())
        return {
            "id": "theirs-1",
            "object": f"{kind}.chunk" if chat and body.get("stream") else kind,
            "created": int(time.time()),
            "model": "another" if "!lie" in prompt else body["model"],
            "choices": choices,
            "usage": {"prompt_tokens": n_prompt, "completion_tokens": n, "total_tokens": n_prompt + n},
            "seconds": time.monotonic() - begun,
        }

    async def wrongly(self, request: Request, how: str, body: dict[str, Any]) -> Response | None:
        """Return an answer that is wrong or as given, or wait: "status 500", "raw {}", "events []", "hold"."""
        name, _, value = how.partition(" ")
        if name == "status":
            status, _, after = value.partition(" ")
            headers = {"Retry-After": after} if after else None
            return JSONResponse({"error": {"message": self.refusal, "type": "x"}}, int(status), headers)
        if name == "detail":
            return JSONResponse({"detail": f"prompt must be something else{value}"}, 422)
        if name == "html":
            return PlainTextResponse("<html>")
        if name == "raw":
            return Response(value, media_type="application/json")
        if name == "events":
            events = [json.dumps(event) for event in json.loads(value)]
            return StreamingResponse((f"data: {e}\n\n" for e in [*events, "[DONE]"]), media_type="text/event-stream")
        if name == "list":
            return JSONResponse([1])
        if name == "nochoices":
            return JSONResponse({"model": body["model"]})
        if name == "empty":
            return StreamingResponse(iter(()), media_type="text/event-stream")
        if name in ("sleep", "hold") and await self.hold(float(value or 60), request, may_go_on=name == "hold"):
            self.seen["given up"] += 1
        return None

    async def hold(self, seconds: float, request: Request | None = None, may_go_on: bool = True) -> bool:
        """Wait for some seconds, or until `go_on` is set. Return whether the client went away before."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not (may_go_on and self.go_on.is_set()):
            await asyncio.sleep(0.02)
            if request is not None and await request.is_disconnected():
                return True
        return False


def choice(
    text: str, body: dict[str, Any], chat: bool, *, whole: bool, last: bool = True, index: int = 0
) -> dict[str, Any]:
    found: dict[str, Any] = {"index": index, "finish_reason": "stop" if last else None}
    if "!break" in text:
        found["finish_reason"] = None
    wants = body.get("logprobs")
    if chat:
        found["message" if whole else "delta"] = {"role": "assistant", "content": text}
        if wants and "!unscored" not in text:
            found["logprobs"] = {"content": [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
    else:
        found["text"] = text
        if wants is not None and "!unscored" not in text:
            found["logprobs"] = {"tokens": [text], "token_logprobs": [-0.5], "text_offset": [0], "top_logprobs": [{}]}
    return found


def main(port: int, per_word: float = 0.0) -> None:
    engine = FakeEngine(per_word)
    uvicorn.run(engine.app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[-1]) if len(sys.argv) == 2 else int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0)
