"""Define how the app answers: results and errors in JSON, and what of an error is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel

__all__ = ["AsciiJSON", "Problem", "problem_text", "problems", "refusing"]


class AsciiJSON(JSONResponse):
    """Answer in JSON, with all but ASCII escaped, since a lone surrogate in a completion has no UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def problem_text(error: object) -> str:
    """Return what an error says, without characters that have no UTF-8."""
    return str(error).encode("ascii", "backslashreplace").decode()


@contextmanager
def refusing(status: int = 422, leave: type[ValueError] | tuple[()] = ()) -> Iterator[None]:
    """Answer a ValueError of the `with` block with this status and its message; one of the kind `leave` stays."""
    try:
        yield
    except leave:
        raise
    except ValueError as error:
        raise HTTPException(status, problem_text(error)) from error


class Problem(BaseModel):
    """Say what was wrong and what to do."""

    detail: str


_MEANINGS = {
    400: "the body is no JSON",
    401: "not signed in, or a wrong name or password",
    403: "no CSRF token, or not for this role",
    404: "there is no such thing",
    409: "the lease is lost, or there is nothing to take back",
    413: "the body is too large",
    422: "the request is malformed; the detail names the field",
    429: "too many tries; see Retry-After",
    503: "the store is locked, read-only or out of reach; see the detail",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the errors that a route may answer, with those that every route has."""
    return {
        status: {"model": Problem, "description": _MEANINGS[status]}
        for status in sorted({400, 413, 422, 503, *statuses})
    }
