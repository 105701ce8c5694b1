"""Hand a served environment to TRL's `GRPOTrainer(environment_factory=...)`."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Any

from rlhf_envs.interop.openenv.address import check_url
from rlhf_envs.interop.openenv.library import import_openenv
from rlhf_envs.interop.openenv.sessions import Sessions

__all__ = ["ServedEpisode", "list_rows"]

OVER = "The episode has ended."


class ServedEpisode:
    """Play episodes of a server of `rlhf serve-env` as TRL has environments: a tool to speak with, and the reward.

    `GRPOTrainer(environment_factory=lambda: ServedEpisode("http://127.0.0.1:8000"), ...)` needs a model whose chat
    template has tools. Rows of the dataset choose the episode by `split`, `index` and `seed`, see `list_rows`. What
    the model passes to `say` is its completion, or its next turn. A model that never calls it has written nothing, and
    is scored so.

    Args:
        base_url: the address of the server.

    Raises:
        ValueError: `base_url` is no address.
        ModuleNotFoundError: the extra `openenv` is missing.
    """

    def __init__(self, base_url: str) -> None:
        client = import_openenv("core.generic_client").GenericEnvClient
        self._client: Any = client(base_url=check_url(base_url)).sync()
        weakref.finalize(self, _close, self._client)
        self._reward, self._done, self._said = 0.0, True, False

    def reset(self, split: str | None = None, index: int | None = None, seed: int | None = None, **columns: Any) -> str:
        """Begin an episode, and return what the model is to answer. Other columns of the row are for others."""
        given = {"split": split, "index": index, "seed": seed}
        begun = self._client.reset(**{name: value for name, value in given.items() if value is not None})
        self._reward, self._done, self._said = 0.0, False, False
        return str(begun.observation["text"])

    def say(self, message: str) -> str:
        """Say something. It is your whole answer, or your next turn of the conversation.

        Args:
            message: What you say.

        Returns:
            The reply to it.
        """
        if self._done:
            return OVER
        result = self._client.step({"message": message})
        self._reward += float(result.reward or 0.0)
        self._done, self._said = bool(result.done), True
        return OVER if self._done else str(result.observation["text"])

    def get_reward(self) -> float:
        """Return the sum of the episode's rewards."""
        if not self._said:
            self.say("")
        return self._reward


def _close(client: Any) -> None:
    """Close a client in a thread of its own: this may be called in the one that the client waits for."""
    with contextlib.suppress(RuntimeError):  # the interpreter is ending
        threading.Thread(target=client.close, daemon=True).start()


def list_rows(base_url: str, split: str = "train", n: int | None = None) -> list[dict[str, Any]]:
    """Return rows for TRL's `train_dataset`: one for each of the first `n` tasks of a split, all of them by default.

    The prompt is an empty message of the user, to which TRL adds what `reset` returns.

    Raises:
        ServerError: the server is not there, or has no such split.
    """
    server = Sessions(base_url)
    (env,) = server.get("/list_environments")
    count = int(server.post(f"/{env}/num_tasks", {"split": split})["num_tasks"])
    prompt = [{"role": "user", "content": ""}]
    numbers = range(count if n is None else min(n, count))
    return [{"prompt": prompt, "split": split, "index": index, "seed": index} for index in numbers]
