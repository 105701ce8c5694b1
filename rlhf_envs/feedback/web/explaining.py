"""Serve what a reward model's scores of a task's completions rest on, where the project's settings show it."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from .api import TaskId
from .auth import CsrfChecked, SignedIn, Store
from .responses import AsciiJSON, problems
from .words import Refusal

__all__ = ["router"]

router = APIRouter(tags=["annotate"])


class MarkOut(BaseModel):
    """Mark a piece of a completion: characters (code points) from `start` to `end`, and what it adds to the score."""

    start: int
    end: int
    value: float


class ExplainedText(BaseModel):
    """Show the score of a completion and what it rests on. `index` is its place in the item."""

    index: int
    text: str
    score: float
    marks: list[MarkOut]


class ExplanationOut(BaseModel):
    """Show a reward model's view of a task's completions, in the order in which the task shows them."""

    source: str
    version: str
    method: str
    completions: list[ExplainedText]


@router.post(
    "/tasks/{task_id}/explanation",
    response_model=ExplanationOut,
    dependencies=[CsrfChecked],
    responses=problems(401, 403, 404, 409),
)
def explanation(task_id: TaskId, store: Store, annotator: SignedIn) -> Response:
    """Show what a reward model's scores of a task's completions rest on, and keep that you have seen it.

    The project's settings say whether you may before your answer or after it.
    """
    found = store.open_explanation(task_id, annotator.name)
    if found is None:
        raise Refusal(404, "no_explanation")
    one, marks = found.explanation, found.explanation.marks or ()
    shown = [
        {
            "index": index,
            "text": found.completions[index],
            "score": one.scores[index],
            "marks": [{"start": start, "end": end, "value": value} for start, end, value in marks[index]],
        }
        for index in found.sides
    ]
    return AsciiJSON({"source": one.source, "version": one.version, "method": one.method, "completions": shown})
