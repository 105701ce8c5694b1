"""OpenEnv servers of others: the example that `openenv init` writes, and one with an action of two fields."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any, Literal

import openenv.cli
import pytest
from openenv.core.env_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field

TEMPLATE = Path(openenv.cli.__file__).parent / "templates" / "openenv_env"
NAMES = {"__ENV_NAME__": "echo_example", "__ENV_CLASS_NAME__": "Echo", "__ENV_TITLE_NAME__": "Echo"}


def echo_app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the app of the example in OpenEnv's own template: it says again what is said, in one session at a time."""
    for source in TEMPLATE.rglob("*.py"):
        text, name = source.read_text(encoding="utf-8"), str(source.relative_to(TEMPLATE))
        for mark, value in NAMES.items():
            text, name = text.replace(mark, value), name.replace(mark, value)
        target = folder / "echo_example" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.startswith("echo_example")]:
        del sys.modules[name]
    return importlib.import_module("echo_example.server.app").app


class Move(Action):
    move: Literal["take", "stop"]
    amount: int = Field(ge=0, le=3)


class Pile(Observation):
    pile: str


class Piles(Environment[Move, Pile, State]):
    """Take 1 to 3 matches from a pile whose size follows from the seed; the last one is worth 1."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    told = itertools.count()
    moody = False  # whether answers differ each time

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Pile:
        self.left = 4 + (seed or 0) % 5
        return self.show()

    def step(self, action: Move, timeout_s: float | None = None, **kwargs: Any) -> Pile:  # type: ignore[override]
        if action.move == "stop":
            return Pile(pile="you stopped", reward=-0.5, done=True)
        if action.amount == 0:
            raise RuntimeError("nothing taken")
        self.left = max(self.left - action.amount, 0)
        return Pile(pile="", reward=1.0, done=True) if self.left == 0 else self.show()

    def show(self) -> Pile:
        mood = f" ({next(self.told)})" if self.moody else ""
        return Pile(pile=f"{self.left} matches{mood}")

    @property
    def state(self) -> State:
        return State()


class MoodyPiles(Piles):
    moody = True


class Mute(Piles):
    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Pile:
        return Pile(pile="")


def piles_app(kind: type[Piles] = Piles, sessions: int = 8) -> Any:
    return create_fastapi_app(kind, Move, Pile, max_concurrent_envs=sessions)
