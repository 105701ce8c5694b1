"""Work through assignments: claim, answer, submit. A simulated annotator and a program of your own do it alike."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .records import LeaseLost, StoreError

if TYPE_CHECKING:
    from .records import Assignment
    from .store.store import FeedbackStore

__all__ = ["Respond", "Response", "join", "work", "work_once"]


@dataclass(frozen=True)
class Response:
    """Hold an answer to an assignment.

    Attributes:
        value: the answer for the item's kind, see `rlhf_envs.feedback.kinds`. None is a skip.
        seconds: how long the answer took.
        comment: free text.
        answers: the answers to the project's questions, see `rlhf_envs.feedback.answers`.
    """

    value: dict[str, Any] | None
    seconds: float = 0.0
    comment: str = ""
    answers: dict[str, Any] = field(default_factory=dict)


Respond = Callable[["Assignment"], Response | None]


def work(store: FeedbackStore, name: str, respond: Respond, limit: int | None = None) -> int:
    """Claim assignments, answer them and submit the answers, until none is left.

    Args:
        store: holds the items.
        name: who answers. A name that the store does not know is added as an annotator.
        respond: answers an assignment. If it returns None, the assignment is given back and the work ends.
        limit: the largest number of answers. Skips count.

    Returns:
        How many answers were submitted, skips among them. An answer does not count if its lease has gone to somebody
        else in the meantime.

    Raises:
        ValueError: an answer does not suit the item's kind. The assignment is given back.
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
        ValueError: the name is not allowed.
    """
    if name not in {annotator.name for annotator in store.annotators()}:
        store.add_annotator(name)


def work_once(store: FeedbackStore, name: str, respond: Respond) -> bool | None:
    """Answer one assignment. Return whether it was stored (False: the lease was lost), or None if none is left."""
    assignment = store.claim(name)
    if assignment is None:
        return None
    try:
        response = respond(assignment)
        if response is None:
            store.release(assignment.id, name)
            return None
        given: dict[str, Any] = {"seconds": response.seconds, "comment": response.comment, "answers": response.answers}
        store.submit(assignment.id, name, response.value, key=uuid.uuid4().hex, **given)
    except LeaseLost:
        return False
    except BaseException:
        with contextlib.suppress(StoreError):  # the first error is the one to report
            store.release(assignment.id, name)
        raise
    return True
