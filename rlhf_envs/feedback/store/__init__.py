"""Keep questions and answers in SQLite or PostgreSQL. SQLAlchemy and Alembic are imported at first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backup import back_up, restore_backup
    from .forgetting import forget_person
    from .store import FeedbackStore
    from .training import admit
    from .withdrawing import withdraw_person

__all__ = ["FeedbackStore", "admit", "back_up", "forget_person", "restore_backup", "withdraw_person"]

_HOMES = {
    "FeedbackStore": "store",
    "admit": "training",
    "back_up": "backup",
    "forget_person": "forgetting",
    "restore_backup": "backup",
    "withdraw_person": "withdrawing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
