"""Sixteen annotators at once, on both databases: no task doubled, no label lost, however the calls fall."""

from __future__ import annotations

import math
import multiprocessing
import queue
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore, LeaseLost, NewItem, StoreError
from rlhf_envs.feedback.store import database
from rlhf_envs.feedback.store.queue import annotator_named

ANNOTATORS, ITEMS, OVERLAP = 16, 40, 3


def test_sixteen_annotators_double_nothing_and_lose_nothing(store_url: str) -> None:
    with FeedbackStore(store_url) as store:
        store.add_items([NewItem("rating", str(i), ("c",), overlap=OVERLAP) for i in range(ITEMS)])
        for n in range(ANNOTATORS):
            store.add_annotator(str(n))
        acknowledged: list[str] = []
        errors: list[BaseException] = []

        def annotate(name: str) -> None:
            rng = random.Random(name)
            try:
                # Half of them over connections of their own, as another process would.
                own = FeedbackStore(store_url) if int(name) % 2 else store
                while (task := own.claim(name)) is not None:
                    fate = rng.random()
                    if fate < 0.05:
                        own.release(task.id, name)
                        continue
                    key = f"{name}-{task.id}"
                    judgement = own.submit(task.id, name, {"rating": rng.randint(1, 5)}, key=key)
                    if fate < 0.25:  # a double click
                        assert own.submit(task.id, name, {"rating": 1}, key=key) == judgement
                    if 0.25 < fate < 0.35 and (again := own.undo(name)) is not None:
                        key = f"{name}-{again.id}"
                        own.submit(again.id, name, {"rating": 2}, key=key)
                    acknowledged.append(key)
                if own is not store:
                    own.close()
            except BaseException as error:
                errors.append(error)

        run([threading.Thread(target=annotate, args=(str(n),)) for n in range(ANNOTATORS)])
        assert errors == []
        judgements = store.judgements()
        assert sorted(j.key for j in judgements) == sorted(acknowledged)
        assert len(judgements) == ITEMS * OVERLAP  # claim said None only when nothing was left
        assert set(Counter(j.item_id for j in judgements).values()) == {OVERLAP}
        assert max(Counter((j.item_id, j.annotator) for j in judgements).values()) == 1
        assert store.progress().finished == ITEMS


def test_a_new_file_opened_by_several_at_once_is_open_for_all(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def connect(path: Path, together: threading.Barrier) -> None:
        together.wait()
        try:
            engine = database._engine(sa.URL.create("sqlite", database=str(path)), is_sqlite=True)
            with engine.connect() as connection:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            engine.dispose()
        except BaseException as error:
            errors.append(error)

    for n in range(60):
        together = threading.Barrier(6)
        run([threading.Thread(target=connect, args=(tmp_path / f"{n}.db", together)) for _ in range(6)])
    assert errors == []


class LockedConnection:
    """A connection that is locked for its first calls, as SQLite says it of a journal mode that another changes."""

    def __init__(self, locked: float, message: str = "database is locked") -> None:
        self.locked, self.message = locked, message
        self.calls: list[str] = []

    def execute(self, statement: str) -> None:
        self.calls.append(statement)
        if len(self.calls) <= self.locked:
            raise sqlite3.OperationalError(self.message)


def test_a_locked_journal_mode_is_tried_again() -> None:
    connection = LockedConnection(locked=1)
    database._set_wal(connection)
    assert connection.calls == ["PRAGMA journal_mode=WAL"] * 2


def test_a_journal_mode_that_stays_locked_is_an_error_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.03)
    connection = LockedConnection(locked=math.inf)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        database._set_wal(connection)
    assert len(connection.calls) > 1


def test_another_failure_of_the_journal_mode_is_an_error_at_once() -> None:
    connection = LockedConnection(locked=math.inf, message="disk I/O error")
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        database._set_wal(connection)
    assert len(connection.calls) == 1


def test_clicks_of_one_annotator_at_the_same_moment_make_one_judgement_and_one_task(store_url: str) -> None:
    with FeedbackStore(store_url) as store:
        store.add_annotator("ann")
        store.add_items([NewItem("rating", str(i), ("c",)) for i in range(8)])
        tasks, judged = [], []
        run([threading.Thread(target=lambda: tasks.append(store.claim("ann"))) for _ in range(8)])
        [task_id] = {task.id for task in tasks if task is not None}
        assert len(tasks) == 8

        def click() -> None:
            judged.append(store.submit(task_id, "ann", {"rating": 2}, key="click"))

        run([threading.Thread(target=click) for _ in range(8)])
        assert len(judged) == 8
        assert all(judgement == store.judgements()[0] for judgement in judged)
        assert len(store.judgements()) == 1


def test_the_last_place_goes_to_one_of_many(store_url: str) -> None:
    with FeedbackStore(store_url) as store:
        for n in range(8):
            store.add_annotator(str(n))
        for _ in range(5):
            [item_id] = store.add_items([NewItem("rating", "p", ("c",))])
            got: list[str] = []
            barrier = threading.Barrier(8)

            def claim(name: str, barrier: threading.Barrier = barrier, got: list[str] = got) -> None:
                barrier.wait()
                if (task := store.claim(name)) is not None:
                    got.append(name)
                    store.submit(task.id, name, {"rating": 1}, key=f"{name}-{task.id}")

            run([threading.Thread(target=claim, args=(str(n),)) for n in range(8)])
            assert len(got) == 1
            assert [j.annotator for j in store.judgements(item_ids=[item_id])] == got


def test_a_late_answer_and_its_successor_never_both_count(store_url: str) -> None:
    """The lease is over: the first annotator answers at the moment that another claims."""
    with FeedbackStore(store_url) as store:
        for name in ("ann", "bob"):
            store.add_annotator(name)
        for attempt in range(10):
            store.update_settings(lease_seconds=1e-6)
            [item_id] = store.add_items([NewItem("rating", "p", ("c",))])
            task = store.claim("ann")
            assert task is not None
            store.update_settings(lease_seconds=600.0)
            barrier = threading.Barrier(2)

            def late(task_id: int = task.id, barrier: threading.Barrier = barrier, n: int = attempt) -> None:
                barrier.wait()
                with suppress(LeaseLost):
                    store.submit(task_id, "ann", {"rating": 1}, key=f"ann{n}")

            def next_one(barrier: threading.Barrier = barrier, n: int = attempt) -> None:
                barrier.wait()
                if (taken := store.claim("bob")) is not None:
                    store.submit(taken.id, "bob", {"rating": 2}, key=f"bob{n}")

            run([threading.Thread(target=late), threading.Thread(target=next_one)])
            assert len(store.judgements(item_ids=[item_id])) == 1


def test_who_asks_for_what_is_new_misses_nothing(store_url: str) -> None:
    """Ids are handed out before a transaction ends: one that ends first must not hide one with a smaller id."""
    with FeedbackStore(store_url) as store:
        store.add_items([NewItem("rating", str(i), ("c",)) for i in range(80)])
        for n in range(8):
            store.add_annotator(str(n))
        done = threading.Event()
        seen: list[int] = []

        def annotate(name: str) -> None:
            while (task := store.claim(name)) is not None:
                store.submit(task.id, name, {"rating": 1}, key=str(task.id))

        def follow() -> None:
            while True:
                last_round = done.is_set()
                seen.extend(j.id for j in store.judgements(after_id=seen[-1] if seen else 0))
                if last_round:
                    return
                done.wait(0.001)  # else it takes most of the time from those who answer

        follower = threading.Thread(target=follow)
        follower.start()
        run([threading.Thread(target=annotate, args=(str(n),)) for n in range(8)])
        done.set()
        follower.join()
        assert seen == [j.id for j in store.judgements()]
        assert len(seen) == 80


def test_a_writer_is_not_passed_over_by_others_who_opened_the_file_too(
    empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite lets those wait longest who have waited long. Commits take a while, as on a slow disk."""
    commit = sa.engine.default.DefaultDialect.do_commit

    def commit_slowly(*given: Any) -> None:
        time.sleep(0.01)
        commit(*given)

    monkeypatch.setattr(sa.engine.default.DefaultDialect, "do_commit", commit_slowly)
    stores = [FeedbackStore(empty_store) for _ in range(6)]
    turns: list[int] = []
    together = threading.Barrier(len(stores))

    def write(n: int) -> None:
        together.wait()
        while len(turns) < 60:
            stores[n].log(str(n), "wrote")
            turns.append(n)

    run([threading.Thread(target=write, args=(n,)) for n in range(len(stores))])
    for store in stores:
        store.close()
    assert min(Counter(turns[:60])[n] for n in range(len(stores))) >= 5


def test_no_writer_waits_for_the_waits_of_all_before_it(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one waits for another program, as long as it takes, the others give up, and nothing of theirs is stored."""
    monkeypatch.setattr(database, "_BUSY_SECONDS", 600.0)  # SQLite's own limit
    with FeedbackStore(empty_store) as store:
        monkeypatch.setattr(database, "_BUSY_SECONDS", 0.3)  # that of a turn
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()

        def write(n: int) -> None:
            try:
                store.log(str(n), "wrote")
                ended.put("wrote")
            except StoreError as error:
                ended.put(str(error))

        other = sqlite3.connect(empty_store, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        try:
            first = [ended.get(timeout=300) for _ in range(7)]  # if they waited for the eighth, none would end
        finally:
            other.close()
            for thread in threads:
                thread.join()
        assert all("have written to the file for 0 s, or waited for another program" in text for text in first)
        assert ended.get() == "wrote"
        assert [entry.action for entry in store.audit()].count("wrote") == 1


def test_in_postgresql_no_call_waits_for_ever(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.3)
    with FeedbackStore(empty_postgres_url) as store, FeedbackStore(empty_postgres_url) as other:
        store.add_annotator("ann")
        told: list[str] = []

        def wait(call: Callable[[], object]) -> None:
            with pytest.raises(StoreError) as caught:
                call()
            told.append(str(caught.value))

        calls: list[Callable[[], object]] = [lambda: store.withdraw([1]), lambda: store.claim("ann")]
        waiting = [threading.Thread(target=wait, args=(call,), daemon=True) for call in calls]
        with other._database.write() as connection:
            other._database.one_writer(connection)
            annotator_named(connection, "ann", lock=True)
            for thread in waiting:
                thread.start()
            for thread in waiting:
                thread.join(15)
        assert len(told) == 2
        assert all("lock timeout" in said and "try again" in said for said in told)
        assert store.claim("ann") is None


def test_a_write_inside_a_write_is_an_error_and_no_deadlock(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)
    with FeedbackStore(empty_store) as store, FeedbackStore(empty_store) as same:
        with store._database.write(), pytest.raises(StoreError, match="other calls of this program have written"):
            same.log("inner", "wrote")
        assert same.audit() == []
        same.log("later", "wrote")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("at", ["a write", "a migration"])
def test_a_forked_process_waits_for_no_thread_of_its_parent(empty_store: Path, tmp_path: Path, at: str) -> None:
    new = tmp_path / "new.db"  # to be migrated
    with FeedbackStore(empty_store) as store:
        inside, over = threading.Event(), threading.Event()

        def hold() -> None:
            with store._database._turn() if at == "a write" else database._MIGRATING:
                inside.set()
                over.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait(60)
        given = (empty_store if at == "a write" else new,)
        process = multiprocessing.get_context("fork").Process(target=_log_in_a_store_of_its_own, args=given)
        process.start()
        process.join(15)
        if process.is_alive():
            process.kill()
        over.set()
        thread.join()
        process.join()
        assert process.exitcode == 0
    with FeedbackStore(*given) as store:
        assert [entry.actor for entry in store.audit()] == ["child"]


def _log_in_a_store_of_its_own(path: Path) -> None:
    with FeedbackStore(path) as store:
        store.log("child", "wrote")


def run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
