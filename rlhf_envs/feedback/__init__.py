"""Collect human feedback: a store of questions and answers, and the ways in and out of it.

Importing this package imports the standard library only. The store needs the extra `web` (SQLAlchemy, Alembic).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kinds import KINDS as KINDS
    from .kinds import check_value as check_value
    from .questions import Question as Question
    from .records import Adjudication as Adjudication
    from .records import Annotator as Annotator
    from .records import Assignment as Assignment
    from .records import AuditEntry as AuditEntry
    from .records import Item as Item
    from .records import Judgement as Judgement
    from .records import LeaseLost as LeaseLost
    from .records import NewItem as NewItem
    from .records import Progress as Progress
    from .records import StoreError as StoreError
    from .records import Suggestion as Suggestion
    from .settings import Settings as Settings
    from .store.store import FeedbackStore as FeedbackStore

    Task = Assignment  # the name that this class had before

_HOMES = {
    "KINDS": "kinds:KINDS",
    "Adjudication": "records:Adjudication",
    "Annotator": "records:Annotator",
    "Assignment": "records:Assignment",
    "AuditEntry": "records:AuditEntry",
    "FeedbackStore": "store.store:FeedbackStore",
    "Item": "records:Item",
    "Judgement": "records:Judgement",
    "LeaseLost": "records:LeaseLost",
    "NewItem": "records:NewItem",
    "Progress": "records:Progress",
    "Question": "questions:Question",
    "Settings": "settings:Settings",
    "StoreError": "records:StoreError",
    "Suggestion": "records:Suggestion",
    "Task": "records:Assignment",
    "check_value": "kinds:check_value",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name].split(":")
    try:
        return getattr(import_module(f".{module}", __name__), attribute)
    except ModuleNotFoundError as error:
        if error.name in ("sqlalchemy", "alembic"):
            raise ImportError(f'{name} needs {error.name}: pip install "rlhf-envs[web]"') from error
        raise
