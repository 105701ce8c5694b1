"""The load of the gateway counts what clients see, and measures what an answer took beyond the engine's time."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")

from benchmarks.fake_engine import FakeEngine
from benchmarks.serving import load
from tests.agents.serving.running import run, serve


def test_the_load_counts_answers_refusals_and_broken_connections(tmp_path: Path) -> None:
    with serve(tmp_path, FakeEngine(per_word=0.02), places=16, per_minute=10**6) as served:
        _, limited = served.keys.add("limited", per_minute=1)
        port = urlsplit(served.url).port
        assert port is not None
        seen = run(load(port, "mine", [served.secret, limited], clients=16, seconds=1.0, words=3))
        gone = run(load(1, "mine", ["none"], clients=1, seconds=0.05, words=3))
    assert set(seen.statuses) == {"200", "429"}
    assert len(seen.whole) + len(seen.first) == seen.statuses["200"] >= 15, (
        "all but one of the limited clients are answered"
    )
    assert min(seen.whole) > 0 and min(seen.first) > 0, "the engine's own time is taken off"
    assert set(gone.statuses) == {"broken (ConnectionRefusedError)"}
