"""One thread, no network, no GPU unless asked: set before anything imports torch."""

from __future__ import annotations

import gc
import os
import re
import socket
import sys
from collections.abc import Generator
from typing import Any

import pytest

# Two torch threads that compete for a core run several times slower than one; each xdist worker has one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"

_connect = socket.socket.connect


def _connect_locally(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        # Not an OSError: nothing may take it for a network that is down and carry on.
        raise RuntimeError(f"a test tried to reach {address}: tests have no network, everything works offline")
    _connect(self, address)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _connect_locally)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    # Only where torch is imported already: some tests assert that it is not.
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() != 1:
        sys.modules["torch"].set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU unless tests marked `gpu` are asked for: the others compare with the CPU, and "auto" would be it."""
    if not re.search(r"(?<!not )\bgpu\b", config.getoption("markexpr")):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected, and later pass over what stays: a third of the collection's time.

    The libraries and the tests are most of a million objects, so that each full pass would take half a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `any_device` on the CPU and on CUDA: only the device differs."""
    if "any_device" in metafunc.fixturenames:
        metafunc.parametrize("any_device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` on a machine without CUDA."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")
