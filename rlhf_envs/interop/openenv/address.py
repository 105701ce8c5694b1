"""Check the address of an OpenEnv server, and ask it for what it has over HTTP."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["NoAnswerError", "ServerError", "check_url", "request_json"]

LARGEST = 100 * 2**20  # bytes of an answer, as many as OpenEnv's client reads over the WebSocket
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerError(RuntimeError):
    """Raise when an OpenEnv server is not there, has refused a request, or is not what it was."""


class NoAnswerError(ServerError):
    """Raise when a server has no such page."""


def request_json(base_url: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
    """Return what a server answers to a GET request, or with a `body` to a POST request.

    Args:
        base_url: the address, see `check_url`.
        path: what follows it.
        body: is sent as JSON.
        timeout: seconds that the answer may take.

    Raises:
        NoAnswerError: the server has no such page.
        ServerError: it does not answer, or not with JSON.
    """
    data, headers = (None, {}) if body is None else (json.dumps(body).encode(), {"Content-Type": "application/json"})
    request = urllib.request.Request(f"{base_url}{path}", data, headers)
    handlers = [urllib.request.ProxyHandler({})] if urlsplit(base_url).hostname in LOOPBACK else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            if len(text := answer.read(LARGEST + 1)) > LARGEST:
                raise ServerError(f"{request.full_url} answers with more than {LARGEST:,} bytes")
            return json.loads(text)
    except urllib.error.HTTPError as error:
        raise NoAnswerError(f"{request.full_url} answers {error.code}: is it an OpenEnv server?") from error
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"no OpenEnv server answers at base_url={base_url!r}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ServerError(f"{request.full_url} answers with something that is no JSON: {error}") from error


def check_url(base_url: Any) -> str:
    """Return the address of a server without a slash at its end.

    Raises:
        ValueError: it is no address such as "http://127.0.0.1:8000".
    """
    wrong = f"base_url={base_url!r}: give the address of an OpenEnv server, such as 'http://127.0.0.1:8000'"
    if not isinstance(base_url, str) or any(not one.isprintable() or one.isspace() for one in base_url):
        raise ValueError(wrong)
    try:
        parts = urlsplit(base_url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{wrong} ({error})") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url: leave the user and the password out of the address; neither is sent")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(wrong)
    return str(base_url).rstrip("/")
