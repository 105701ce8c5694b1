"""Threads take their turns in the order in which they came."""

from __future__ import annotations

import threading
import time

import pytest

from rlhf_envs.feedback.store.turns import Turns


def test_waiters_are_let_through_in_their_order() -> None:
    turns, order = Turns(), list[int]()
    assert turns.acquire(0)

    def wait(n: int) -> None:
        assert turns.acquire(60)
        order.append(n)
        turns.release()

    threads = [threading.Thread(target=wait, args=(n,)) for n in range(5)]
    for n, thread in enumerate(threads):
        thread.start()
        while len(turns._waiting) <= n:
            time.sleep(0.001)
    turns.release()
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3, 4]
    assert turns.acquire(0), "nobody has it any more"


def test_who_waits_too_long_gives_up_and_holds_nobody_up() -> None:
    turns = Turns()
    assert turns.acquire(0) and not turns.acquire(0.01)
    turns.release()
    assert turns.acquire(0)


@pytest.mark.parametrize("has_come", [False, True])
def test_who_is_interrupted_while_waiting_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, has_come: bool) -> None:
    turns = Turns()
    assert turns.acquire(0)

    def interrupted(*_: object) -> bool:
        if has_come:
            turns.release()
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Event, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        turns.acquire(60)
    monkeypatch.undo()
    if not has_come:
        turns.release()
    assert turns.acquire(0)
