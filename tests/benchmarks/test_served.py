"""The benchmark of a served environment: PPO learns from the server's rewards alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rlhf_envs.interop.openenv.serving import served

pytest.importorskip("openenv", reason="needs the extra openenv")

from rlhf_envs.interop.openenv.server import create_app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    return importlib.import_module("benchmarks.served")


@pytest.fixture
def url() -> Iterator[str]:
    with served(create_app("rlhf/TokenBandit-v0", max_sessions=64)) as server:
        yield server.url


def test_a_short_run_gives_the_rewards_before_and_after(module: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLED", 16)
    found = module.learn(0, url, 512, n_envs=16)
    assert -0.5 < found["before"] < 0.5 and -1 <= found["after"] <= module.BEST and found["seconds"] > 0
    assert module.line("x", [found, found], 512).startswith("| x | 512 | ")


@pytest.mark.slow
def test_ppo_learns_on_a_served_environment(module: Any, url: str) -> None:
    found = module.learn(0, url, 49152)
    assert found["after"] > found["before"] + 0.3
