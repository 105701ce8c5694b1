"""Wrap every request: its id, its key, its limits, and the line that it leaves in the log."""

from __future__ import annotations

import base64
import logging
import re
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import Refusal, answer_refusal
from .keys import ApiKey, KeyFile
from .keys import Scope as KeyScope
from .limits import KeyLimits
from .telemetry import Telemetry, log_json

__all__ = ["Envelope", "Exchange", "exchange_of"]

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# What a key must be allowed to do to reach an address. Others are open, or nothing.
NEEDED: dict[str, KeyScope] = {
    "/v1/chat/completions": "completions",
    "/v1/completions": "completions",
    "/v1/models": "completions",
    "/v1/feedback": "feedback",
    "/metrics": "metrics",
    "/admin": "admin",
}
BROWSED = ("/admin",)  # whose key browsers ask for, as a password
OPEN = ("/healthz", "/readyz", "/openapi.json")
GENERATING = ("/v1/chat/completions", "/v1/completions")
NOBODY = "anonymous"
SMALL = 2**16  # bytes of a body that is read to its end even if the answer does not need it


@dataclass
class Exchange:
    """Hold what becomes known of a request while it is answered.

    Attributes:
        id: the request's id, the client's own if it has one.
        key: the client's key; None where no key is needed.
        stack: what ends with the request, whatever ends it.
        reading: seconds that the body took to come.
        code: why it was refused.
        fields: what its line in the log has beside.
    """

    id: str
    key: ApiKey | None
    stack: AsyncExitStack
    begun: float
    reading: float = 0.0
    code: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def who(self) -> str:
        """Return the name of the key."""
        return NOBODY if self.key is None else self.key.name


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange of a request, by its ASGI scope."""
    exchange = scope["state"]["exchange"]
    assert isinstance(exchange, Exchange)
    return exchange


class Envelope:
    """Check the key and the limits before a body is read, and log and count each answer.

    Args:
        keys: the clients' keys; None lets everybody in.
        max_body: bytes of a body.
    """

    def __init__(
        self, app: ASGIApp, *, keys: KeyFile | None, limits: KeyLimits, telemetry: Telemetry, max_body: int
    ) -> None:
        self.app, self.keys, self.limits, self.telemetry, self.max_body = app, keys, limits, telemetry, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, path = Headers(scope=scope), str(scope["path"])
        given = headers.get("x-request-id", "")
        own = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        status = 499  # of a client that was gone before its answer began
        read, is_read = 0, not (_length(headers) or "transfer-encoding" in headers)

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                marked = MutableHeaders(scope=message)
                marked["X-Request-Id"] = own
                if not is_read and not 0 < _length(headers) <= SMALL:  # else uvicorn would read on, to throw it away
                    marked["Connection"] = "close"
            await send(message)

        async def receive_limited() -> Message:
            nonlocal read, is_read
            waits, asked = not is_read, time.monotonic()
            message = await receive()
            if waits:  # later it waits for the client to go away
                exchange.reading += time.monotonic() - asked
            read += len(message.get("body", b""))
            is_read = not message.get("more_body", False)
            if read > self.max_body:
                raise self._too_large()
            return message

        exchange = Exchange(own, None, AsyncExitStack(), time.monotonic())
        scope.setdefault("state", {})["exchange"] = exchange
        try:
            async with exchange.stack:
                self._admit(exchange, headers, path)
                await self.app(scope, receive_limited, send_marked)
        except Refusal as refusal:
            exchange.code = refusal.code
            if status == 499:
                await answer_refusal(refusal)(scope, receive, send_marked)
        except Exception:
            logging.getLogger("rlhf.serve").exception("bug", extra={"fields": {"request_id": own, "path": path}})
            exchange.code = "internal_error"
            if status == 499:
                failure = Refusal(500, "internal_error", f"a fault of the gateway; its log has it under {own}")
                await answer_refusal(failure)(scope, receive, send_marked)
        finally:
            self._note(exchange, scope, status)

    def _admit(self, exchange: Exchange, headers: Headers, path: str) -> None:
        """Find the key, and count the request against its limits. Raise Refusal if it may not go on."""
        if path in OPEN:
            return
        exchange.key = self._key(headers, path in BROWSED)
        if exchange.key is not None:
            if (needed := NEEDED.get(path)) is not None and not exchange.key.may(needed):
                raise Refusal(403, "scope_missing", f"this key has no scope {needed!r}")
            self.limits.count(exchange.key)
            if path in GENERATING:
                exchange.stack.enter_context(self.limits.running(exchange.key))
        if _length(headers) > self.max_body:
            raise self._too_large()

    def _key(self, headers: Headers, is_browsed: bool) -> ApiKey | None:
        """Return the client's key; None if none is needed. Raise Refusal if it is wrong."""
        if self.keys is None:
            return None
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if is_browsed and kind.lower() == "basic":
            kind, secret = "bearer", _password(secret)
        if kind.lower() != "bearer" or not secret.strip():
            raise Refusal(401, "no_api_key", "no key: send the header 'Authorization: Bearer <key>'", asks=is_browsed)
        try:
            key = self.keys.find(secret.strip())
        except (ValueError, OSError) as error:
            log_json("keys", logging.ERROR, problem=str(error))
            raise Refusal(
                503, "keys_unreadable", "keys cannot be checked now: try again soon", retry_after=5
            ) from error
        if key is None:
            raise Refusal(401, "invalid_api_key", "this key is unknown, revoked or out of date", asks=is_browsed)
        return key

    def _too_large(self) -> Refusal:
        return Refusal(413, "body_too_large", f"the body has more than {self.max_body} bytes")

    def _note(self, exchange: Exchange, scope: Scope, status: int) -> None:
        """Count the answer and log it."""
        route = getattr(scope.get("route"), "path", None) or (scope["path"] if scope["path"] in NEEDED else "other")
        seconds = time.monotonic() - exchange.begun
        self.telemetry.requests.labels(route, str(status)).inc()
        self.telemetry.seconds.labels(route).observe(seconds)
        if route in OPEN:
            return  # probes ask all the time and are no refused clients; the engine's states are logged by themselves
        if exchange.code is not None:
            self.telemetry.refusals.labels(exchange.code).inc()
        fields: dict[str, Any] = {
            "request_id": exchange.id,
            "key": exchange.who,
            "key_id": None if exchange.key is None else exchange.key.id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
        }
        if exchange.code is not None:
            fields["code"] = exchange.code
        log_json("request", logging.INFO, **fields, **exchange.fields)


def _password(credentials: str) -> str:
    """Return the password of a header of basic authentication; "" if there is none."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _length(headers: Headers) -> int:
    """Return the length that a body is said to have; 0 if nothing is said."""
    length = headers.get("content-length", "0")
    return int(length[:20]) if length.isdecimal() else 0
