"""kill -9 of the server under 16 annotators: what was acknowledged is there, once."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.web.auth import COOKIE

SECRET = "a secret that outlives the server"
ANNOTATORS, KILLS, OVERLAP = 16, 20, 3

# Importing is most of a start: a parent imports once, and forks a server for each line it reads.
NURSERY = """
import os, sys
from rlhf_envs.feedback.web import server
url, port, secret = sys.argv[1:]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.close(0)
        server.serve(url, port=int(port), secret=secret.encode(), log_level="critical")
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
"""


class Server:
    """The real server in a process of its own, which can be killed and started again on its port."""

    def __init__(self, url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._nursery = subprocess.Popen(
            [sys.executable, "-c", NURSERY, url, str(self.port), SECRET],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.process = 0

    def start(self) -> None:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write("start\n")
        self._nursery.stdin.flush()
        while not (line := self._nursery.stdout.readline()).strip().isdigit():
            assert line, "the server did not start"  # else it says where it listens
        self.process = int(line)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "the server does not listen"
                time.sleep(0.01)

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        self.process = 0

    def close(self) -> None:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        if self.process:
            self.kill()
        self._nursery.wait(10)
        self._nursery.stdout.close()


class Person(threading.Thread):
    """Judges until told to stop; a request that gets no answer is sent again as it was."""

    def __init__(self, name: str, port: int, headers: dict[str, str], stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.port, self.headers, self.stop = port, headers, stop
        self.random = random.Random(name)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.sent: dict[str, dict[str, Any] | None] = {}
        self.acknowledged: dict[str, int] = {}  # key -> the judgement's id
        self.unanswered = 0
        self.problem: BaseException | None = None

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connection.request("POST", path, None if body is None else json.dumps(body), self.headers)
                answer = self.connection.getresponse()
                return answer.status, json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                self.connection.close()
                self.unanswered += 1
                assert time.monotonic() < deadline, f"no answer to {path} for a minute"
                time.sleep(0.02)

    def judge(self) -> bool:
        status, state = self.ask("/api/claim")
        assert status == 200, state
        if state["task"] is None:
            return False
        key = f"{self.name}-{len(self.sent):05d}-{self.random.getrandbits(32):08x}"
        choice = {"choice": self.random.randrange(2), "strength": self.random.randint(1, 3)}
        answer = {"value": None if self.random.random() < 0.1 else choice, "key": key}
        self.sent[key] = answer["value"]
        path = f"/api/tasks/{state['task']['id']}/judgement"
        status, saved = self.ask(path, answer)
        assert status == 200, saved
        assert saved["value"] == answer["value"]
        self.acknowledged[key] = saved["id"]
        if self.random.random() < 0.2:  # a double click
            assert self.ask(path, answer) == (200, saved)
        return True

    def run(self) -> None:
        try:
            while not self.stop.is_set() and self.judge():
                pass
        except BaseException as problem:
            self.problem = problem
        finally:
            self.connection.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "feedback.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def server(url: str) -> Iterator[Server]:
    server = Server(url)
    yield server
    server.close()


def people(
    store: FeedbackStore, port: int, stop: threading.Event, signed: Callable[..., tuple[str, str]]
) -> list[Person]:
    """Make annotators with accounts, and cookies as the server's secret signs them."""
    found = []
    for i in range(ANNOTATORS):
        name = store.register(store.invite("admin" if i == 0 else "annotator"), f"p{i}", "hash").name
        cookie, csrf = signed(store, name, SECRET.encode())
        headers = {"Cookie": f"{COOKIE}={cookie}", "X-CSRF-Token": csrf}
        found.append(Person(f"p{i}", port, headers | {"Content-Type": "application/json"}, stop))
    return found


def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(
    url: str, server: Server, signed: Callable[..., tuple[str, str]]
) -> None:
    stop, chance, kills = threading.Event(), random.Random(0), 0
    with FeedbackStore(url) as store:
        store.add_items([NewItem("pairwise", "p", ("a", "b"), overlap=OVERLAP) for _ in range(3000)])
        annotators = people(store, server.port, stop, signed)
    server.start()
    for person in annotators:
        person.start()
    while kills < KILLS:
        before = sum(len(person.acknowledged) for person in annotators)
        deadline = time.monotonic() + 30
        while sum(len(person.acknowledged) for person in annotators) < before + 3:
            assert time.monotonic() < deadline, [person.problem for person in annotators]
            assert any(person.is_alive() for person in annotators), [person.problem for person in annotators]
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        server.kill()
        kills += 1
        server.start()
    stop.set()
    for person in annotators:
        person.join(60)
        assert not person.is_alive()
        assert person.problem is None, person.problem

    acknowledged = {key: i for person in annotators for key, i in person.acknowledged.items()}
    sent = {key: value for person in annotators for key, value in person.sent.items()}
    with FeedbackStore(url) as store:
        stored = {judgement.key: judgement for judgement in store.judgements(include_skips=True)}
        everything = store.judgements(include_skips=True)
        progress = store.progress()
    assert acknowledged.keys() <= stored.keys(), "lost"
    assert all(stored[key].id == i for key, i in acknowledged.items())
    assert all(judgement.value == sent[key] for key, judgement in stored.items())
    assert len(everything) == len(stored) == progress.judgements + progress.skips, "doubled"
    assert max(Counter((judgement.item_id, judgement.annotator) for judgement in everything).values()) == 1
    answers = Counter(judgement.item_id for judgement in everything if judgement.value is not None)
    assert max(answers.values()) <= OVERLAP
    assert progress.finished == sum(n == OVERLAP for n in answers.values())
    # The test is worth something only if the kills struck amid work.
    assert sum(person.unanswered for person in annotators) >= KILLS
    assert len(acknowledged) >= 5 * KILLS
