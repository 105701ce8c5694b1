"""The limits of keys."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
from agents.serving.errors import Refusal
from agents.serving.keys import ApiKey
from agents.serving.limits import KeyLimits

NOW = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time that limits see, in a list of one."""
    now = [1000.0]
    monkeypatch.setattr("agents.serving.limits.time.monotonic", lambda: now[0])
    return now


def key(per_minute: int, id: str = "a") -> ApiKey:
    return ApiKey(id=id, name=id, hash="0" * 64, scopes=("completions",), created=NOW, per_minute=per_minute)


def refused_for(limits: KeyLimits, key: ApiKey) -> str | None:
    """Count a request; return after how many seconds another one is due, if it is refused."""
    try:
        limits.count(key)
    except Refusal as refusal:
        return (refusal.headers or {})["Retry-After"]
    return None


def test_a_window_of_a_minute_moves_on(clock: list[float]) -> None:
    limits = KeyLimits(per_minute=100, at_once=1)
    assert refused_for(limits, key(2)) is None
    clock[0] += 40
    assert refused_for(limits, key(2)) is None
    assert refused_for(limits, key(2)) == "20"
    assert refused_for(limits, key(2, "b")) is None, "others go on"
    clock[0] += 20
    assert refused_for(limits, key(2)) is None, "what was refused is not counted"
    assert refused_for(limits, key(2)) == "40"


def test_a_limit_that_became_smaller_says_when_enough_are_gone(clock: list[float]) -> None:
    limits = KeyLimits(per_minute=100, at_once=1)
    for _ in range(3):
        assert refused_for(limits, key(3)) is None
        clock[0] += 10
    assert refused_for(limits, key(2)) == "40", "then one of three is left"
    clock[0] += 40
    assert refused_for(limits, key(2)) is None


def test_counting_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop waits for a thread that starts."""
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    limits = KeyLimits(per_minute=100, at_once=1)
    for _ in range(100):
        limits.count(key(100))
    assert not started
