"""Run the gateway with uvicorn, until SIGTERM or Ctrl-C: what runs then is still finished."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from rlhf_envs.feedback.web.connections import ACCEPTED_AT_ONCE, LimitedProtocol, most_connections
from rlhf_envs.feedback.web.listening import listen, page_addresses

from .telemetry import JsonLines, log_json

__all__ = ["GatewayServer", "ending_by_exit", "run"]

WAITING = 1024  # connections that the system keeps until they are accepted


class GatewayServer(uvicorn.Server):
    """Serve a gateway, and drain it when it is told to end.

    Args:
        app: the gateway.
        drain: seconds that requests have to end.
        greeting: a line that is printed once the server listens.
    """

    def __init__(self, app: FastAPI, drain: float, greeting: str = "") -> None:
        config = uvicorn.Config(
            app,
            log_config=None,  # the gateway logs its requests itself
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            loop="asyncio",  # uvloop has no limit on what it accepts at once
            http=type("Protocol", (LimitedProtocol,), {"most": most_connections()}),
            backlog=ACCEPTED_AT_ONCE,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(drain)),
        )
        super().__init__(config)
        self._app, self._greeting = app, greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(WAITING)  # else only ACCEPTED_AT_ONCE could wait to be accepted
        if self._greeting:
            print(self._greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new requests from now on, and end once those that run are answered; a second Ctrl-C ends at once."""
        self.drain()
        log_json("draining", signal=signal.Signals(sig).name)
        super().handle_exit(sig, frame)

    def drain(self) -> None:
        """Refuse new requests from now on."""
        if (gateway := getattr(self._app.state, "gateway", None)) is not None:
            gateway.draining = True


@contextlib.contextmanager
def ending_by_exit() -> Iterator[None]:
    """Let SIGTERM end the process with the code 143 and its `with` blocks, in which folders are deleted.

    uvicorn raises the signal again once it has shut down, which would end the process at once.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(app: FastAPI, host: str, port: int, drain: float, name: str) -> None:
    """Serve a gateway until SIGTERM or SIGINT.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        drain: seconds that requests which run then have to end.
        name: the model's name, for the line that says where it is.

    Raises:
        ValueError: the port is taken, or the host is no address of this machine.
    """
    listener = listen(host, port)
    address = page_addresses(host, listener.getsockname()[1])[0]
    handler = JsonLines.to()
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
            GatewayServer(app, drain, f"{name} on {address}/v1; stop it with Ctrl-C").run([listener])
    finally:
        JsonLines.remove(handler)
        listener.close()
