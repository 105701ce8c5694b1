"""Anybody who answers tasks, a person at a terminal or a simulation, works through the same few lines."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .records import LeaseLost, StoreError

if TYPE_CHECKING:
    from .records import Task
    from .store.store import FeedbackStore

__all__ = ["Respond", "Response", "join", "work", "work_once"]


@dataclass(frozen=True)
class Response:
    """An answer to a task.

    Attributes:
        value: what the task's kind asks for, see `rlhf_envs.feedback.kinds`; None skips it.
        seconds: how long the answer took.
        comment: free text.
    """

    value: dict[str, Any] | None
    seconds: float = 0.0
    comment: str = ""


Respond = Callable[["Task"], Response | None]


def work(store: FeedbackStore, name: str, respond: Respond, limit: int | None = None) -> int:
    """Claim tasks, answer them and submit the answers, until none is left.

    Args:
        store: holds the tasks.
        name: who answers, an annotator or an admin; added as an annotator where the store does not know the name.
        respond: answers a task. None gives the task back and ends the work.
        limit: the most answers, skips among them.

    Returns:
        How many answers were submitted, skips among them. An answer whose lease has gone to somebody else in the
        meantime is not counted: the task is theirs.

    Raises:
        ValueError: an answer is not what the task's kind asks for; its task is given back.
    """
    join(store, name)
    done = 0
    while limit is None or done < limit:
        answered = work_once(store, name, respond)
        if answered is None:
            break
        done += answered
    return done


def join(store: FeedbackStore, name: str) -> None:
    """Add an annotator unless there is an account of that name, whatever its role.

    Raises:
        ValueError: the name is no name.
    """
    if name not in {annotator.name for annotator in store.annotators()}:
        store.add_annotator(name)


def work_once(store: FeedbackStore, name: str, respond: Respond) -> bool | None:
    """Answer one task: True if the answer was taken, False if the lease was lost, None if there was nothing to do."""
    task = store.claim(name)
    if task is None:
        return None
    try:
        response = respond(task)
        if response is None:
            store.release(task.id, name)
            return None
        store.submit(
            task.id, name, response.value, key=uuid.uuid4().hex, seconds=response.seconds, comment=response.comment
        )
    except LeaseLost:
        return False
    except BaseException:
        with contextlib.suppress(StoreError):  # what went wrong first is what to say
            store.release(task.id, name)
        raise
    return True
