"""Build the app: the routes of OpenAI's API, and errors in its shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from rlhf_envs.names import nearest_field, unknown_first
from rlhf_envs.privacy import Masker

from .admin import ADMIN_HEADERS, admin_page
from .engine import Engine
from .envelope import Envelope, exchange_of
from .errors import MEANINGS, Problem, Refusal, answer_refusal, problems
from .gateway import Gateway, Settings
from .keys import KeyFile
from .limits import KeyLimits
from .requests import ChatRequest, CompletionRequest, Feedback, FeedbackStored
from .served import Desk
from .telemetry import Telemetry
from .watch import Watch

__all__ = ["create_gateway"]


# The bodies of requests, which errors in them are explained by.
_BODIES = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest, "/v1/feedback": Feedback}


def _gateway(request: Request) -> Gateway:
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway


router = APIRouter()
_ENGINE = problems(404, 499, 502, 504)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "the completion, or its server-sent events"}
}


@router.post("/v1/chat/completions", responses={**_ENGINE, **_STREAM})
async def chat_completions(body: ChatRequest, http: Request) -> Response:
    """Answer a conversation."""
    return await _gateway(http).complete(http, body)


@router.post("/v1/completions", responses={**_ENGINE, **_STREAM})
async def completions(body: CompletionRequest, http: Request) -> Response:
    """Complete a text."""
    return await _gateway(http).complete(http, body)


@router.post("/v1/feedback", responses=problems(404, 409))
async def feedback(body: Feedback, http: Request) -> FeedbackStored:
    """Store thumbs or a correction of a completion, by its id."""
    return await _gateway(http).take_feedback(exchange_of(http.scope), body)


@router.get("/v1/models", responses=problems())
async def models(http: Request) -> JSONResponse:
    """List the one model that is served."""
    gateway = _gateway(http)
    model = {"id": gateway.settings.name, "object": "model", "created": gateway.started, "owned_by": "rlhf-envs"}
    return JSONResponse({"object": "list", "data": [model]})


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process lives."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Problem, "description": MEANINGS[503]}})
async def readyz(http: Request) -> dict[str, str]:
    """Say whether requests would be answered."""
    gateway = _gateway(http)
    if gateway.draining:
        raise Refusal(503, "draining", "the server is about to end", retry_after=5)
    if gateway.engine.problem is not None:
        raise Refusal(503, "engine_unavailable", gateway.engine.problem, retry_after=gateway.engine.retry_after)
    return {"status": "ready"}


@router.get("/metrics", responses={**problems(), 200: {"content": {"text/plain": {}}, "description": "the metrics"}})
async def metrics(http: Request) -> Response:
    """Return the metrics in Prometheus's text format."""
    return Response(_gateway(http).telemetry.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/admin", responses={**problems(), 200: {"content": {"text/html": {}}, "description": "a page"}})
async def admin(http: Request) -> Response:
    """Show people what is served: requests, drift, scores and alerts. A browser gives the key as the password."""
    return HTMLResponse(admin_page(_gateway(http)), headers=ADMIN_HEADERS)


def create_gateway(
    settings: Settings,
    engine: Engine,
    keys: KeyFile | None,
    telemetry: Telemetry,
    desk: Desk | None = None,
    masker: Masker | None = None,
    watch: Watch | None = None,
) -> FastAPI:
    """Build the gateway in front of an engine, which runs for as long as the app does.

    Args:
        settings: the limits and the model's name.
        engine: writes the completions.
        keys: the clients' keys; None lets everybody in.
        telemetry: the metrics, also the engine's.
        desk: takes what people say of completions; None for a server that keeps nothing.
        masker: masks private data in completions; None gives them out as they are.
        watch: watches the answers, from when the app starts until it ends.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gateway = app.state.gateway = Gateway(settings, engine, telemetry, desk, masker, watch)
        await engine.start()
        if watch is not None:
            watch.alerts.start()
            watch.start()
        try:
            yield
        finally:
            await gateway.close()
            await engine.stop()
            if watch is not None:
                await asyncio.to_thread(watch.stop)
                await watch.alerts.close()

    app = FastAPI(
        title="rlhf-envs gateway",
        description="OpenAI's API in front of a trained model. Send your key as 'Authorization: Bearer <key>'.",
        version="1",
        docs_url=None,  # FastAPI's documentation pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        dependencies=[Depends(HTTPBearer(auto_error=False))],  # for the schema: the envelope checks it
    )
    app.include_router(router)
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        Refusal: _refuse,
        RequestValidationError: _bad_request,
        HTTPException: _http_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    limits = KeyLimits(settings.per_minute, settings.at_once)
    app.add_middleware(Envelope, keys=keys, limits=limits, telemetry=telemetry, max_body=settings.max_body)
    return app


async def _refuse(request: Request, refusal: Refusal) -> Response:
    exchange_of(request.scope).code = refusal.code
    return answer_refusal(refusal)


async def _bad_request(request: Request, error: RequestValidationError) -> Response:
    first = unknown_first(error.errors())
    is_json = first["type"] != "json_invalid"
    place = [str(part) for part in first["loc"] if part != "body"] if is_json else []
    param = ".".join(place) or None  # never the input, which may be long or private
    name = place[0] if place else "the body"
    reason = first["msg"].removeprefix("Value error, ") if is_json else "is no JSON"
    if first["type"] == "extra_forbidden":
        name, reason = place[-1], f"unknown field; {nearest_field(_BODIES[request.url.path], place)}"
    message = f"{name[:100]}: {reason}".encode("ascii", "backslashreplace").decode()
    if param is not None:
        param = param[:100].encode("ascii", "backslashreplace").decode()
    return await _refuse(request, Refusal(400, "invalid_request", message, param=param))


async def _http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        refusal = Refusal(405, "method_not_allowed", f"{request.url.path[:100]!r} has no {request.method}")
    elif error.status_code == 404:
        refusal = Refusal(404, "not_found", f"there is nothing at {request.url.path[:100]!r}")
    else:
        refusal = Refusal(error.status_code, "invalid_request", str(error.detail)[:200])
    response = await _refuse(request, refusal)
    response.headers.update(error.headers or {})
    return response
