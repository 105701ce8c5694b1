"""Keep questions and answers in SQLite or PostgreSQL. SQLAlchemy and Alembic are imported at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import FeedbackStore

__all__ = ["FeedbackStore"]


def __getattr__(name: str) -> Any:
    if name != "FeedbackStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .store import FeedbackStore

    return FeedbackStore
