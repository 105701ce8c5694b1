"""Serve the answers of the training: whether they were right, and why."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ..records import LeaseLost, NoSuchAnnotator
from ..store.training import answer_training, next_training
from .api import TaskId, as_assignment
from .auth import CsrfChecked, SignedIn, Store
from .differences import mark_differences
from .documents import nodes_of
from .responses import AsciiJSON, problems, refusing
from .showing import Render, View, view_of

__all__ = ["api"]

api = APIRouter(tags=["annotate"])
Attempt = Annotated[int, Path(ge=1, le=10_000)]


class TrainingAnswer(BaseModel):
    """Hold an answer of the training. All is as for a judgement; a null `value` skips, which is not right."""

    model_config = ConfigDict(extra="forbid")
    value: dict[str, Any] | None
    seconds: float = Field(default=0.0, ge=0, le=7 * 24 * 3600, allow_inf_nan=False)
    answers: dict[str, Any] = Field(default_factory=dict)
    version: int | None = Field(default=None, ge=1, lt=2**31)


class TrainingResultOut(BaseModel):
    """Tell whether the answer was right, what was expected, and why (Markdown, and its nodes).

    `outcome` is empty until all `n` are answered.
    """

    is_right: bool
    expected: dict[str, Any]
    explanation: str
    nodes: list[Any]
    done: int
    n: int
    n_right: int
    outcome: Literal["", "passed", "again", "failed"]


@api.post(
    "/training/{attempt}/{task_id}",
    response_model=TrainingResultOut,
    dependencies=[CsrfChecked],
    responses=problems(401, 403, 409),
)
def answer(attempt: Attempt, task_id: TaskId, given: TrainingAnswer, store: Store, annotator: SignedIn) -> Response:
    """Answer an item of your training. The same answer again adds nothing. 409: it is not the next; claim a task."""
    with refusing(leave=NoSuchAnnotator):
        result = answer_training(
            store, annotator.name, attempt, task_id, given.value, **given.model_dump(exclude={"value"})
        )
    return AsciiJSON({**result.__dict__, "nodes": nodes_of(result.explanation)})


@api.post(
    "/training/{attempt}/{task_id}/view",
    response_model=View,
    dependencies=[CsrfChecked],
    responses=problems(401, 403, 409),
)
def view(
    attempt: Attempt,
    task_id: TaskId,
    store: Store,
    annotator: SignedIn,
    render: Render = "plain",
    differences: bool = False,
) -> Response:
    """Return all of the view of your training's item, as for a task. 409: it is not the next; claim a task."""
    task = next_training(store, annotator.name)
    if task is None or (task.attempt, task.item.id) != (attempt, task_id):
        raise LeaseLost(f"item {task_id} is not the next of {annotator.name!r}'s training: claim a task")
    shown = view_of(as_assignment(task), render, urgent=False)
    if differences:
        mark_differences(shown, [task.item.completions[index] for index in task.sides])
    return AsciiJSON(shown.model_dump())
