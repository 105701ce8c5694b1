"""Open the store that a verb of `rlhf feedback` works on."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from rlhf_envs import feedback

from ...training.fields import option
from ..options import Flags, fail

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore

__all__ = ["Kind", "StoreConfig", "actor", "is_missing", "open_store"]

Kind = Literal["pairwise", "ranking", "rating", "thumbs", "correction", "flags", "questions"]


class StoreConfig(Flags):
    """Hold the flag that every verb has."""

    boxes: ClassVar[bool] = False

    store: str = option("feedback.db", "SQLite file, or postgresql://user@host/name.")


def actor() -> str:
    """Return who acts at the command line, as the audit names it."""
    return f"{getpass.getuser()} (command line)"


def is_missing(url: str) -> bool:
    """Return whether a store in a file is not there."""
    return "://" not in url and not Path(url).is_file()


def open_store(url: str, create: bool = False) -> FeedbackStore:
    """Open a store. A file that is not there is an error, unless it may be created."""
    if not create and is_missing(url):
        fail(f"--store {url}: there is no such file; `rlhf feedback add` makes one")
    return feedback.FeedbackStore(url)
