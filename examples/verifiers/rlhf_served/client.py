"""Speak OpenEnv's protocol: what the server has over HTTP, and an episode over a WebSocket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx

__all__ = ["Episode", "ServedError", "count_tasks", "find_field", "play"]


class ServedError(RuntimeError):
    """Raise when the server is not there, refuses something, or is no server of texts."""


def ask(base_url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return what the server answers to a request, a POST if there is a body.

    Raises:
        ServedError: it does not answer, or not with JSON.
    """
    try:
        with httpx.Client(base_url=base_url, timeout=60, trust_env=False) as http:
            answer = http.get(path) if body is None else http.post(path, json=body)
            answer.raise_for_status()
            return answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ServedError(f"{base_url}{path}: {error}. Is `rlhf serve-env` running there?") from error


def count_tasks(base_url: str, split: str) -> int:
    """Return how many rows a split has.

    Raises:
        ServedError: the server is not there, or lists no tasks.
    """
    names = ask(base_url, "/list_environments")
    if not isinstance(names, list) or len(names) != 1:
        raise ServedError(f"{base_url} lists no tasks ({str(names)[:100]}): it is no `rlhf serve-env`")
    (name,) = names
    return int(ask(base_url, f"/{name}/num_tasks", {"split": split})["num_tasks"])


def find_field(base_url: str) -> str:
    """Return the field of an action that takes a text.

    Raises:
        ServedError: an action is not exactly one required string.
    """
    schema = ask(base_url, "/schema")["action"]
    required = schema.get("required", [])
    if len(required) != 1 or schema["properties"][required[0]].get("type") != "string":
        raise ServedError(
            f"{base_url}: an action needs {required}, not one string: use verifiers' own `openenv` taskset"
        )
    return str(required[0])


class Episode:
    """Play one session on the server.

    Args:
        socket: the open connection.
        field: the field of an action that takes a text.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, field: str) -> None:
        self.socket, self.field = socket, field

    async def reset(self, **arguments: Any) -> dict[str, Any]:
        """Begin an episode, and return the observation."""
        return (await self._send("reset", arguments))["observation"]

    async def step(self, text: str) -> tuple[dict[str, Any], float, bool]:
        """Say a text exactly as it is, and return the observation, the reward and whether the episode has ended."""
        said = await self._send("step", {self.field: text})
        return said["observation"], float(said["reward"] or 0.0), bool(said["done"])

    async def _send(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        try:
            await self.socket.send_json({"type": kind, "data": data})
            message = await self.socket.receive()
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise ServedError(f"the server has gone ({error})") from error
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ServedError(f"the server has closed the session ({message.type.name}, {message.data})")
        answer = json.loads(message.data)
        if answer["type"] == "error":
            raise ServedError(f"the server refuses {kind} {str(data)[:200]}: {answer['data'].get('message')}")
        return answer["data"]


@contextlib.asynccontextmanager
async def play(base_url: str, field: str) -> AsyncIterator[Episode]:
    """Open a session on the server, and close it at the end.

    Raises:
        ServedError: no server answers.
    """
    timeout = aiohttp.ClientWSTimeout(ws_receive=600, ws_close=5)
    try:
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{base_url}/ws", max_msg_size=0, timeout=timeout) as socket,
        ):
            yield Episode(socket, field)
            await socket.send_json({"type": "close"})
    except aiohttp.ClientError as error:
        raise ServedError(f"no OpenEnv server answers at {base_url}: {error}") from error
