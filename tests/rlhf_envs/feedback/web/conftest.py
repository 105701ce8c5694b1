"""A store, an app over it, people with accounts, and, for the browser, a server and Chromium."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from itsdangerous import TimestampSigner

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.auth import COOKIE
from rlhf_envs.feedback.web.passwords import Passwords

DESKTOP = {"width": 1280, "height": 800}
PASSWORD = "correct horse"
SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def store(empty_store: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(empty_store, seed=0) as store:
        store.update_settings(next_item="age")  # the tests know which item comes next
        yield store


@pytest.fixture(scope="session")
def password_hash() -> str:
    return Passwords().hash(PASSWORD)


@pytest.fixture
def enrol(store: FeedbackStore, password_hash: str) -> Callable[..., str]:
    """Give someone an account with the password PASSWORD."""

    def enrol(name: str, role: str = "annotator") -> str:
        return store.register(store.invite(role), name, password_hash).name

    return enrol


@pytest.fixture(scope="session")
def signed() -> Callable[..., tuple[str, str]]:
    """Make (cookie, CSRF token) of someone who is signed in, without the work of a sign-in."""

    def signed(store: FeedbackStore, name: str, secret: bytes = SECRET) -> tuple[str, str]:
        csrf, token = os.urandom(8).hex(), store.begin_session(name, store.password_hash(name))
        payload = b64encode(json.dumps({"id": token, "name": name, "csrf": csrf}).encode())
        return TimestampSigner(secret.hex()).sign(payload).decode(), csrf

    return signed


@pytest.fixture
def app(store: FeedbackStore) -> FastAPI:
    return create_app(store, secret=SECRET)


@pytest.fixture
def visitor(app: FastAPI) -> Iterator[Callable[[], TestClient]]:
    """A browser that is not signed in, which follows no redirect."""
    with ExitStack() as clients:  # entered, a client keeps its event loop between requests, which is much faster
        yield lambda: clients.enter_context(TestClient(app, follow_redirects=False, raise_server_exceptions=False))


@pytest.fixture
def sign_in(
    visitor: Callable[[], TestClient],
    store: FeedbackStore,
    enrol: Callable[..., str],
    signed: Callable[..., tuple[str, str]],
) -> Callable[..., TestClient]:
    """Enrol someone and return a client that has the cookie and sends the CSRF token."""

    def sign_in(name: str, role: str = "annotator") -> TestClient:
        client = visitor()
        cookie, client.headers["X-CSRF-Token"] = signed(store, enrol(name, role))
        client.cookies.set(COOKIE, cookie)
        return client

    return sign_in


@pytest.fixture
def serve_app() -> Iterator[Callable[..., str]]:
    """Serve an app on a real server of this process, and return its address."""
    with ExitStack() as served:

        def serve_app(app: object) -> str:
            listener = served.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))  # type: ignore[arg-type]
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            served.callback(thread.join, 10)
            served.callback(setattr, server, "should_exit", True)
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield serve_app


@pytest.fixture
def address(app: FastAPI, serve_app: Callable[..., str]) -> str:
    """The app on a real server of this process."""
    app.state.url = serve_app(app)  # as `rlhf feedback serve` tells it
    return str(app.state.url)


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """The system's Chromium; without it the test is skipped, in CI it fails."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium on this machine: apt-get install chromium")
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(
    chromium: Any,
    address: str,
    store: FeedbackStore,
    enrol: Callable[..., str],
    signed: Callable[..., tuple[str, str]],
) -> Iterator[Callable[..., Any]]:
    """Open a page as someone; at the end nothing may have gone wrong in its console."""
    wrong: list[str] = []
    contexts = []

    def open_page(path: str = "/annotate", name: str = "ada", role: str = "annotator", **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        if name:
            context.add_cookies([{"name": COOKIE, "value": signed(store, enrol(name, role))[0], "url": address}])
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        # Chromium notes each 4xx as an error by itself; what is told to the annotator is tested.
        page.on("console", lambda line: wrong.append(line.text) if "Failed to load resource" not in line.text else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(address) else None)
        page.goto(address + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def intercept() -> Callable[..., None]:
    """Let a handler answer the requests of a page that match a pattern; return when Chromium intercepts them."""

    def intercept(page: Any, pattern: str, handler: Callable[[Any], object]) -> None:
        page.route(pattern, handler)
        held: list[Any] = []
        page.route("**/held-before-it-is-sent", lambda route: (held.append(route), route.fulfill(status=204)))
        for _ in range(100):  # now and then Chromium lets the first requests after `route` pass
            page.evaluate("fetch('/held-before-it-is-sent').catch(() => null)")
            if held:
                return
        pytest.fail(f"Chromium let 100 requests pass that {pattern} should have held")

    return intercept
