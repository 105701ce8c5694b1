"""`serve` and the secret that it keeps."""

from __future__ import annotations

import asyncio
import gc
import http.client
import importlib
import logging
import re
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from rlhf_envs.feedback import FeedbackStore, web
from rlhf_envs.feedback.web.server import find_secret, serve


def test_secret_is_made_once_beside_the_store_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    secret = find_secret(path)
    assert len(secret) == 32
    assert find_secret(f"sqlite:///{path}") == secret
    assert [file.name for file in tmp_path.iterdir()] == ["feedback.db.secret"]
    assert stat.S_IMODE((tmp_path / "feedback.db.secret").stat().st_mode) == 0o600
    assert find_secret(tmp_path / "another.db") != secret


def test_secret_of_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_FEEDBACK_SECRET", "given")
    assert find_secret(tmp_path / "feedback.db") == b"given"
    assert list(tmp_path.iterdir()) == []


def test_postgresql_without_a_secret_says_what_it_costs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(find_secret("postgresql://localhost/x")) == 32
    assert "RLHF_FEEDBACK_SECRET is not set: a restart of the server will sign everyone out" in caplog.text


def serve_in_thread(*args: Any, **options: Any) -> None:
    """Serve in a thread that has no event loop; the main thread has one where Playwright runs."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(serve, *args, **options).result()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Serve, and stop at once. Return what the server has said when it listened."""

    def said(path: Path, **options: Any) -> str:
        lines = []

        async def stop(self: uvicorn.Server) -> None:
            with socket.create_connection(self.servers[0].sockets[0].getsockname(), 1):
                lines.append(capsys.readouterr().out)

        monkeypatch.setattr(uvicorn.Server, "main_loop", stop)
        serve_in_thread(path, port=0, **options)
        return lines[0]

    return said


def test_serve_invites_the_first_admin_and_only_the_first(tmp_path: Path, said: Callable[..., str]) -> None:
    path = tmp_path / "feedback.db"
    first = said(path)
    assert first.startswith("annotation app on http://localhost:")
    link = re.search(r"http://localhost:\d+/invite/(\S+)", first)
    assert link
    with FeedbackStore(path) as store:
        assert store.register(link[1], "ada", "hash").role == "admin"
    assert "/invite/" not in said(path)


def test_links_carry_the_address_that_was_given(tmp_path: Path, said: Callable[..., str]) -> None:
    assert "https://label.example.org/invite/" in said(tmp_path / "feedback.db", url="https://label.example.org/")


@pytest.mark.parametrize(("proxies", "limited"), [([], True), (["127.0.0.1"], False), (["10.0.0.0/8"], True)])
def test_only_proxies_that_are_named_tell_the_address_of_a_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxies: list[str], limited: bool
) -> None:
    statuses: list[int] = []

    def attempts(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for i in range(7):
            headers = {"content-type": "application/json", "x-forwarded-for": f"192.0.2.{i}"}
            connection.request("POST", "/api/login", '{"name": "ada", "password": "wrong"}', headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()

    async def run(self: uvicorn.Server) -> None:
        await asyncio.to_thread(attempts, self.servers[0].sockets[0].getsockname()[1])

    monkeypatch.setattr(uvicorn.Server, "main_loop", run)
    serve_in_thread(tmp_path / "feedback.db", port=0, proxies=proxies)
    assert statuses == [401] * 5 + [429 if limited else 401] * 2


def test_the_collector_leaves_alone_what_was_loaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To search all of it holds up every request for a tenth of a second."""
    left: list[int] = []

    async def look(self: uvicorn.Server) -> None:
        left.append(len(gc.get_objects()))

    monkeypatch.setattr(uvicorn.Server, "main_loop", look)
    gc.unfreeze()  # what pytest itself, or a server before, has frozen
    before = len(gc.get_objects())
    serve_in_thread(tmp_path / "feedback.db", port=0)
    assert left[0] < before / 10


def test_a_proxy_must_be_an_address(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"proxy '\*': give an address"):
        serve(tmp_path / "feedback.db", proxies=["*"])


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'needs fastapi: pip install "rlhf-envs\[web\]"'):
        web.create_app  # noqa: B018
