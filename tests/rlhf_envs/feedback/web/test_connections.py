"""Connections that are slow or too many: they are closed or refused, and others are served."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response

from rlhf_envs.feedback.web import app as web_app
from rlhf_envs.feedback.web import connections
from rlhf_envs.feedback.web.connections import LimitedProtocol, most_connections

HALF_HEADERS = b"GET /login HTTP/1.1\r\nhost: x\r\n"
HALF_BODY = b"POST /api/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
LOGIN = b"GET /login HTTP/1.1\r\nhost: x\r\n\r\n"


@contextmanager
def serving(app: Any, most: int = 100) -> Iterator[int]:
    """The app behind the protocol on a server of this process. Gives its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        protocol = type("Protocol", (LimitedProtocol,), {"most": most})
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", http=protocol, loop="asyncio"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)


def connect(port: int, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(data)
    return client


def read_until_closed(client: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while client.recv(2**16):
            pass


def status_of(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/login")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("name", "data"), [("HEADER_SECONDS", b""), ("HEADER_SECONDS", HALF_HEADERS), ("BODY_SECONDS", HALF_BODY)]
)
def test_what_is_half_sent_is_closed_in_time(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, data: bytes
) -> None:
    monkeypatch.setattr(connections, name, 0.3)
    with serving(app) as port, caplog.at_level(logging.WARNING):
        begun = time.monotonic()
        with connect(port, data) as client:
            read_until_closed(client)
        assert time.monotonic() - begun > 0.25, "it had its time"
        assert status_of(port) == 200
    assert caplog.records == []


def test_a_byte_now_and_then_gains_no_time(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    with serving(app) as port, connect(port, HALF_HEADERS) as client:
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 60:
                time.sleep(0.05)
                client.sendall(b"x")
                sent += 1
    assert sent < 30


def test_an_answer_that_is_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.15)
    large = FastAPI()
    large.get("/login")(lambda: Response(b"x" * 2**25))
    with serving(large) as port, connect(port, LOGIN) as client:
        time.sleep(0.5)
        read = 0
        while data := client.recv(2**16):
            read += len(data)
        assert 0 < read < 2**25


def test_requests_in_time_keep_their_connection(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.8)
    with serving(app) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(5):  # longer than the limit of one request
            time.sleep(0.2)
            connection.request("POST", "/api/login", '{"name": "ada", "password": "x"}')
            assert connection.getresponse().read()
        connection.close()


def test_connections_past_the_most_are_answered_503(app: FastAPI) -> None:
    with serving(app, most=3) as port:
        held = [connect(port, HALF_HEADERS) for _ in range(3)]
        time.sleep(0.1)
        with connect(port) as refused:
            answer = refused.recv(1000)
            assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 5\r\n" in answer
            head, body = answer.split(b"\r\n\r\n")
            assert f"content-length: {len(body)}".encode() in head
        for client in held:
            client.close()
        ends = time.monotonic() + 20
        while status_of(port) != 200:
            assert time.monotonic() < ends
            time.sleep(0.05)


@pytest.mark.parametrize(("files", "most"), [(64, 1), (128, 18), (256, 120), (1024, 888), (4096, 1000)])
def test_connections_leave_files_for_the_store(monkeypatch: pytest.MonkeyPatch, files: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert most_connections() == most


@pytest.mark.slow
@pytest.mark.parametrize(("files", "clients"), [(128, 300), (1024, 1500)])
def test_half_sent_requests_stop_nobody(tmp_path: Path, enrol: Callable[..., str], files: int, clients: int) -> None:
    """The real server: it says nothing, rests, and serves again once the slow ones have had their time."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n"
        "from rlhf_envs.feedback.web import connections, server\n"
        "connections.HEADER_SECONDS = 5.0\n"
        f"server.serve({str(tmp_path / 'feedback.db')!r}, port=0)"
    )
    enrol("ada", "admin")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, clients + 500), hard))
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(re.findall(r":(\d+)", server.stdout.readline())[0])
        slow = [connect(port, HALF_HEADERS) for _ in range(clients)]
        time.sleep(1)
        before = sum(psutil.Process(server.pid).cpu_times()[:2])
        time.sleep(2)
        assert sum(psutil.Process(server.pid).cpu_times()[:2]) - before < 0.5
        time.sleep(3)
        assert [status_of(port) for _ in range(20)] == [200] * 20
        for client in slow:
            client.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.kill(server.pid, signal.SIGINT)
        _, errors = server.communicate(timeout=20)
    assert errors == ""


def test_the_rest_of_a_chunked_body_that_is_too_large_is_not_read(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_app, "MAX_BODY", 1000)
    head = (
        b"POST /api/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    with serving(app) as port:
        with connect(port, head + b"800\r\n" + b" " * 0x800 + b"\r\n") as client:  # and more is still to come
            assert client.recv(2**16).startswith(b"HTTP/1.1 413 ")
            read_until_closed(client)  # within its 10 seconds: uvicorn would read on for a minute
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as small:
            headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
            small.request("POST", "/api/login", iter([b"{}"]), headers, encode_chunked=True)
            answer = small.getresponse()
            assert answer.status == 422 and not answer.will_close, "others stay open"
