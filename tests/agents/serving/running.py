"""A gateway in front of a fake engine, both on real sockets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
pytest.importorskip("fastapi", reason="the gateway needs the extra serve")
pytest.importorskip("httpx2", reason="the gateway needs the extra serve")
import httpx2
import uvicorn

from agents.serving.app import create_gateway
from agents.serving.engine import Engine, RemoteEngine
from agents.serving.gateway import Settings
from agents.serving.keys import KeyFile
from agents.serving.server import GatewayServer
from agents.serving.telemetry import Telemetry
from benchmarks.fake_engine import FakeEngine
from rlhf_envs.feedback.web.listening import listen


def run(job: Coroutine[Any, Any, Any]) -> Any:
    """What a job returns, in a thread: a test of pages may have left a running event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, job).result()


@contextmanager
def in_thread(server: uvicorn.Server) -> Iterator[str]:
    """Let a server run in a thread; its address."""
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def wait_until(is_so: Callable[[], Any], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, "it did not come so far"
        time.sleep(0.01)


class Served(NamedTuple):
    """A gateway that runs: its address, its app, the engine's fake, a client with a key, and the key."""

    url: str
    app: Any
    fake: FakeEngine
    client: Any
    keys: KeyFile
    secret: str

    @property
    def gateway(self) -> Any:
        return self.app.state.gateway

    def complete(self, prompt: str = "a b c", **fields: Any) -> Any:
        return self.client.post("/v1/completions", json={"model": "mine", "prompt": prompt, **fields})

    def chat(self, prompt: str = "a b c", **fields: Any) -> Any:
        messages = [{"role": "user", "content": prompt}]
        return self.client.post("/v1/chat/completions", json={"model": "mine", "messages": messages, **fields})

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        samples = [s for family in self.gateway.telemetry.registry.collect() for s in family.samples]
        return sum(sample.value for sample in samples if sample.name == name)


@contextmanager
def serve(
    folder: Path, fake: FakeEngine, engine: Callable[[str, Telemetry], Engine] | None = None, **settings: Any
) -> Iterator[Served]:
    """Serve a gateway in front of a fake engine; wait until it is ready."""
    behind = uvicorn.Server(uvicorn.Config(fake.app, log_config=None, ws="none", loop="asyncio"))
    with in_thread(behind) as upstream, serve_before(folder, upstream, engine, fake, **settings) as served:
        yield served


@contextmanager
def serve_before(
    folder: Path,
    upstream: str,
    engine: Callable[[str, Telemetry], Engine] | None = None,
    fake: FakeEngine | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """Serve a gateway in front of an engine at an address; wait until it is ready."""
    telemetry, keys = Telemetry(), KeyFile(folder / "keys.json")
    _, secret = keys.add("ann", consent=True)
    more = {name: settings.pop(name) for name in ("desk", "masker") if name in settings}
    if (make_watch := settings.pop("watch", None)) is not None:
        more["watch"] = make_watch(telemetry)
    build = engine or (lambda url, telemetry: RemoteEngine(url, telemetry))
    app = create_gateway(Settings("mine", **settings), build(upstream, telemetry), keys, telemetry, **more)
    with in_thread(GatewayServer(app, drain=5)) as url:
        wait_until(lambda: app.state.gateway.engine.problem is None, 60)
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
            yield Served(url, app, fake or FakeEngine(), client, keys, secret)
