"""Refuse requests in the shape that OpenAI's clients read."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

__all__ = ["Problem", "Refusal", "answer_refusal", "problems", "refusal_body"]

KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
MEANINGS = {
    400: "the request is wrong; the message says what",
    401: "no key, or one that is unknown, revoked or out of date",
    403: "the key has not this scope",
    404: "there is no such model, completion or address",
    409: "another answer was given before, or the key's name is an admin's in the store",
    413: "the body is too large",
    429: "too many requests, or too many at once; see Retry-After",
    499: "the client is gone",
    502: "the engine's answer is wrong",
    503: "the engine is away or busy, or the server is about to end; see Retry-After",
    504: "the engine took too long",
}


class Fault(BaseModel):
    """Say what was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Problem(BaseModel):
    """Hold an error as OpenAI's API answers it."""

    error: Fault


class Refusal(HTTPException):
    """Answer a request with an error.

    It is an HTTPException because FastAPI lets no other error pass where it reads a body.

    Args:
        status: the HTTP status.
        code: a short name of the reason, for programs.
        message: what was wrong and what to do, for people. It never holds a prompt or a completion.
        param: the field of the body that is wrong.
        retry_after: seconds after which the same request may be answered.
        asks: whether a browser is told to ask for the key, as a password.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        asks: bool = False,
    ) -> None:
        # When to try again: whole seconds, rounded up.
        headers = None if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
        if asks:
            headers = {"WWW-Authenticate": 'Basic realm="rlhf serve: the key is the password", charset="UTF-8"'}
        super().__init__(status, message, headers)
        self.status, self.code, self.message, self.param = status, code, message, param


def refusal_body(refusal: Refusal) -> dict[str, Any]:
    """Return the body of the answer."""
    kind = KINDS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}}


def answer_refusal(refusal: Refusal) -> JSONResponse:
    """Return the answer."""
    return JSONResponse(refusal_body(refusal), refusal.status, dict(refusal.headers or {}))


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the errors that a route may answer, with those that every route has."""
    return {
        status: {"model": Problem, "description": MEANINGS[status]}
        for status in sorted({400, 401, 403, 413, 429, 503, *statuses})
    }
