"""Human feedback: a store of questions and answers, and the ways in and out of it.

Importing this imports the standard library only. The store needs the extra `web` (SQLAlchemy, Alembic).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_envs.feedback.kinds import KINDS, check_value
    from rlhf_envs.feedback.records import (
        Annotator,
        Item,
        Judgement,
        LeaseLost,
        NewItem,
        Progress,
        Settings,
        StoreError,
        Task,
    )
    from rlhf_envs.feedback.store.store import FeedbackStore

__all__ = [
    "KINDS",
    "Annotator",
    "FeedbackStore",
    "Item",
    "Judgement",
    "LeaseLost",
    "NewItem",
    "Progress",
    "Settings",
    "StoreError",
    "Task",
    "check_value",
]

_HOMES = {"FeedbackStore": "store", "KINDS": "kinds", "check_value": "kinds"}
_NEEDS_EXTRA = {"sqlalchemy", "alembic"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'records')}"), name)
    except ModuleNotFoundError as error:
        if error.name in _NEEDS_EXTRA:
            raise ImportError(f'{name} needs {error.name}: pip install "rlhf-envs[web]"') from error
        raise
