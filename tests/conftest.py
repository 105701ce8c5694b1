"""One thread, no network, no GPU unless asked: set before anything imports torch."""

from __future__ import annotations

import copy
import gc
import importlib
import itertools
import multiprocessing
import os
import re
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Two torch threads that compete for a core run several times slower than one; each xdist worker has one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# A process of tests has one server that forks processes, whoever asks first. Without these each process imports them.
if "forkserver" in multiprocessing.get_all_start_methods():
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [
            *("agents.training.run", "transformers.models.gpt2.modeling_gpt2", "torch._dynamo"),
            "rlhf_envs.feedback.web.admin.forecast",
        ]
    )

_connect = socket.socket.connect


def _connect_locally(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        # Not an OSError: nothing may take it for a network that is down and carry on.
        raise RuntimeError(f"a test tried to reach {address}: tests have no network, everything works offline")
    _connect(self, address)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _connect_locally)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Let no test wait until what it wrote is on the disk: what is killed in tests is a process, never the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def waits_for_the_disk() -> None:
    """Ask that this test's databases wait for the disk as they do for people."""


@pytest.fixture(autouse=True)
def _no_waiting_for_the_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no commit of SQLite wait until it is on the disk: each took 8 ms so, one after another."""
    sqlalchemy = sys.modules.get("sqlalchemy")
    if sqlalchemy is None or "waits_for_the_disk" in request.fixturenames:
        yield
        return
    for event in ("connect", "checkout"):
        sqlalchemy.event.listen(sqlalchemy.pool.Pool, event, _relax)
    yield
    for event in ("connect", "checkout"):
        sqlalchemy.event.remove(sqlalchemy.pool.Pool, event, _relax)


def _relax(connection: Any, *_: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], bytes]:
    """Return the file of an empty feedback store, which is migrated when it is first asked for."""

    @cache
    def migrated() -> bytes:
        file = tmp_path_factory.mktemp("store") / "empty.db"
        sys.modules["rlhf_envs.feedback.store.database"].Database(file).close()
        return file.read_bytes()

    return migrated


@pytest.fixture(autouse=True, scope="module")
def _new_stores_are_copies(request: pytest.FixtureRequest, _empty_database: Callable[[], bytes]) -> Iterator[None]:
    """Begin new feedback stores in SQLite with a copy of an empty one: to migrate one takes 60 ms, to open it 3 ms.

    Tests of the store itself, in tests/rlhf_envs/feedback/store, migrate theirs.
    """
    database = sys.modules.get("rlhf_envs.feedback.store.database")
    if database is None or request.path.parent.name == "store":
        yield
        return
    empty, check = _empty_database(), database.Database._check_schema

    def copy_and_check(self: Any, migrate: bool) -> None:
        file = Path(self.place)
        if migrate and self.is_sqlite and file.is_file() and file.stat().st_size == 0:
            file.write_bytes(empty)
        check(self, migrate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database.Database, "_check_schema", copy_and_check)
        yield


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    # Only where torch is imported already: some tests assert that it is not.
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() != 1:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="module")
def module_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of what the tests of a module share, removed after them: pytest keeps such folders to the end."""
    folder = tmp_path_factory.mktemp(request.path.stem)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch, _rows_read: dict[str, Any]) -> None:
    """Give environments every nth row of their data, some 64: to read and cut all is most of a short run's work."""
    episodes = importlib.import_module("rlhf_envs.episodes")
    every = episodes.environment_rows

    def few(task: Any, *args: Any, **kwargs: Any) -> Any:
        made_of = repr((type(task), vars(task), args, kwargs))
        if made_of in _rows_read:
            rows, state = copy.deepcopy(_rows_read[made_of])
            vars(task).update(state)
            return rows
        rows = every(task, *args, **kwargs)
        rows = rows[:: max(1, len(rows) // 64)]
        if " at 0x" not in made_of:  # of an object that does not say what it holds
            _rows_read[made_of] = copy.deepcopy((rows, vars(task)))
        return rows

    monkeypatch.setattr(episodes, "environment_rows", few)


@pytest.fixture(scope="session")
def _rows_read() -> dict[str, Any]:
    """The few rows that environments got, and what a task knew then, by what they are read from."""
    return {}


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
        gc.set_threshold(2000, 10, 10**9)
        gc.enable()


_TESTS = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Make the full passes of the garbage collector between tests, and pass over what outlived one from then on.

    Left alone it made most of them for modules that tests import as they go: a twelfth of the suite's time. After a
    thousand tests nothing is passed over, so that what a later test let go is freed.
    """
    done = yield
    is_thousandth = next(_TESTS) % 1000 == 0
    if is_thousandth:
        gc.unfreeze()
    if is_thousandth or gc.get_count()[2] >= 10:
        gc.collect()
        gc.freeze()
    return done


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
