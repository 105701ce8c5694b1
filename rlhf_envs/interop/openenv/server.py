"""Serve a text environment over OpenEnv: one string per action, and the rewards of the Gymnasium environment.

Import it only where the extra `openenv` is installed: `rlhf_envs.interop.openenv.library.import_openenv` says what to
install.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import gymnasium as gym
import uvicorn
from fastapi import FastAPI, HTTPException
from openenv.core.env_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, ConcurrencyConfig, EnvironmentMetadata, Observation, State
from openenv.core.rubrics import Rubric
from pydantic import Field

from rlhf_envs.datasets.messages import shown
from rlhf_envs.dialogs import ReplyError
from rlhf_envs.feedback.web.listening import is_loopback, keep_loaded, listen
from rlhf_envs.interop.openenv.episodes import Session, Turn, Workplace
from rlhf_envs.rewards import RewardError, ScoreError

__all__ = ["ServedEnvironment", "TextAction", "TextObservation", "TextState", "create_app", "serve"]

logger = logging.getLogger(__name__)

PREVIEW = 1000  # rows of a split that the list of its tasks has, at most
ARGUMENTS = ("seed", "episode_id", "split", "index")  # of `reset`


class TextAction(Action):
    """Hold what the agent says: a whole completion, or its next turn."""

    message: str = Field(description="What the agent says: a whole completion, or its next turn. It may be empty.")


class TextObservation(Observation):
    """Hold what the agent is to answer, and of an episode that has ended what came of it."""

    text: str = Field(description="What is to be answered: the prompt or the last reply; empty at the end.")
    messages: list[dict[str, str]] = Field(default_factory=list, description="The conversation so far.")
    split: str = Field(default="", description="The split that the prompt comes from.")
    index: int = Field(default=0, description="The row of the split that the prompt comes from.")
    turn: int = Field(default=0, description="The turns that the agent has taken.")
    completion: str = Field(default="", description="At the end: all that followed the prompt.")
    finish_reason: str = Field(default="", description="At the end: eos, length, turns or task.")
    cut_tokens: int = Field(default=0, description="Tokens of the action for which there was no room.")
    components: dict[str, float] = Field(default_factory=dict, description="At the end: the parts of the score.")
    metrics: dict[str, float] = Field(default_factory=dict, description="At the end: the task's metrics.")
    turn_rewards: list[float] = Field(default_factory=list, description="At the end: the reward of each turn.")


class TextState(State):
    """Hold where a session is."""

    env_id: str = Field(default="", description="The Gymnasium id of the environment.")
    split: str = Field(default="", description="The split that the prompt comes from.")
    index: int = Field(default=0, description="The row of the split that the prompt comes from.")
    running: bool = Field(default=False, description="Whether an episode is under way.")


class Refused(HTTPException):
    """Refuse a request with a message that clients are shown, over HTTP and over the WebSocket."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(status, message)

    def __str__(self) -> str:
        """Return the message: OpenEnv sends that over the WebSocket."""
        return str(self.detail)


class ComponentRubric(Rubric):
    """Read one part of an episode's score."""

    def __init__(self, name: str) -> None:
        super().__init__()
        object.__setattr__(self, "name", name)

    def forward(self, action: TextAction, observation: TextObservation) -> float:
        """Return the part, 0 where the episode goes on or has none of it."""
        return observation.components.get(self.name, 0.0)


class RewardRubric(Rubric):
    """Return the reward of a step. Its children are the parts of the score, by name."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        super().__init__()
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Add the part of this name, if it is new."""
        if name not in self._rubric_children:
            self._rubric_children[name] = ComponentRubric(name)

    def forward(self, action: TextAction, observation: TextObservation) -> float:
        """Return the reward that the environment gave."""
        for name in observation.components:
            self.add(name)
        for child in self.children():
            child(action, observation)
        return float(observation.reward or 0.0)


class ServedEnvironment(Environment[TextAction, TextObservation, TextState]):
    """Play one session's episodes, as OpenEnv's server asks for them.

    Args:
        place: what all sessions share.
        names: the parts of the score that were met so far, in order. A new one is added.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, place: Workplace, names: dict[str, None]) -> None:
        super().__init__(rubric=RewardRubric([*names]))
        self.place, self.names = place, names
        self.session = Session(place)
        self.episode_id: str | None = None

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        **unknown: Any,
    ) -> TextObservation:
        """Begin an episode with the row at `index` of a split, or with one that the seed draws.

        Raises:
            Refused: there is no such argument, split or row.
        """
        if unknown:
            raise Refused(f"reset takes {', '.join(ARGUMENTS)}, and no {', '.join(unknown)}")
        try:
            turn = self.session.reset(seed, split, index)
        except ValueError as error:
            raise Refused(str(error).replace("options['index']", "index")) from error
        self._reset_rubric()
        self.episode_id = str(uuid.uuid4()) if episode_id is None else episode_id
        return self._observe(turn)

    def step(self, action: TextAction, timeout_s: float | None = None, **kwargs: Any) -> TextObservation:
        """Take the agent's turn.

        Raises:
            Refused: there is no episode, the message cannot be read, or the reward or a reply has failed.
        """
        try:
            turn = self.session.step(action.message)
        except gym.error.ResetNeeded as error:
            raise Refused(str(error), 409) from error
        except ValueError as error:
            raise Refused(str(error)) from error
        except (RewardError, ScoreError, ReplyError) as error:
            logger.exception("an episode of %s has failed", self.place.env_id)
            raise Refused(str(error), 500) from error
        observation = self._observe(turn)
        observation.reward = self._apply_rubric(action, observation)
        self.names.update(dict.fromkeys(observation.components))
        return observation

    def _observe(self, turn: Turn) -> TextObservation:
        info, session = turn.info, self.session
        return TextObservation(
            text=turn.text,
            messages=turn.messages,
            split=session.split,
            index=session.index,
            turn=session.turns,
            done=turn.done,
            reward=turn.reward,
            completion=info.get("text", ""),
            finish_reason=info.get("finish_reason", ""),
            cut_tokens=turn.cut_tokens,
            components=info.get("reward_components", {}),
            metrics=info.get("metrics", {}),
            turn_rewards=info.get("turn_rewards", []),
        )

    @property
    def state(self) -> TextState:
        """Return where the session is."""
        at = self.session
        about = {"env_id": self.place.env_id, "split": at.split, "index": at.index, "running": at.running}
        return TextState(episode_id=self.episode_id, step_count=at.turns, **about)

    def get_metadata(self) -> EnvironmentMetadata:
        """Return the name and the description of the environment."""
        text = (type(self.place.task).__doc__ or "").strip()
        name, about = self.place.env_id, text.split("\n")[0]
        return EnvironmentMetadata(name=name, description=about, readme_content=text, version=own_version())

    def list_splits(self) -> list[str]:
        """Return the splits that have rows."""
        return self.place.splits()

    def num_tasks(self, split: str) -> int:
        """Return how many rows a split has."""
        return len(self._rows(split))

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        """Return the tasks of a split, the first thousand if there are more; see `get_task`."""
        return self.get_task_range(split, 0, PREVIEW)

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """Return a row as a task: its `id`, `split`, `index` and `prompt`, and nothing that may hold the answer.

        Raises:
            IndexError: there is no such row.
        """
        rows = self._rows(split)
        if not 0 <= index < len(rows):
            raise IndexError(f"index={index}: {split} has the rows 0 to {len(rows) - 1}")
        return {"id": f"{split}-{index}", "split": split, "index": index, "prompt": shown(rows[index]["prompt"])}

    def get_task_range(self, split: str, start: int | None = None, stop: int | None = None) -> list[dict[str, Any]]:
        """Return the tasks from `start` up to `stop`, as a slice of Python."""
        return [self.get_task(split, index) for index in range(len(self._rows(split)))[start:stop]]

    def _rows(self, split: str) -> Sequence[Mapping[str, Any]]:
        try:
            return self.place.batch(split).rows
        except ValueError as error:
            raise Refused(str(error), 404) from error


def create_app(
    env_id: str,
    *,
    split: str = "train",
    max_sessions: int = 64,
    session_timeout: float | None = 600.0,
    **env_kwargs: Any,
) -> FastAPI:
    """Return the app that serves an environment; `app.state.place` is what its sessions share.

    Args:
        env_id: a registered id.
        split: the split of episodes that name none.
        max_sessions: how many sessions may be open at once.
        session_timeout: seconds without a request after which a session no longer counts; None for no end. A client
            that is still connected plays on. Sessions begun over `/mcp` have no connection that could end them.
        **env_kwargs: further arguments of the environment.

    Raises:
        ValueError: there is no such environment, an argument is wrong, or it shows pictures.
    """
    place, names = Workplace(env_id, split, **env_kwargs), dict[str, None]()
    app: FastAPI = create_fastapi_app(
        lambda: ServedEnvironment(place, names),
        TextAction,
        TextObservation,
        concurrency_config=ConcurrencyConfig(max_concurrent_envs=max_sessions, session_timeout=session_timeout),
        env_name=place.env_id.rpartition("/")[2],
        state_cls=TextState,
        mode="simulation",
    )
    app.state.place = place
    return app


def serve(env_id: str, *, host: str = "127.0.0.1", port: int = 8000, max_sessions: int = 64, **kwargs: Any) -> None:
    """Serve an environment until the process is told to end.

    Args:
        env_id: a registered id.
        host: the address to listen at. There is no sign-in: whoever reaches it can use the model and the reward.
        port: the port; 0 takes a free one.
        max_sessions: how many sessions may be open at once.
        **kwargs: see `create_app`.

    Raises:
        ValueError: the port is taken, or see `create_app`.
    """
    listener = listen(host, port)
    try:
        app = create_app(env_id, max_sessions=max_sessions, **kwargs)
        bound, at = listener.getsockname()[1], f"[{host}]" if ":" in host else host
        if not is_loopback(host):
            logger.warning("there is no sign-in: everybody who reaches %s:%d can use this server", host, bound)
        config = uvicorn.Config(app, log_level="warning", lifespan="on")
        listener.listen()  # from now on clients wait instead of being refused
        print(f"{app.state.place.env_id} on http://{at}:{bound}, {max_sessions} sessions at most", flush=True)
        keep_loaded()
        uvicorn.Server(config).run([listener])
    finally:
        listener.close()


def own_version() -> str:
    """Return the version of this package."""
    try:
        return version("rlhf-envs")
    except PackageNotFoundError:
        return "0"
