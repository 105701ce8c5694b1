"""A server that speaks OpenAI's chat protocol, whose answers a function gives, and a judge's file for it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = str | bytes | tuple[int, Any] | tuple[int, Any, dict[str, str]] | float
TEXT = re.compile(r"^<<<(\w[\w ]*) (\w{16})>>>\n(.*?)\n<<<END OF \1 \2>>>$", re.M | re.S)


def texts_of(question: str) -> dict[str, str]:
    """Return the fenced texts of a question by their names."""
    return {name: text for name, _, text in TEXT.findall(question)}


def by_good(question: str) -> str:
    """Prefer the text with more "good", and rate by their number."""
    texts = texts_of(question)
    if "falls short" in question:
        return "It does not say good."
    if question.startswith("Rewrite"):
        return "Here it is.\n<<<REVISION>>>\ngood\nfilm\n<<<END OF REVISION>>>"
    if '"Ranking: "' in question:
        letters = sorted(
            (name[-1] for name in texts if name != "PROMPT"), key=lambda a: -texts[f"RESPONSE {a}"].count("good")
        )
        return f"Some reason.\n**Ranking: {' > '.join(letters)}**"
    if '"Harms: "' in question:
        numbers = [i for i, word in re.findall(r"^(\d+)\. (.+)$", question, re.M) if word in texts["RESPONSE"]]
        return f"Some reason.\nHarms: {', '.join(numbers) or 'none'}"
    if "RESPONSE" in texts and '"Rating: "' in question:
        return f"Some reason.\nRating: {1 + texts['RESPONSE'].count('good')}"
    a, b = (texts[f"RESPONSE {side}"].count("good") for side in "AB")
    return f"Some reason.\nVerdict: {'A' if a > b else 'B' if b > a else 'tie'}"


@contextmanager
def judging(answer: Callable[[str], Answer] = by_good) -> Iterator[Any]:
    """Serve a judge. `answer` gets the question, and returns a text, a status with JSON (and headers), raw bytes, or
    seconds of silence. What is yielded has `url`, `bodies` and `most`, the most requests at a time."""

    class Handler(BaseHTTPRequestHandler):
        server: Any

        def do_POST(self) -> None:
            server = self.server
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.bodies.append(body)
                server.keys.append(self.headers["Authorization"])
                server.now += 1
                server.most = max(server.most, server.now)
            try:
                found = answer(body["messages"][-1]["content"])
            finally:
                with server.lock:  # before the client hears of it, and sends the next
                    server.now -= 1
            self.answer(found)

        def answer(self, found: Answer) -> None:
            if isinstance(found, float):
                self.server.enough.wait(found)
                return
            status, headers = 200, {}
            if isinstance(found, tuple):
                status, content, headers = (*found, {})[:3]
                data = json.dumps(content).encode()
            elif isinstance(found, bytes):
                data = found
            else:
                choices = [{"message": {"role": "assistant", "content": found}}]
                data = json.dumps({"choices": choices, "usage": {"total_tokens": 100}}).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.lock, server.enough = True, threading.Lock(), threading.Event()
    server.bodies, server.keys, server.now, server.most = [], [], 0, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.enough.set()
        server.shutdown()
        server.server_close()


def write_judge(folder: Path, url: str | None, file: str = "judge.yml", **settings: Any) -> Path:
    """Write a judge's file and return its path. JSON is YAML."""
    known = {"model": "j", "url": url, "rubric": "Better texts say good more often.", "timeout": 5.0, "retries": 1}
    path = folder / file
    path.write_text(json.dumps({key: value for key, value in (known | settings).items() if value is not None}))
    return path
