"""Watch over the engine that writes completions: a child process of ours, or a server elsewhere."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from .dialect import Dialect, TransformersDialect
from .llama.own_server import LlamaServerDialect
from .llama.python_server import LlamaCppPythonDialect
from .telemetry import Telemetry, log_json

__all__ = ["ChildEngine", "Engine", "RemoteEngine"]

EVERY = 2.0  # seconds between looks at an engine
PROBE = 10.0  # seconds that a look may take
FAILURES = 3  # looks in a row without an answer after which a child is taken to hang
LLAMA_CPP_PYTHON, LLAMA_SERVER = "me", "llamacpp"  # whose their models are, in their lists of them
LONGEST_BACKOFF = 30.0
STEADY = 60.0  # seconds after which a child that died has worked well enough to be restarted at once


class Engine:
    """Serve as the base of the engines.

    Attributes:
        url: where it listens now; "" before it does.
        model: the name of its model in requests to it.
        headers: sent with every request.
        problem: why it does not answer, in words for clients; None if it does.
        dialect: translates requests for it.
        n_asked: requests that it is answering now.
    """

    def __init__(self, dialect: Dialect, telemetry: Telemetry) -> None:
        self.url, self.model, self.headers = "", "", dict[str, str]()
        self.dialect, self.telemetry, self.n_asked = dialect, telemetry, 0
        self.problem: str | None = "the engine is starting"
        self._watching: asyncio.Task[None] | None = None

    @property
    def retry_after(self) -> float:
        """Return the seconds after which the engine may answer again."""
        return EVERY

    @property
    def at_once(self) -> int:
        """Return the number of requests that it answers at once, if nobody says otherwise."""
        return self.dialect.at_once

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count a request as being answered for as long as the `with` lasts."""
        self.n_asked += 1
        try:
            yield
        finally:
            self.n_asked -= 1

    def names(self, model: Any) -> bool:
        """Return whether an answer's `model` is the one that was asked for."""
        return bool(model == self.model)

    async def start(self) -> None:
        """Begin to watch. It returns at once; `problem` says when the engine answers."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the watch, and the engine if it is ours."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    async def _watch(self) -> None:
        raise NotImplementedError

    def _tell(self, problem: str | None, **details: Any) -> None:
        """Note what the matter is, and log it if that is new, with details that are not for clients."""
        if problem != self.problem:
            level = logging.WARNING if problem else logging.INFO
            log_json("engine", level, state=problem or "ready", url=self.url, **details)
        self.problem = problem
        self.telemetry.engine_up.set(problem is None)


class RemoteEngine(Engine):
    """Use a server that speaks OpenAI's API, such as vLLM or llama.cpp's.

    llama.cpp's servers are known by their lists of models, and get requests in dialects of their own. While
    llama-cpp-python's answers, it is not looked at: that would end a stream.

    Args:
        url: its address, with or without the "/v1".
        model: the name of its model; by default the only one that it lists.
        key: its API key.
        folder: a Hugging Face folder of the model, for engines whose dialect counts tokens.

    Raises:
        ValueError: the address is none.
    """

    def __init__(
        self,
        url: str,
        telemetry: Telemetry,
        model: str | None = None,
        key: str | None = None,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(Dialect(), telemetry)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ValueError(f"upstream={url!r}: expected an address such as http://127.0.0.1:8000/v1")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._wanted = model
        self._plain = self.dialect
        self._own: dict[str, Dialect] = {}
        if folder is not None:
            self._own = {LLAMA_CPP_PYTHON: LlamaCppPythonDialect(folder), LLAMA_SERVER: LlamaServerDialect(folder)}
        self._listed: list[str] = []
        if key:
            self.headers["Authorization"] = f"Bearer {key}"

    async def _watch(self) -> None:
        silent = 0  # looks in a row that the engine did not answer in time
        async with httpx2.AsyncClient(trust_env=False, timeout=PROBE, headers=self.headers) as client:
            while True:
                is_one_by_one = isinstance(self.dialect, LlamaCppPythonDialect)
                if not (is_one_by_one and self.n_asked):
                    try:
                        response = await client.get(f"{self.url}/v1/models")
                        silent, problem = 0, self._check(response)
                        self._tell(problem, **({"listed": self._listed[:5], "wanted": self._wanted} if problem else {}))
                    except (httpx2.HTTPError, ValueError) as error:
                        silent += isinstance(error, httpx2.ReadTimeout)
                        # It may still write for a client that is gone.
                        if not (is_one_by_one and 0 < silent < FAILURES and isinstance(error, httpx2.ReadTimeout)):
                            self._tell(f"the engine is out of reach ({type(error).__name__})")
                await asyncio.sleep(EVERY)

    def _check(self, response: httpx2.Response) -> str | None:
        """Return what is wrong with a list of models, in words for clients; choose the model if nothing is."""
        self._listed = []
        if response.status_code != 200:
            return f"the engine's list of models has the status {response.status_code}"
        content = response.json()
        listed = content.get("data") if isinstance(content, dict) else None
        rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
        found = {row["id"]: row for row in rows if isinstance(row.get("id"), str)}
        self._listed = [*found]  # llama.cpp's servers call a model by its file, whose place is not for clients
        if self._wanted is None and len(found) != 1:
            return f"expected one model, the engine lists {len(found)}: name it, rlhf serve --upstream-model"
        chosen = next(iter(found)) if self._wanted is None else self._wanted
        if chosen not in found:
            return "the engine does not list the model of rlhf serve --upstream-model"
        self.model = chosen
        self.dialect = self._own.get(str(found[chosen].get("owned_by")), self._plain)
        return None


class ChildEngine(Engine):
    """Run `transformers serve` as a child process, and start it again whenever it dies or hangs.

    It answers one request after another, so one at a time is sent: those that wait can still be given up, and a seed is
    that of its own request alone.

    Args:
        folder: a Hugging Face folder, see `model_folder.prepare`.
        device: "auto", "cpu" or "cuda".
        command: the program, before its port; for tests.

    Raises:
        ImportError: a package that the engine needs is missing.
    """

    def __init__(
        self, folder: str | Path, telemetry: Telemetry, device: str = "auto", command: Sequence[str] | None = None
    ) -> None:
        if command is None:
            for package in ("openai", "uvicorn", "fastapi"):
                if find_spec(package) is None:
                    raise ImportError(f"transformers serve needs {package}: pip install 'rlhf-envs[serve]'")
        super().__init__(TransformersDialect(folder), telemetry)
        self.model = str(folder)
        program = [sys.executable, "-P", str(Path(__file__).with_name("child.py")), self.model]
        self._command = [*(command or [*program, "--device", device, "--host", "127.0.0.1"]), "--port"]
        self._backoff = 0.0
        self._said: deque[str] = deque(maxlen=20)  # the last lines that the child wrote
        self._was_ready = False
        self.process: asyncio.subprocess.Process | None = None

    @property
    def retry_after(self) -> float:
        return max(EVERY, self._backoff)

    def names(self, model: Any) -> bool:
        return model in (self.model, f"{self.model}@main")  # with the revision, which a folder does not have

    async def stop(self) -> None:
        await super().stop()
        await self._end()

    async def _watch(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                why = await self._run_once()
            finally:
                await self._end()
            steady = time.monotonic() - begun > STEADY
            self._backoff = 0.5 if steady or not self._backoff else min(2 * self._backoff, LONGEST_BACKOFF)
            self.telemetry.restarts.inc()
            self._tell(f"the engine {why}, and is being restarted")
            said = [] if self._was_ready else [*self._said][-3:]  # later it may hold clients' texts
            log_json("engine_restart", logging.WARNING, why=why, wait=self._backoff, said=said)
            await asyncio.sleep(self._backoff)

    async def _run_once(self) -> str:
        """Start the child and look after it until it ends or hangs. Return what happened."""
        self._said.clear()  # the one before may have written clients' texts
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment: Mapping[str, str] = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            str(port),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is for the gateway, which ends its child itself
        )
        reading = asyncio.create_task(self._read(self.process))
        ended = asyncio.create_task(self.process.wait())
        failures, self._was_ready = 0, False
        try:
            async with httpx2.AsyncClient(trust_env=False) as client:
                while True:
                    is_well = await _is_well(client, f"{self.url}/health")
                    if is_well:
                        self._tell(None)
                    self._was_ready |= is_well
                    failures = 0 if is_well else failures + 1
                    if self._was_ready and failures >= FAILURES:
                        return "does not answer"
                    await asyncio.wait({ended}, timeout=EVERY if self._was_ready else 0.2)
                    if ended.done():
                        await asyncio.wait({reading}, timeout=1.0)  # for its last words
                        return f"ended with the code {ended.result()}"
        finally:
            reading.cancel()
            ended.cancel()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Keep the child's last lines, and let it never wait for a reader."""
        assert process.stdout is not None
        while block := await process.stdout.read(65536):
            lines = block.decode("utf-8", "replace").splitlines()  # a block may end within a line, before its end
            self._said.extend([line for line in lines if line][-20:])

    async def _end(self) -> None:
        """End the child, if there is one."""
        process, self.process = self.process, None
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.kill()  # it holds nothing that could be lost
        await process.wait()


async def _is_well(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url, timeout=PROBE)).status_code == 200
    except httpx2.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
