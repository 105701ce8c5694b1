"""A store, an app over it, people with accounts, and, for the browser, a server and Chromium."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from itsdangerous import TimestampSigner
from starlette.responses import PlainTextResponse

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


@pytest.fixture(autouse=True)
def _figures_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let admins' pages wait for their figures also on a busy machine, where 0.3 s are soon over."""
    monkeypatch.setattr("rlhf_envs.feedback.web.admin.figures._CHEAP", 60.0)


@pytest.fixture(scope="session")
def _routes() -> list[Any]:
    """The routes of the first app: FastAPI works them out as they are asked for, most of the work of a test's app."""
    return []


@pytest.fixture
def app(store: FeedbackStore, _routes: list[Any]) -> FastAPI:
    app = create_app(store, secret=SECRET)
    if not _routes:
        _routes += app.router.routes
    assert [type(route) for route in app.router.routes] == [type(route) for route in _routes]
    app.router.routes[:] = _routes
    return app


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


@contextmanager
def serving(app: object) -> Iterator[str]:
    """Serve an app on a real server of this process, and give its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # from now on who comes waits
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))  # type: ignore[arg-type]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def serve_app() -> Iterator[Callable[..., str]]:
    """Serve an app on a real server of this process, and return its address."""
    with ExitStack() as served:
        yield lambda app: served.enter_context(serving(app))


class _Standing:
    """Be the app of one test after another, on one server.

    To start and end a server each test takes a fifth of a second of waiting, and at an address that it knows Chromium
    has the page's files, and its scripts compiled.
    """

    def __init__(self) -> None:
        self._app: Any = None
        self._busy = 0
        self._lock = threading.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._lock:
            app = self._app or PlainTextResponse("no test runs", 503)
            self._busy += 1
        try:
            await app(scope, receive, send)
        finally:
            with self._lock:
                self._busy -= 1

    @contextmanager
    def be(self, app: object) -> Iterator[None]:
        """Be this app until the block ends and all its requests are answered."""
        self._app = app
        yield
        with self._lock:
            self._app = None
        deadline = time.monotonic() + 10
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.001)


@pytest.fixture(scope="session")
def _standing_server() -> Iterator[tuple[_Standing, str]]:
    standing = _Standing()
    with serving(standing) as address:
        yield standing, address


@pytest.fixture
def address(app: FastAPI, _standing_server: tuple[_Standing, str]) -> Iterator[str]:
    """The app on a real server of this process."""
    standing, app.state.url = _standing_server  # the address as `rlhf feedback serve` tells it
    with standing.be(app):
        yield str(app.state.url)


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


class _SharedContext:
    """Lend one context of Chromium to test after test: it starts fewer processes, half of the work of opening a page.

    Between tests its pages are closed, and its cookies and what the server's origin has stored are deleted.
    """

    def __init__(self, chromium: Any) -> None:
        self.context = chromium.new_context(viewport=DESKTOP)
        self._kept = self.context.new_page()  # without a page the context would close its window
        self._session = self.context.new_cdp_session(self._kept)

    def clear(self, address: str) -> None:
        for page in self.context.pages:
            if page is not self._kept:
                page.close()
        self.context.set_offline(False)
        self.context.clear_cookies()
        self._session.send("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})


@pytest.fixture(scope="session")
def _shared_context(chromium: Any) -> _SharedContext:
    return _SharedContext(chromium)


@pytest.fixture
def open_page(
    chromium: Any,
    _shared_context: _SharedContext,
    address: str,
    store: FeedbackStore,
    enrol: Callable[..., str],
    signed: Callable[..., tuple[str, str]],
) -> Iterator[Callable[..., Any]]:
    """Open a page as someone; at the end nothing may have gone wrong in its console.

    The first page of a test is in the context that tests share, unless it has `options` of its own.
    """
    wrong: list[str] = []
    contexts: list[Any] = []

    def open_page(path: str = "/annotate", name: str = "ada", role: str = "annotator", **options: Any) -> Any:
        if options or _shared_context.context in contexts:
            context = chromium.new_context(**{"viewport": DESKTOP, **options})
        else:
            context = _shared_context.context
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
        if context is _shared_context.context:
            _shared_context.clear(address)
        else:
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
