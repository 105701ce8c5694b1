"""The load on the feedback server: it would see what is lost or doubled, and a small one reaches its bars."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from rlhf_envs.feedback import FeedbackStore, NewItem

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks.feedback.load`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.feedback.load")


def test_it_sees_what_is_lost_or_doubled_or_came_back(benchmark: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "feedback.db")
    person = benchmark.Person("ann", 1, threading.Event())
    with FeedbackStore(path) as store:
        store.add_items([NewItem("pairwise", "p", ("a", "b")) for _ in range(3)])
        store.add_annotator("ann")
        for key in ("one", "two", "three"):
            task = store.claim("ann")
            assert task is not None
            person.sent[key] = {"choice": 0, "strength": 1}
            person.stands[key] = store.submit(task.id, "ann", person.sent[key], key=key).id

    def missed() -> list[tuple[str, str]]:
        rows = benchmark.compare_with_store(path, [person])
        return [(row.name, row.found) for row in rows if row.reached is False]

    assert missed() == []
    person.stands["never came"] = 99
    assert missed() == [("lost", "1")]
    del person.stands["never came"]
    person.undone.add("two")
    assert missed() == [("taken back, but standing", "1")]
    person.undone.clear()
    person.sent["two"] = {"choice": 1, "strength": 1}
    assert missed() == [("other than sent", "1")]


@pytest.mark.slow
def test_a_small_load_reaches_its_bars(benchmark: Any) -> None:
    rows = benchmark.main(benchmark.Load(clients=8, kills=2, slow=100, strangers=4, seconds=6, warm_up=2))
    timed = "slowdown of the median"  # a busy machine may miss it
    assert [row for row in rows if row.reached is False and row.name != timed] == []
    assert sum(row.reached is True for row in rows) >= 14
