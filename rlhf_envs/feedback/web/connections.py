"""Close connections that are slow, and refuse those that are too many.

uvicorn has no time limit for a request that is half sent, and counts connections only once they have sent one whole. So
clients that connect and then wait would use up the files that the process may open.
"""

from __future__ import annotations

import asyncio
import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["ACCEPTED_AT_ONCE", "LimitedProtocol", "most_connections"]

HEADER_SECONDS, BODY_SECONDS, ANSWER_SECONDS = 15.0, 60.0, 60.0
MOST_CONNECTIONS = 1000
# Connections that asyncio accepts per turn of its loop. It takes four turns to close one that is refused. Once no file
# is left, asyncio (as of Python 3.13) logs a traceback for each connection that it would have accepted in a turn.
ACCEPTED_AT_ONCE = 8
_OWN_FILES = 40 + 4 * ACCEPTED_AT_ONCE
_STORE_FILES = 64  # SQLite's: 2 for each of 32 connections, and at most as many connections as requests

_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nconnection: close\r\nretry-after: 5\r\n"
    b"content-length: 36\r\n\r\ntoo many connections: try again soon"
)


class LimitedProtocol(H11Protocol):
    """Give headers, bodies and the reading of answers a time limit, and answer 503 past `most` connections."""

    most = MOST_CONNECTIONS
    _waits_for = ""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_REFUSAL)
            transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wait_for("", 0.0)

    def _watch(self) -> None:
        """Limit the time for what the client must do next."""
        if self.flow.write_paused:
            self._wait_for("answer", ANSWER_SECONDS)
        elif self.conn.their_state is h11.IDLE:
            self._wait_for("headers", HEADER_SECONDS)
        elif self.conn.their_state is h11.SEND_BODY:
            self._wait_for("body", BODY_SECONDS)
        else:
            self._wait_for("", 0.0)

    def _wait_for(self, what: str, seconds: float) -> None:
        if what == self._waits_for:
            return  # the time runs on, however many bytes come meanwhile
        if self._deadline is not None:
            self._deadline.cancel()
        self._waits_for = what
        self._deadline = self.loop.call_later(seconds, self.transport.abort) if what else None


def most_connections() -> int:
    """Return how many connections fit into the files that the process may open, at most 1,000."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS // 4  # its select takes 512 sockets
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = (2**20 if files == resource.RLIM_INFINITY else files) - _OWN_FILES
    return max(1, min(MOST_CONNECTIONS, max(spare - _STORE_FILES, spare // 3)))
