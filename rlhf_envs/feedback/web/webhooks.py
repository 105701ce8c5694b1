"""Deliver a project's events to its webhook: signed, in a thread of their own, and again until they are taken.

Source: the Standard Webhooks specification (https://www.standardwebhooks.com): headers webhook-id, webhook-timestamp
and webhook-signature, "v1," and the base64 of HMAC-SHA256 over "id.timestamp.body", with the bytes that the secret has
in base64 behind "whsec_". An event may come twice, after a crash between the answer and our note of it: receivers tell
by the id.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ..records import StoreError
from ..store.outbox import Delivery
from ..store.store import FeedbackStore

__all__ = ["Postman", "delivering", "sign"]

_TIMEOUT = 15.0  # seconds for an answer
_LOOK = 1.0  # seconds from one look at the queue to the next
_CLEAN = 3600.0

logger = logging.getLogger(__name__)


def sign(secret: str, key: str, timestamp: int, body: bytes) -> str:
    """Return the header webhook-signature of a message.

    Args:
        secret: "whsec_" and base64.
        key: the id of the message.
        timestamp: seconds since 1970.
        body: the message as it is sent.
    """
    content = f"{key}.{timestamp}.".encode() + body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


class Postman:
    """Deliver the events of a store in a thread, until `stop`."""

    def __init__(self, store: FeedbackStore, look: float = _LOOK) -> None:
        self._store, self._look = store, look
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self) -> None:
        """End after the delivery that is under way. What is left is delivered after the next start."""
        self._ended.set()
        self._thread.join(_TIMEOUT + 5)

    def deliver_due(self) -> int:
        """Deliver what is due. Return how many events were tried."""
        due = self._store.due_deliveries()
        hooks = self._store.settings.webhooks
        for place, delivery in enumerate(due):
            if self._ended.is_set():
                return place
            if not hooks.url:
                self._store.settle_delivery(delivery, "no address is set")
                continue
            problem, wait = _post(hooks.url, hooks.secret, delivery)
            self._store.settle_delivery(delivery, problem, retry_after=wait)
            if problem:
                logger.warning("webhook %s (%s) was not taken: %s", delivery.key, delivery.event, problem)
        return len(due)

    def _run(self) -> None:
        cleaned = 0.0
        while not self._ended.is_set():
            tried = 0
            try:
                tried = self.deliver_due()
                if time.monotonic() - cleaned > _CLEAN:
                    self._store.forget_deliveries()
                    cleaned = time.monotonic()
            except StoreError as error:  # the database is away: what waits is still there when it is back
                logger.warning("webhooks: %s", error)
            except Exception:
                logger.exception("webhooks: a delivery failed")
            if not tried:
                self._ended.wait(self._look)


@contextmanager
def delivering(*stores: FeedbackStore) -> Iterator[None]:
    """Deliver the events of these stores as long as the block runs."""
    postmen = [Postman(store) for store in stores]
    for postman in postmen:
        postman.start()
    try:
        yield
    finally:
        for postman in postmen:
            postman.stop()


def _post(url: str, secret: str, delivery: Delivery) -> tuple[str, float]:
    """Send an event. Return why it was not taken ("" if it was), and the seconds that the receiver wants us to wait.

    No redirect is followed: an answer but 2xx is a failure.
    """
    parts, body, now = urlsplit(url), json.dumps(delivery.payload).encode(), int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "rlhf-envs",
        "webhook-id": delivery.key,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(secret, delivery.key, now, body),
    }
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = make(parts.hostname or "", parts.port, timeout=_TIMEOUT)
        with contextlib.closing(connection):
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read(10_000)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"[:500], 0.0
    if 200 <= answer.status < 300:
        return "", 0.0
    asked = answer.headers.get("Retry-After", "")
    wait = min(float(asked), 86_400.0) if asked.isascii() and asked.isdigit() else 0.0
    return f"the receiver answered {answer.status}", wait
