"""Keep the sessions of episodes on an OpenEnv server, and play them again where a connection was lost."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import logging
import threading
import urllib.error
import urllib.request
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rlhf_envs.interop.openenv.library import import_openenv

__all__ = ["Job", "Result", "ServerError", "Sessions", "check_url"]

logger = logging.getLogger(__name__)

PAUSE = 0.5  # seconds before the first try to connect again; they double
LOOPBACK = ("127.0.0.1", "localhost", "::1")
T = TypeVar("T")


class ServerError(RuntimeError):
    """Raise when an OpenEnv server is not there, has refused a request, or is not what it was."""


@dataclass(frozen=True)
class Result:
    """Hold what a server says after a reset or a step."""

    observation: Mapping[str, Any]
    reward: float
    done: bool


@dataclass(frozen=True)
class Job:
    """Hold the next step of an episode, and all that leads to it.

    Attributes:
        key: the episode.
        reset: the arguments of its reset.
        past: its actions so far, each with the observation that followed.
        action: the next action.
    """

    key: int
    reset: Mapping[str, Any]
    past: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
    action: Mapping[str, Any]


class Sessions:
    """Play episodes on an OpenEnv server, many at a time, each in a session of its own.

    A session that is lost, with its connection or its server, is played again from its reset: the server must answer
    as it did. The same brings back the episodes of a run that is resumed.

    Args:
        base_url: the address of the server.
        timeout: seconds that an answer may take.
        retries: how often a lost connection is opened again.
    """

    def __init__(self, base_url: str, timeout: float = 60.0, retries: int = 4) -> None:
        self.base_url, self.timeout, self.retries = check_url(base_url), timeout, retries
        self.replayed = 0  # episodes that were played again
        self._clients: dict[int, Any] = {}  # by key, the one used last at the end
        self._idle: list[Any] = []
        self._busy: set[int] = set()
        self._released: collections.deque[int] = collections.deque()
        self._keys = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client_class: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the address: connections stay where they are."""
        return Sessions, (self.base_url, self.timeout, self.retries)

    def get(self, path: str) -> Any:
        """Return what the server answers to a GET request.

        Raises:
            ServerError: it does not answer, or not with JSON.
        """
        return self._request(urllib.request.Request(f"{self.base_url}{path}"))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return what the server answers to a POST request."""
        headers = {"Content-Type": "application/json"}
        return self._request(urllib.request.Request(f"{self.base_url}{path}", json.dumps(body).encode(), headers))

    def _request(self, request: urllib.request.Request) -> Any:
        handlers = [urllib.request.ProxyHandler({})] if urlsplit(self.base_url).hostname in LOOPBACK else []
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=self.timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ServerError(f"{request.full_url} answers {error.code}: is it an OpenEnv server?") from error
        except OSError as error:
            raise ServerError(f"no OpenEnv server answers at base_url={self.base_url!r}: {error}") from error
        except ValueError as error:
            raise ServerError(f"{request.full_url} answers with something that is no JSON: {error}") from error

    def key(self, episode: object) -> int:
        """Return a key for an episode whose session is free again once the object is gone."""
        key = next(self._keys)
        weakref.finalize(episode, self._released.append, key)
        return key

    def reset(self, many: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return what the server says after each of some resets, one after the other.

        Raises:
            ServerError: the server is not there, or refuses one.
        """
        return self._run(self._reset_all(many))

    def play(self, jobs: Sequence[Job]) -> list[Result]:
        """Take the next step of episodes, all at once.

        Raises:
            ServerError: the server is not there, refuses an action, or does not answer as it did before.
        """
        return self._run(self._play_all(jobs))

    def close(self) -> None:
        """Close all connections."""
        if self._loop is not None:
            self._run(self._close())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread that has all connections."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="rlhf-envs-openenv", daemon=True).start()
            weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _reset_all(self, many: Sequence[Mapping[str, Any]]) -> list[Result]:
        self._free()
        return [await self._trying(lambda reset=reset: self._begin(None, reset)) for reset in many]

    async def _play_all(self, jobs: Sequence[Job]) -> list[Result]:
        self._free()
        self._busy = {job.key for job in jobs}
        try:
            found = await asyncio.gather(*map(self._play, jobs), return_exceptions=True)
        finally:
            self._busy = set()
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return found  # type: ignore[return-value]  # the errors were raised

    async def _play(self, job: Job) -> Result:
        return await self._trying(lambda: self._step(job), job.key)

    async def _trying(self, act: Any, key: int | None = None) -> Result:
        """Return what `act` returns. After a lost connection it is tried again, with a new session."""
        for attempt in itertools.count():
            try:
                return await act()  # type: ignore[no-any-return]
            except (OSError, TimeoutError, self._closed()) as error:
                if key is not None and (client := self._clients.pop(key, None)) is not None:
                    await client.close()
                if attempt >= self.retries:
                    raise ServerError(
                        f"the OpenEnv server at {self.base_url} has gone or does not answer within {self.timeout:g} s "
                        f"({type(error).__name__}: {error}); {attempt + 1} tries. Start it again, and resume the run"
                    ) from error
                logger.warning("%s: connection lost (%s); trying again", self.base_url, error)
                await asyncio.sleep(PAUSE * 2**attempt)
        raise AssertionError

    async def _step(self, job: Job) -> Result:
        client = self._clients.pop(job.key, None)
        if client is None:
            await self._begin(job.key, job.reset)
            client = self._clients.pop(job.key)
            self.replayed += bool(job.past)
            for action, seen in job.past:
                result = await self._ask(client.step(dict(action)), f"the action {action!r:.200}")
                if _plain(result.observation) != _plain(seen):
                    raise ServerError(
                        f"{self.base_url} does not answer as before: an episode was played again from "
                        f"reset({_arguments(job.reset)}), and after {action!r:.100} came {result.observation!r:.200} "
                        f"instead of {seen!r:.200}. Its episodes do not follow from the seed, so a lost session or a "
                        "stopped run cannot go on: begin anew"
                    )
        self._clients[job.key] = client  # the last one used
        return await self._ask(client.step(dict(job.action)), f"the action {job.action!r:.200}")

    async def _begin(self, key: int | None, reset: Mapping[str, Any]) -> Result:
        """Reset a session that is free, or a new one, and give it to an episode, or keep it for the next."""
        while True:
            client = self._idle.pop() if self._idle else self._connect()
            try:
                result = await self._ask(client.start(**reset), f"reset({_arguments(reset)})")
            except ServerError as error:
                await client.close()
                if "CAPACITY_REACHED" not in str(error) or not await self._give_up_one():
                    raise
                continue
            if key is None:
                self._idle.append(client)
            else:
                self._clients[key] = client
            return result

    async def _give_up_one(self) -> bool:
        """Close the session that was used least lately, and is not needed now; its episode is played again later."""
        key = next((key for key in self._clients if key not in self._busy), None)
        if key is None:
            return False
        await self._clients.pop(key).close()
        return True

    async def _ask(self, answer: Any, what: str) -> Result:
        try:
            found = await answer
        except RuntimeError as error:
            hint = ": start it with more sessions, or take fewer environments" if "CAPACITY" in str(error) else ""
            raise ServerError(f"{self.base_url} refuses {what}: {error}{hint}") from error
        if not isinstance(found.observation, Mapping):
            raise ServerError(f"{self.base_url}: an observation is {found.observation!r:.100}, no object")
        return Result(found.observation, float(found.reward or 0.0), bool(found.done))

    def _free(self) -> None:
        """Take back the sessions of episodes that are gone."""
        while self._released:
            client = self._clients.pop(self._released.popleft(), None)
            if client is not None:
                self._idle.append(client)

    async def _close(self) -> None:
        clients = [*self._clients.values(), *self._idle]
        self._clients.clear()
        self._idle.clear()
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)

    def _connect(self) -> Any:
        """Return a new client, which connects when it begins an episode and never in the middle of one."""
        if self._client_class is None:
            self._client_class = _make_client(import_openenv("core.generic_client").GenericEnvClient)
        return self._client_class(base_url=self.base_url, message_timeout_s=self.timeout)

    def _closed(self) -> Any:
        return import_openenv("core.env_client").ConnectionClosed


def _make_client(base: Any) -> Any:
    """Return OpenEnv's client without its habit to connect again by itself: that begins a session without an episode."""

    class Client(base):  # type: ignore[misc]
        async def start(self, **reset: Any) -> Any:
            """Reset, in a new session if the last one is gone."""
            await self.connect()
            return await self.reset(**reset)

        async def _ensure_connected(self) -> None:
            if self._ws is None or self._ws.close_code is not None:
                raise ConnectionError("the session is gone")

    return Client


def check_url(base_url: Any) -> str:
    """Return the address of a server without a slash at its end.

    Raises:
        ValueError: it is no address such as "http://127.0.0.1:8000".
    """
    parts = urlsplit(base_url) if isinstance(base_url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url={base_url!r}: give the address of an OpenEnv server, such as 'http://127.0.0.1:8000'")
    return str(base_url).rstrip("/")


def _arguments(reset: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in reset.items())


def _plain(observation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an observation must be the same when an episode is played again."""
    return {name: value for name, value in observation.items() if name != "metadata"}
