"""Run the feedback server as a process, and those who ask it: people, slow connections and strangers.

`benchmarks.feedback.load` measures with them.
"""

from __future__ import annotations

import http.client
import json
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.web.passwords import Passwords

__all__ = [
    "Client",
    "Person",
    "Server",
    "judged",
    "people",
    "slow_connections",
    "strangers",
    "wait_for_work",
    "wait_until",
]

PASSWORD = "four plain words here"
CAP = b"too many connections"  # what the server answers past its cap on connections
HALF = b"GET /login HTTP/1.1\r\nhost: x\r\n"


class Server:
    """Run `rlhf feedback serve` as a process, which can be killed and started again on its port."""

    def __init__(self, store: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "agents.cli", "feedback", "serve", "--store", store]
        self._command = [*command, "--port", str(self.port), "--proxy", "127.0.0.1"]  # clients say their addresses
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "annotation app on" in line, f"the server did not start: {line!r}"

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def megabytes(self) -> float:
        assert self._process is not None
        return float(psutil.Process(self._process.pid).memory_info().rss / 2**20)


@dataclass
class Client:
    """Ask the server over one connection, and open it again where it is lost."""

    port: int
    stop: threading.Event
    address: str = "10.0.0.1"  # as a proxy tells it, since the limit on sign-ins goes by it
    cookie: str = ""
    csrf: str = ""
    statuses: Counter[int] = field(default_factory=Counter)
    capped: int = 0  # answers 503 past the cap on connections
    lost: int = 0  # requests that were sent and got no answer
    errors: list[str] = field(default_factory=list)  # answers of 500 and more, but for those of the cap
    seconds: list[tuple[str, float]] = field(default_factory=list)  # (path, time of the answer)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def ask(self, path: str, body: Any = None, *, again: bool = True) -> tuple[int, Any]:
        """Return (status, answer) of a POST; (0, None) where there is no answer, and it is not to be asked again."""
        headers = {"Content-Type": "application/json", "X-CSRF-Token": self.csrf, "Cookie": self.cookie}
        headers["X-Forwarded-For"] = self.address
        while True:
            began = time.monotonic()
            try:
                self._connection.request("POST", path, None if body is None else json.dumps(body), headers)
                response = self._connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                self.lost += not isinstance(error, ConnectionRefusedError)
                if not again or self.stop.is_set():
                    return 0, None
                time.sleep(0.1)
                continue
            if response.status == 503 and CAP in text:
                self.capped += 1
                self._connection.close()
                if self.stop.wait(0.5):
                    return 0, None
                continue
            self.seconds.append((path.split("/")[-1], time.monotonic() - began))
            self.statuses[response.status] += 1
            if response.status >= 500:
                self.errors.append(f"{path}: {response.status} {text[:200]!r}")
            if cookie := response.getheader("Set-Cookie"):
                self.cookie = cookie.partition(";")[0]
            return response.status, json.loads(text) if text.strip() else None

    def close(self) -> None:
        self._connection.close()


class Person(threading.Thread):
    """Sign in, fetch, judge and undo until told to stop; a request without an answer is sent again as it was."""

    def __init__(self, name: str, port: int, stop: threading.Event, address: str = "10.0.0.1") -> None:
        super().__init__(name=name, daemon=True)
        self.client, self._stop_asked = Client(port, stop, address), stop
        self._random = random.Random(name)
        self.sent: dict[str, Any] = {}
        self.stands: dict[str, int] = {}  # key -> id of what was acknowledged and not undone, oldest first
        self.undone: set[str] = set()
        self.unsure: set[str] = set()  # the end came before the answer: it may stand or not
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            self.sign_in()
            while not self._stop_asked.is_set():
                self.judge()
                chance = self._random.random()
                if chance < 0.1:
                    self.undo()
                elif chance < 0.11:
                    self.client.ask("/api/logout")
                    self.sign_in()
        except BaseException as problem:
            self.problem = problem
        finally:
            self.client.close()

    def sign_in(self) -> None:
        while True:
            status, answer = self.client.ask("/api/login", {"name": self.name, "password": PASSWORD})
            if status == 200:
                self.client.csrf = answer["csrf"]
            if status in (0, 200):
                return
            assert status == 503 and self.client.errors.pop(), f"sign-in: {status} {answer}"  # too many at once
            time.sleep(1)

    def judge(self) -> None:
        status, state = self.client.ask("/api/claim")
        if status == 0:
            return
        assert status == 200, f"claim: {status} {state}"
        if state["task"] is None:
            self._stop_asked.wait(0.2)
            return
        key = f"{self.name}-{len(self.sent):06d}"
        chosen = {"choice": self._random.randrange(2), "strength": self._random.randint(1, 3)}
        value = self.sent[key] = None if self._random.random() < 0.1 else chosen
        status, saved = self.client.ask(f"/api/tasks/{state['task']['id']}/judgement", {"value": value, "key": key})
        if status == 200:
            assert saved["value"] == value
            self.stands[key] = saved["id"]
        else:  # stopped before the answer
            assert status == 0, f"judgement: {status} {saved}"
            self.unsure.add(key)

    def undo(self) -> None:
        if not self.stands:
            return
        key = next(reversed(self.stands))
        status, _ = self.client.ask("/api/undo", again=False)  # sent again, it could take back one more
        if status == 0:  # the server tells whether it was done
            status, state = self.client.ask("/api/claim")
            if status == 200 and state["progress"]["mine"] == len(self.stands):
                return
        if status == 409 and self.sent[key] is None:  # its place has gone to another
            return
        assert status in (0, 200), f"undo: {status}"
        del self.stands[key]
        (self.undone if status else self.unsure).add(key)


@contextmanager
def people(store: str, port: int, n: int) -> Iterator[list[Person]]:
    """Let people work until the `with` ends, once all have signed in. Raises what went wrong with them."""
    stop = threading.Event()
    with FeedbackStore(store) as opened:
        names = {person.name for person in opened.annotators()}
        password_hash = Passwords().hash(PASSWORD)
        batch = f"{len(names)}"  # people of another part are others
        working = [Person(f"p{batch}-{i}", port, stop, f"10.1.{i // 250}.{i % 250 + 1}") for i in range(n)]
        for person in working:
            opened.register(opened.invite(), person.name, password_hash)
    for person in working:
        person.start()
    try:
        wait_until(lambda: all(person.client.csrf or person.problem for person in working))
        yield working
    finally:
        stop.set()
        for person in working:
            person.join(120)
    for person in working:
        assert not person.is_alive(), f"{person.name} got no answer for two minutes"
        if person.problem is not None:
            raise person.problem


def judged(working: Sequence[Person]) -> int:
    """Return how many judgements people have sent."""
    return sum(len(person.sent) for person in working)


def wait_for_work(working: Sequence[Person], n: int = 5) -> None:
    """Wait until people have sent so many judgements more."""
    before = judged(working)
    wait_until(lambda: judged(working) >= before + n)


def wait_until(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    """Wait until something is so. Raise an error after the `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the people make no progress"
        time.sleep(0.05)


@contextmanager
def slow_connections(port: int, n: int) -> Iterator[list[int]]:
    """Keep half-sent requests open until the `with` ends. Gives how many were open at a time."""
    stop, counts = threading.Event(), [0]

    def hold() -> None:
        clients: list[socket.socket] = []
        while not stop.wait(0.2):
            clients = [client for client in clients if not is_closed(client)]
            while len(clients) < n and not stop.is_set():
                try:
                    client = socket.create_connection(("127.0.0.1", port), 5)
                    client.sendall(HALF)
                except OSError:
                    break
                clients.append(client)
            counts.append(len(clients))
        for client in clients:
            client.close()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        yield counts
    finally:
        stop.set()
        holder.join(60)


def is_closed(client: socket.socket) -> bool:
    """Return whether the server has closed a connection, which is then closed here too."""
    client.setblocking(False)
    try:
        if client.recv(1000):
            return False  # it is refused, and closed at the next look
    except BlockingIOError:
        return False
    except OSError:
        pass
    client.close()
    return True


@contextmanager
def strangers(port: int, n: int, tried: Counter[int]) -> Iterator[None]:
    """Let strangers try wrong passwords until the `with` ends, and count the statuses that they get."""
    stop, results = threading.Event(), queue.SimpleQueue[Counter[int]]()

    def attack(number: int) -> None:
        client = Client(port, stop, f"10.2.0.{number + 1}")
        for count in range(10**9):
            if stop.is_set():
                break
            name = f"nobody {number} {count} {time.monotonic_ns()}"  # each name has one try in a crowd
            client.ask("/api/login", {"name": name[:60], "password": "wrong wrong"}, again=False)
        client.close()
        results.put(client.statuses)

    threads = [threading.Thread(target=attack, args=(number,), daemon=True) for number in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        while not results.empty():
            tried.update(results.get())
