"""Raise alerts: into the log, the metrics and the admin page, and to a webhook that may hang as long as it likes.

A webhook gets what the Standard Webhooks specification says (https://www.standardwebhooks.com), signed as that of the
feedback store. Every try has a deadline in all, also for a receiver that answers byte by byte, and no redirect is
followed. Alerts that wait are limited; further ones are counted and stay in the log. None survives a restart.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from rlhf_envs.feedback.web.webhooks import sign
from rlhf_envs.files import to_json

from .telemetry import Telemetry, log_json

__all__ = ["Alert", "Alerts", "Webhook"]

DEADLINE = 10.0  # seconds of a try
RETRIES = (1.0, 5.0, 30.0, 120.0, 600.0)  # seconds from one try to the next
LONGEST_WAIT = 3600.0  # that a receiver may ask for
WAITING, AT_ONCE, SHOWN = 100, 4, 100


@dataclass(frozen=True)
class Alert:
    """Hold an alert. It has no text of a prompt or a completion.

    Attributes:
        kind: "drift", "topic" or "scorer".
        subject: what it is about, such as a topic's name.
        message: what happened, for people.
        fields: the same for programs.
    """

    kind: str
    subject: str
    message: str
    fields: dict[str, Any]
    created: datetime
    id: str


@dataclass(frozen=True)
class Webhook:
    """Hold where alerts go.

    Attributes:
        url: an address of http or https.
        secret: "whsec_" and base64, with which messages are signed; "" signs none.
    """

    url: str
    secret: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(f"webhook {self.url!r}: expected an address such as https://host/path, without a password")
        if self.secret:
            try:
                base64.b64decode(self.secret.removeprefix("whsec_"), validate=True)
            except ValueError as error:
                raise ValueError("the webhook's secret must be 'whsec_' and base64") from error


class Alerts:
    """Take alerts from any thread.

    Args:
        telemetry: counts them.
        webhook: where they go beside the log.
        quiet: seconds in which a topic is not alerted again; what was left out is counted in the next alert.
    """

    def __init__(self, telemetry: Telemetry, webhook: Webhook | None = None, quiet: float = 60.0) -> None:
        self.telemetry, self.webhook, self.quiet = telemetry, webhook, quiet
        self.recent: deque[Alert] = deque(maxlen=SHOWN)
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how many were left out since
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(AT_ONCE)

    def start(self) -> None:
        """Deliver from now on, in the running loop."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Give up what is not delivered yet. The log has it."""
        self._loop = None
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, kind: str, subject: str, message: str, *, quiet: bool = False, **fields: Any) -> None:
        """Raise an alert. It returns at once.

        Args:
            quiet: whether alerts of the same kind and subject are left out for a while.
        """
        if quiet:
            with self._lock:
                last, left_out = self._last.get((kind, subject), (float("-inf"), 0))
                if time.monotonic() - last < self.quiet:
                    self._last[kind, subject] = (last, left_out + 1)
                    return
                self._last[kind, subject] = (time.monotonic(), 0)
            if left_out:
                message, fields = f"{message}; {left_out} more since the last alert", {**fields, "left_out": left_out}
        alert = Alert(kind, subject, message, fields, datetime.now(UTC), f"msg_{secrets.token_hex(16)}")
        self.recent.append(alert)
        self.telemetry.alerts.labels(kind).inc()
        log_json("alert", logging.WARNING, kind=kind, subject=subject, message=message, **fields)
        if self.webhook is not None and (loop := self._loop) is not None:
            try:
                loop.call_soon_threadsafe(self._post, self.webhook, alert)
            except RuntimeError:  # the loop has just ended
                log_json("webhook", logging.WARNING, alert=alert.id, problem="the server has ended")

    def _post(self, webhook: Webhook, alert: Alert) -> None:
        if len(self._tasks) >= WAITING:
            self.telemetry.dropped.labels("webhook").inc()
            log_json("webhook", logging.ERROR, alert=alert.id, problem="too many alerts wait for the webhook")
            return
        task = asyncio.create_task(self._deliver(webhook, alert))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, webhook: Webhook, alert: Alert) -> None:
        content = {"kind": alert.kind, "subject": alert.subject, "message": alert.message, **alert.fields}
        payload = {"type": f"alert.{alert.kind}", "timestamp": alert.created.isoformat(), "data": content}
        body = to_json(payload, default=str).encode()
        for wait in (*RETRIES, None):
            async with self._turn:
                problem, asked = await _try(webhook, alert.id, body)
            self.telemetry.webhook.labels("failed" if problem else "sent").inc()
            if not problem:
                return
            log_json("webhook", logging.WARNING, alert=alert.id, problem=problem, again_in=wait)
            if wait is not None:
                await asyncio.sleep(max(wait, asked))
        self.telemetry.dropped.labels("webhook").inc()


async def _try(webhook: Webhook, id: str, body: bytes) -> tuple[str, float]:
    """Send a message once. Return why it was not taken ("" if it was), and the seconds that the receiver asks for."""
    now = int(time.time())
    headers = {"Content-Type": "application/json", "webhook-id": id, "webhook-timestamp": str(now)}
    if webhook.secret:
        headers["webhook-signature"] = sign(webhook.secret, id, now, body)
    try:
        async with (
            asyncio.timeout(DEADLINE),
            httpx2.AsyncClient(trust_env=False, timeout=DEADLINE) as client,
            client.stream("POST", webhook.url, content=body, headers=headers) as answer,
        ):
            status, asked = answer.status_code, answer.headers.get("retry-after", "")
    except TimeoutError:
        return f"no answer in {DEADLINE:g} s", 0.0
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return type(error).__name__, 0.0  # its message may hold the address, and that a token
    if 200 <= status < 300:
        return "", 0.0
    wait = min(float(asked[:10]), LONGEST_WAIT) if asked.isascii() and asked.isdigit() else 0.0
    return f"the receiver answered {status}", wait
