"""Load the gateway of `rlhf serve`: what it adds to an engine's time, and what clients see when the engine is killed.

    python -m benchmarks.serving [--clients 64] [--seconds 60] [--words 20] [--per-word 0.05]
    python -m benchmarks.serving kill [--clients 8]

Three processes: a fake engine (`benchmarks.fake_engine`), whose completions take words x per-word seconds and say how
long they took; the gateway as a user starts it, `rlhf serve tiny --upstream`; and this one with the clients, which ask
again as soon as they are answered. One client in eight has a key with a limit, to be refused by it. What an answer took
beyond what the engine says is measured at the client, through the gateway and without it, for whole answers and for the
first event of streams. The difference of the two 99th percentiles is what the gateway adds. `kill` runs `rlhf serve
tiny` with transformers serve and kills that with SIGKILL while clients ask.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from agents.serving.keys import KeyFile

LIMITED = 8  # one client in so many has the key with a limit


@dataclass
class Seen:
    """Hold what the clients saw: statuses, and the seconds beyond the engine's own of whole answers and of streams."""

    statuses: Counter[str] = field(default_factory=Counter)
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def p99(self, values: list[float]) -> float:
        return 1000 * float(np.percentile(values, 99)) if values else float("nan")


class Client:
    """Ask over one connection. A full client would need as much of the CPU as the gateway does."""

    def __init__(self, port: int, model: str, secret: str) -> None:
        self.port, self.model, self.secret = port, model, secret
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, prompt: str, stream: bool, seen: Seen) -> int:
        """Ask once, and note what was seen. Returns the status; 0 if the connection broke."""
        try:
            return await self._ask(prompt, stream, seen)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.statuses[f"broken ({type(error).__name__})"] += 1
            await self.close()
            return 0

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self.writer is not None:
            self.writer.close()
            with suppress(OSError):
                await self.writer.wait_closed()
        self.reader = self.writer = None

    async def _ask(self, prompt: str, stream: bool, seen: Seen) -> int:
        body = json.dumps({"model": self.model, "prompt": prompt, "stream": stream, "max_tokens": 100}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {self.secret}"
        begun = time.monotonic()
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.writer is not None
        self.writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status = int(answer.split()[1])
        headers = dict(line.lower().split(": ", 1) for line in answer.split("\r\n")[1:] if line)
        if "content-length" in headers:
            text = (await self.reader.readexactly(int(headers["content-length"]))).decode()
            if status == 200:
                seen.whole.append(time.monotonic() - begun - json.loads(text).get("seconds", 0))
        else:
            text = await self._chunks(begun, seen)
            if not text.rstrip().endswith("data: [DONE]"):
                status = 0
                seen.statuses["broken stream"] += 1
        if headers.get("connection") == "close":
            await self.close()
        if status:
            seen.statuses[str(status)] += 1
        if status in (429, 503):
            await asyncio.sleep(min(float(headers.get("retry-after", 1)), 1.0))
        return status

    async def _chunks(self, begun: float, seen: Seen) -> str:
        """Read a body in chunks; note the time of the first event."""
        assert self.reader is not None
        parts: list[bytes] = []
        while size := int(await self.reader.readline(), 16):
            parts.append((await self.reader.readexactly(size + 2))[:-2])
            if len(parts) == 1:
                now = time.monotonic()
                first = json.loads(parts[0].split(b"\n")[0].removeprefix(b"data: "))
                seen.first.append(now - begun - first.get("seconds", 0))
        await self.reader.readline()
        return b"".join(parts).decode()


async def load(port: int, model: str, secrets: list[str], clients: int, seconds: float, words: int) -> Seen:
    """Let clients ask for some seconds, every other time for a stream."""
    seen, ends = Seen(), time.monotonic() + seconds
    prompt = " ".join(["word"] * words)

    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.02)
        secret = secrets[-1] if number % LIMITED == 0 else secrets[0]
        client, turn = Client(port, model, secret), number
        while time.monotonic() < ends:
            turn += 1
            await client.ask(prompt, turn % 2 == 0, seen)
        await client.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    return seen


@contextmanager
def running(command: list[str], folder: Path, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a folder, from when an address of it answers until the `with` ends."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=log, stderr=log, env=environment)
    try:
        wait_for(ready, process)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_for(address: str, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args} ended with {process.returncode}") from None
            time.sleep(0.1)
    raise TimeoutError(address)


def cpu_of(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Load engine and gateway; return what is printed."""
    wide, limited = make_keys(folder)
    engine = ["-m", "benchmarks.fake_engine", str(args.port), str(args.per_word)]
    gateway = ["-m", "agents.cli", "serve", "tiny", "--port", str(args.port + 1)]
    gateway += ["--upstream", f"http://127.0.0.1:{args.port}", "--places", str(args.clients)]
    if args.watch:
        (folder / "topics.yml").write_text("test: [fish, bird]\n", encoding="utf-8")
        gateway += ["--score", "gold", "--score-share", "0.1", "--topics", "topics.yml", "--reference-size", "100"]
    with running(engine, folder, f"http://127.0.0.1:{args.port}/health"):
        asked = (args.clients, args.seconds, args.words)
        direct = asyncio.run(load(args.port, "backwards", ["none"], *asked))
        with running(gateway, folder, f"http://127.0.0.1:{args.port + 1}/readyz") as process:
            before = cpu_of(process.pid)
            through = asyncio.run(load(args.port + 1, "tiny", [wide, limited], *asked))
            cpu = cpu_of(process.pid) - before
    answered = through.statuses["200"]
    return {
        "statuses": dict(sorted(through.statuses.items())),
        "direct": dict(sorted(direct.statuses.items())),
        "whole, p50 and p99 in ms": [1000 * float(np.median(through.whole)), through.p99(through.whole)],
        "the same without the gateway": [1000 * float(np.median(direct.whole)), direct.p99(direct.whole)],
        "first event, p50 and p99 in ms": [1000 * float(np.median(through.first)), through.p99(through.first)],
        "first, without the gateway": [1000 * float(np.median(direct.first)), direct.p99(direct.first)],
        "added at p99, whole and first": [
            through.p99(through.whole) - direct.p99(direct.whole),
            through.p99(through.first) - direct.p99(direct.first),
        ],
        "gateway's CPU per answer in ms": 1000 * cpu / max(answered, 1),
    }


def make_keys(folder: Path) -> tuple[str, str]:
    """Make the keys, and return what clients send: of one without a narrow limit, and of one with it."""
    keys = KeyFile(folder / "serve-keys.json")
    _, wide = keys.add("wide", per_minute=10**6, at_once=1000)
    _, limited = keys.add("limited", per_minute=60, at_once=4)
    return wide, limited


def kill(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill transformers serve while clients ask; return what they saw."""
    wide, _ = make_keys(folder)
    command = ["-m", "agents.cli", "serve", "tiny", "--port", str(args.port)]
    with running(command, folder, f"http://127.0.0.1:{args.port}/readyz") as gateway:
        (child,) = [p for p in psutil.Process(gateway.pid).children() if "child.py" in " ".join(p.cmdline())]

        async def killing() -> tuple[Seen, float]:
            asking = asyncio.create_task(load(args.port, "tiny", [wide], args.clients, args.seconds, 3))
            await asyncio.sleep(min(5.0, args.seconds / 3))
            os.kill(child.pid, signal.SIGKILL)
            killed = time.monotonic()
            await asyncio.sleep(1)
            await asyncio.to_thread(wait_for, f"http://127.0.0.1:{args.port}/readyz", gateway)
            back = time.monotonic() - killed
            return await asking, back

        seen, back = asyncio.run(killing())
    return {"statuses": dict(sorted(seen.statuses.items())), "seconds until it answered again": back}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["load", "kill"], default="load")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--per-word", type=float, default=0.05)
    parser.add_argument("--watch", action="store_true", help="watch the traffic: drift, a tenth scored, and topics")
    parser.add_argument("--port", type=int, default=18431)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = (measure if args.what == "load" else kill)(args, Path(folder))
    for name, value in found.items():
        shown = ", ".join(f"{part:.2f}" for part in value) if isinstance(value, list) else value
        print(f"{name}: {shown:.2f}" if isinstance(shown, float) else f"{name}: {shown}")


if __name__ == "__main__":
    main()
