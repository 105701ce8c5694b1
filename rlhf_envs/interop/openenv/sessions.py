"""Keep the sessions of episodes on an OpenEnv server, and play them again where a connection was lost."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
import math
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf_envs.interop.openenv.address import ServerError, check_url, request_json
from rlhf_envs.interop.openenv.library import import_openenv

__all__ = ["Job", "RefusedError", "Result", "SessionKey", "Sessions"]

logger = logging.getLogger(__name__)

CLOSING = 5.0  # seconds that the connections may take to close
PAUSE = 0.5  # seconds before the first try to connect again; they double
REFUSALS = ("VALIDATION_ERROR", "EXECUTION_ERROR")  # of an action; other codes are of the connection or the session
_KEYS = itertools.count()  # of episodes, in this process
T = TypeVar("T")


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
        past: its actions so far, each with the fingerprint of what followed.
        action: the next action.
        fingerprint: returns what of an answer must be the same when an episode is played again.
    """

    key: int
    reset: Mapping[str, Any]
    past: Sequence[tuple[Mapping[str, Any], str]]
    action: Mapping[str, Any]
    fingerprint: Callable[[Result], str]


class SessionKey:
    """Name the session of an episode. A copy of the episode gets a session of its own: its key is None."""

    def __init__(self) -> None:
        self.number = next(_KEYS)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle None in its place."""
        return type(None), ()


class RefusedError(ServerError):
    """Raise when a server does not take an action, or fails to."""


class FullError(ServerError):
    """Raise when a server has no further session."""


class Sessions:
    """Play episodes on an OpenEnv server, many at a time, each in a session of its own.

    A session that is lost, with its connection or its server, is played again from its reset: the server must answer
    as it did. The same brings back the episodes of a run that is resumed. On a server of few sessions, episodes take
    them from each other and are played again when it is their turn.

    Args:
        base_url: the address of the server.
        timeout: seconds that an answer may take.
        retries: how often a lost connection is opened again.

    Attributes:
        replayed: how many episodes were played again.
    """

    def __init__(self, base_url: str, timeout: float = 60.0, retries: int = 4) -> None:
        self.base_url, self.timeout, self.retries = check_url(base_url), timeout, retries
        self.replayed = 0
        self._clients: dict[int, Any] = {}  # by key, the one used last at the end
        self._idle: list[Any] = []
        self._busy: set[int] = set()
        self._released: collections.deque[int] = collections.deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client_class: Any = None

    @classmethod
    def shared(cls, base_url: str, timeout: float) -> Sessions:
        """Return the sessions of this process on a server, which all its environments share."""
        at = check_url(base_url), timeout
        found = _SHARED.get(at)
        if found is None:
            found = _SHARED[at] = cls(*at)
        return found

    def get(self, path: str) -> Any:
        """Return what the server answers to a GET request.

        Raises:
            ServerError: it does not answer, or not with JSON.
        """
        return request_json(self.base_url, path, None, self.timeout)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return what the server answers to a POST request."""
        return request_json(self.base_url, path, body, self.timeout)

    def key(self, episode: object) -> SessionKey:
        """Return a key for an episode whose session is free again once the object is gone."""
        key = SessionKey()
        weakref.finalize(episode, self._released.append, key.number)
        return key

    def reset(self, many: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return what the server says after each of some resets, one after the other.

        Raises:
            ServerError: the server is not there, or refuses one.
        """
        return self._run(self._reset_all(many))

    def play(self, jobs: Sequence[Job]) -> list[Result | RefusedError]:
        """Take the next step of episodes, all at once. The server's refusal of an action is returned in its place.

        Raises:
            ServerError: the server is not there, or does not answer as it did before.
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
            given = self._loop, self._clients, self._idle
            threading.Thread(target=_run_loop, args=given, name="rlhf-envs-openenv", daemon=True).start()
            weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _reset_all(self, many: Sequence[Mapping[str, Any]]) -> list[Result]:
        self._free()
        lost = (*self._lost(), FullError)  # a session that was closed just now may still count
        return [await self._trying(lambda reset=reset: self._begin(None, reset), lost) for reset in many]

    async def _play_all(self, jobs: Sequence[Job]) -> list[Result | RefusedError]:
        """Play all jobs at once, or as many at a time as the server has sessions for."""
        self._free()
        found: dict[int, Result | RefusedError] = {}
        pending, waits = [*jobs], 0
        while pending:
            keys = {job.key for job in pending}
            self._busy |= keys
            try:
                results = await asyncio.gather(*map(self._play, pending), return_exceptions=True)
            finally:
                self._busy -= keys
            done = {
                job.key: one
                for job, one in zip(pending, results, strict=True)
                if isinstance(one, Result | RefusedError)
            }
            full = [job for job, one in zip(pending, results, strict=True) if isinstance(one, FullError)]
            for one in results:
                retried = isinstance(one, FullError) and (done or waits < self.retries)
                if isinstance(one, BaseException) and not retried and not isinstance(one, RefusedError):
                    raise one
            if not done:
                await asyncio.sleep(PAUSE * 2**waits)
                waits += 1
            found |= done
            pending = full
        return [found[job.key] for job in jobs]

    async def _play(self, job: Job) -> Result:
        return await self._trying(lambda: self._step(job), self._lost(), job.key)

    async def _trying(self, act: Any, lost: Any, key: int | None = None) -> Result:
        """Return what `act` returns. After one of the errors `lost` it is tried again, with a new session."""
        for attempt in itertools.count():
            try:
                return await act()
            except lost as error:
                if key is not None and (client := self._clients.pop(key, None)) is not None:
                    await client.close()
                if attempt >= self.retries:
                    if isinstance(error, FullError):
                        raise
                    raise ServerError(
                        f"the OpenEnv server at {self.base_url} has gone or does not answer within {self.timeout:g} s "
                        f"({type(error).__name__}: {error}); {attempt + 1} tries. Start it again, and resume the run"
                    ) from error
                logger.warning("%s: connection lost (%s); trying again", self.base_url, error)
                await asyncio.sleep(PAUSE * 2**attempt)
        raise AssertionError

    async def _step(self, job: Job) -> Result:
        client = self._clients.get(job.key)
        if client is None:
            await self._begin(job.key, job.reset)
            client = self._clients[job.key]
            self.replayed += bool(job.past)
            try:
                await self._replay(client, job)
            except ServerError as error:
                await self._clients.pop(job.key).close()
                raise ServerError(str(error)) from error  # a refusal here is no refusal of the next action
        self._clients[job.key] = self._clients.pop(job.key)  # the last one used stands at the end
        try:
            result = await self._ask(client.step(dict(job.action)), f"the action {job.action!r:.200}")
        except RefusedError:
            await self._clients.pop(job.key).close()  # what it has become there is unknown
            raise
        if result.done:
            self._idle.append(self._clients.pop(job.key))
        return result

    async def _replay(self, client: Any, job: Job) -> None:
        """Take the steps again that lead to a job.

        Raises:
            ServerError: an answer is another one than before.
        """
        for action, seen in job.past:
            result = await self._ask(client.step(dict(action)), f"the action {action!r:.200}")
            if job.fingerprint(result) != seen:
                raise ServerError(
                    f"{self.base_url} does not answer as before: an episode was played again from "
                    f"reset({_arguments(job.reset)}), and after {action!r:.100} came {result.observation!r:.200}. Its "
                    "episodes do not follow from the seed, so a lost session or a stopped run cannot go on: begin anew"
                )

    async def _begin(self, key: int | None, reset: Mapping[str, Any]) -> Result:
        """Reset a session that is free, or a new one, and give it to an episode, or keep it for the next."""
        while True:
            client = self._idle.pop() if self._idle else self._connect()
            try:
                result = await self._ask(client.start(**reset), f"reset({_arguments(reset)})")
            except self._lost():
                await client.close()
                raise
            except FullError:
                await client.close()
                if not await self._give_up_one():
                    raise
                continue
            except ServerError:
                await client.close()
                raise
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
            if "CAPACITY_REACHED" in str(error):
                raise FullError(
                    f"{self.base_url} has no further session: {error}. Others use it: start it with more sessions"
                ) from error
            refused = RefusedError if any(f"code: {code})" in str(error) for code in REFUSALS) else ServerError
            raise refused(f"{self.base_url} refuses {what}: {error}") from error
        if not isinstance(found.observation, Mapping):
            raise ServerError(f"{self.base_url}: an observation is {found.observation!r:.100}, no object")
        reward = 0.0 if found.reward is None else found.reward
        if not isinstance(reward, int | float) or not math.isfinite(reward) or not isinstance(found.done, bool):
            raise ServerError(
                f"{self.base_url}: after {what} the reward is {found.reward!s:.100} and done is {found.done!s:.100}, "
                "not a finite number and a truth value"
            )
        return Result(found.observation, float(reward), found.done)

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
        await _close_all(clients)

    def _connect(self) -> Any:
        """Return a new client, which connects when it begins an episode and never in the middle of one."""
        if self._client_class is None:
            self._client_class = _make_client(import_openenv("core.generic_client").GenericEnvClient)
        return self._client_class(base_url=self.base_url, message_timeout_s=self.timeout)

    def _lost(self) -> tuple[Any, ...]:
        """Return the errors of a lost connection."""
        return OSError, TimeoutError, import_openenv("core.env_client").ConnectionClosed


_SHARED: weakref.WeakValueDictionary[tuple[str, float], Sessions] = weakref.WeakValueDictionary()


def _run_loop(loop: asyncio.AbstractEventLoop, clients: dict[int, Any], idle: list[Any]) -> None:
    """Run a loop until it is told to stop, and close the connections."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        with contextlib.suppress(Exception):
            loop.run_until_complete(asyncio.wait_for(_close_all([*clients.values(), *idle]), CLOSING))
        loop.run_until_complete(_cancel_rest())
        loop.close()


async def _close_all(clients: Iterable[Any]) -> None:
    """Close clients. It has to be called in their loop: elsewhere they would leave their sockets open."""
    await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


async def _cancel_rest() -> None:
    """Cancel what still runs in this loop."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _make_client(base: Any) -> Any:
    """Return OpenEnv's client, which does not connect again in the middle of an episode: there is none there."""

    class Client(base):
        async def start(self, **reset: Any) -> Any:
            """Reset, in a new session if the last one is gone."""
            await self.connect()
            return await self.reset(**reset)

        async def _ensure_connected(self) -> None:
            if self._ws is None or self._ws.close_code is not None:
                raise ConnectionError("the session is gone")

    return Client


def _arguments(reset: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in reset.items())
