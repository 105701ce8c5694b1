"""Engines: a child that is killed and comes back, one that hangs, and servers whose model is not the one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
import agents.serving.engine as engines
from agents.serving.engine import ChildEngine, RemoteEngine
from agents.serving.model_folder import prepare
from agents.serving.telemetry import Telemetry
from benchmarks.fake_engine import FakeEngine

from .running import Served, run, serve, wait_until

# A program that is started as `transformers serve` is, and answers as the fake engine does.
CHILD = "import sys; from benchmarks.fake_engine import main; main(int(sys.argv[-1]))"


@pytest.fixture
def killable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(engines, "EVERY", 0.2)
    folder = prepare("tiny", tmp_path).folder

    def child(_: str, telemetry: Telemetry) -> ChildEngine:
        return ChildEngine(folder, telemetry, command=[sys.executable, "-c", CHILD])

    with serve(tmp_path, FakeEngine(), child) as served:
        yield served


def test_a_killed_engine_comes_back_and_clients_get_503_in_between(killable: Served) -> None:
    engine = killable.gateway.engine
    assert killable.complete("a b").json()["choices"][0]["text"] == "b a "
    os.kill(engine.process.pid, signal.SIGKILL)
    statuses, ends = [], time.monotonic() + 30
    while (not statuses or statuses[-1] != 200 or 503 not in statuses) and time.monotonic() < ends:
        response = killable.complete("a b")
        statuses.append(response.status_code)
        if response.status_code != 200:
            assert response.json()["error"]["code"] == "engine_unavailable" and int(response.headers["retry-after"]) > 0
        time.sleep(0.02)
    assert set(statuses) == {200, 503} and statuses[-1] == 200
    assert killable.metric("rlhf_engine_restarts_total") == 1


def test_a_request_that_runs_when_the_engine_dies_gets_503(killable: Served) -> None:
    gateway = killable.gateway

    def kill() -> None:
        wait_until(lambda: gateway.admission.n_running == 1)
        time.sleep(0.2)  # for the way to the engine
        os.kill(gateway.engine.process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert killable.complete("!sleep 30").status_code == 503
    killer.join()


def test_an_engine_that_hangs_is_restarted(killable: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PROBE", 0.2)
    engine = killable.gateway.engine
    old = engine.process.pid
    wait_until(lambda: engine.process.pid == old and engine.problem is None)
    os.kill(old, signal.SIGSTOP)
    wait_until(lambda: engine.process is not None and engine.process.pid != old and engine.problem is None, 30)
    assert killable.complete("a").status_code == 200


@pytest.mark.parametrize(("code", "said"), [("print('no such device')", ["no such device"]), ("pass", [])])
def test_a_start_that_fails_has_its_own_last_words_alone(tmp_path: Path, code: str, said: list[str]) -> None:
    program = [sys.executable, "-c", f"{code}; raise SystemExit(3)"]
    engine = ChildEngine(prepare("tiny", tmp_path).folder, Telemetry(), command=program)
    engine._said.append("what a client wrote to the child before")
    assert run(engine._run_once()) == "ended with the code 3"
    assert [*engine._said] == said


def test_a_child_ends_with_its_parent() -> None:
    """The pipe to its standard input ends with the parent, however that ends."""
    code = (
        "import sys, types\n"
        "app = types.ModuleType('transformers.cli.transformers'); app.app = lambda: __import__('time').sleep(60)\n"
        "for name in ('transformers', 'transformers.cli'): sys.modules[name] = types.ModuleType(name)\n"
        "sys.modules['transformers.cli.transformers'] = app\n"
        f"import runpy; runpy.run_path({str(Path(engines.__file__).with_name('child.py'))!r}, run_name='__main__')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    time.sleep(0.5)
    assert child.poll() is None and child.stdin is not None
    child.stdin.close()
    assert child.wait(10) == 0


@pytest.mark.parametrize(
    ("models", "wanted", "problem"),
    [
        (["backwards"], None, None),
        (["a", "backwards"], "backwards", None),
        (["/models/backwards.gguf"], "/models/mine.gguf", "does not list the model of rlhf serve --upstream-model"),
        (["/models/a.gguf", "b"], None, "expected one model"),
        ([], None, "expected one model"),
        ([{"x": 1}], None, "expected one model"),
    ],
)
def test_an_upstream_must_list_the_model(models: list[Any], wanted: str | None, problem: str | None) -> None:
    import httpx2

    fake = FakeEngine()
    fake.models = models

    async def look() -> str | None:
        engine = RemoteEngine("http://fake/v1", Telemetry(), wanted)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(fake.app)) as client:
            found = engine._check(await client.get(f"{engine.url}/v1/models"))
        assert found is not None or engine.model == "backwards"
        return found

    found = run(look())
    assert "/home" not in str(found), "clients read it"
    assert (found is None) if problem is None else (found is not None and problem in found)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://u:p@host", "http://x?y=1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected an address"):
        RemoteEngine(url, Telemetry())
