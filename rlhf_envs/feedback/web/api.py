"""Serve the JSON API under /api, for the annotation page and for programs.

Every call but the sign-in needs the session's cookie. A call that changes something needs the CSRF token too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ..deciding import same_answer
from ..records import Assignment, Judgement, Progress, Settings
from ..store.store import FeedbackStore
from .auth import CsrfChecked, SignedIn, Store, csrf_token, end_session, gate_of
from .differences import mark_differences
from .responses import AsciiJSON, problems
from .showing import Render, View, view_of
from .words import Refusal

__all__ = ["Scale", "SettingsOut", "router"]

router = APIRouter(tags=["annotate"])

# A list, since FastAPI writes a tuple as "items": [...], which OpenAPI 3.1 does not know.
Scale = Annotated[list[int], Field(min_length=2, max_length=2)]
AskedRender = Annotated[Render | None, Query(description="the project's setting by default")]
TaskId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class Credentials(BaseModel):
    """Hold a name and its password."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200)
    password: str = Field(max_length=2000)


class SessionOut(BaseModel):
    """Tell who is signed in. `csrf` goes into the header X-CSRF-Token of every POST and PATCH."""

    name: str
    role: Literal["annotator", "admin"]
    csrf: str


class Shown(BaseModel):
    """Show a completion. `index` is its place in the item, and answers refer to it."""

    index: int
    text: str


class TaskOut(BaseModel):
    """Show an item that is lent to you. Its `completions` come in the order in which to show them.

    `view` says how people see them.
    """

    id: int
    item_id: int
    kind: str
    prompt: str
    completions: list[Shown]
    view: View
    seconds_left: float


class ProgressOut(BaseModel):
    """Count all items, the items with all their judgements, and your answers and skips."""

    items: int
    finished: int
    mine: int


class SettingsOut(BaseModel):
    """Hold the settings that the annotation page needs."""

    guidelines: str
    scale: Scale
    harms: list[str]
    paused: bool
    render: Render


class State(BaseModel):
    """Tell what to do next. Without a task nothing is left for now, or the project is paused."""

    task: TaskOut | None
    progress: ProgressOut
    settings: SettingsOut


class Answer(BaseModel):
    """Hold a judgement. `value` depends on the kind, and null skips. The same `key` again adds nothing.

    pairwise {"choice": 0|1|null, "strength": 1..3}, ranking {"order": [...]}, rating {"rating": n},
    thumbs {"up": bool}, correction {"text": "..."}, flags {"harms": [...]}.
    """

    model_config = ConfigDict(extra="forbid")
    value: dict[str, Any] | None
    key: str = Field(min_length=8, max_length=100, pattern=r"^[\w.:-]+$")
    seconds: float = Field(default=0.0, ge=0, le=7 * 24 * 3600, allow_inf_nan=False)
    comment: str = Field(default="", max_length=20_000)


class SuggestionOut(BaseModel):
    """Tell what a model suggests for the item that was just answered, and whether the answer says the same."""

    source: str
    value: dict[str, Any]
    same: bool


class Saved(BaseModel):
    """Confirm that the judgement is on the disk."""

    id: int
    item_id: int
    value: dict[str, Any] | None
    suggestion: SuggestionOut | None = None


@router.post("/login", response_model=SessionOut, responses=problems(401, 429))
async def login(request: Request, credentials: Credentials) -> Response:
    """Sign in. The answer sets the session's cookie."""
    gate = gate_of(request)
    annotator = await gate.pool.run(gate.sign_in, request, credentials.name, credentials.password)
    return AsciiJSON({"name": annotator.name, "role": annotator.role, "csrf": csrf_token(request)})


@router.post("/logout", status_code=204, dependencies=[CsrfChecked], responses=problems(401, 403))
def logout(request: Request, store: Store) -> Response:
    """Sign out: end the session and remove the cookie."""
    end_session(request, store)
    return Response(status_code=204)


@router.get("/session", response_model=SessionOut, responses=problems(401))
def session(request: Request, annotator: SignedIn) -> Response:
    """Tell who is signed in."""
    return AsciiJSON({"name": annotator.name, "role": annotator.role, "csrf": csrf_token(request)})


@router.post("/claim", response_model=State, dependencies=[CsrfChecked], responses=problems(401, 403, 422))
def claim(store: Store, annotator: SignedIn, render: AskedRender = None) -> Response:
    """Take a task: the one that you hold already, else the next."""
    return _state(store, annotator.name, store.claim(annotator.name), render)


@router.post("/undo", response_model=State, dependencies=[CsrfChecked], responses=problems(401, 403, 409))
def undo(store: Store, annotator: SignedIn, render: AskedRender = None) -> Response:
    """Take your last judgement back. Its item is lent to you again."""
    task = store.undo(annotator.name)
    if task is None:
        raise Refusal(409, "nothing_to_take_back")
    return _state(store, annotator.name, task, render)


@router.post(
    "/tasks/{task_id}/judgement",
    response_model=Saved,
    dependencies=[CsrfChecked],
    responses=problems(401, 403, 409),
)
def judge(task_id: TaskId, answer: Answer, store: Store, annotator: SignedIn) -> Response:
    """Answer a task. 200 means that the answer is stored, 409 that the lease is lost: claim another task."""
    try:
        saved = store.submit(
            task_id, annotator.name, answer.value, key=answer.key, seconds=answer.seconds, comment=answer.comment
        )
    except ValueError as error:
        raise HTTPException(422, str(error).encode("ascii", "backslashreplace").decode()) from error
    told = {"id": saved.id, "item_id": saved.item_id, "value": saved.value}
    return AsciiJSON({**told, "suggestion": _suggestion(store, saved)})


@router.post(
    "/tasks/{task_id}/renew", response_model=TaskOut, dependencies=[CsrfChecked], responses=problems(401, 403, 409)
)
def renew(task_id: TaskId, store: Store, annotator: SignedIn) -> Response:
    """Extend the task by another full lease."""
    return AsciiJSON(_lent(store.renew(task_id, annotator.name), "plain"))


@router.post(
    "/tasks/{task_id}/view", response_model=View, dependencies=[CsrfChecked], responses=problems(401, 403, 409)
)
def view(
    task_id: TaskId, store: Store, annotator: SignedIn, render: Render = "plain", differences: bool = False
) -> Response:
    """Return all of the task's view, and extend the task by another full lease.

    With `differences`, the nodes of two completions mark the words in which they differ (elements `mark`). If they are
    too long to be compared, they have no marks.
    """
    lent = store.renew(task_id, annotator.name)
    shown = view_of(lent, render, urgent=False)
    if differences:
        mark_differences(shown, [lent.item.completions[index] for index in lent.sides])
    return AsciiJSON(shown.model_dump())


@router.post("/tasks/{task_id}/release", status_code=204, dependencies=[CsrfChecked], responses=problems(401, 403))
def release(task_id: TaskId, store: Store, annotator: SignedIn) -> Response:
    """Give a task back unanswered."""
    store.release(task_id, annotator.name)
    return Response(status_code=204)


@router.get("/progress", response_model=ProgressOut, responses=problems(401))
def progress(store: Store, annotator: SignedIn) -> Response:
    """Return the progress of the project and of your work."""
    return AsciiJSON(_progress(store.progress(annotator.name)))


def _state(store: FeedbackStore, name: str, assignment: Assignment | None, render: Render | None) -> Response:
    settings = store.settings
    return AsciiJSON(
        {
            "task": None if assignment is None else _lent(assignment, render or settings.render),
            "progress": _progress(store.progress(name)),
            "settings": _settings(settings),
        }
    )


def _lent(assignment: Assignment, render: Render) -> dict[str, Any]:
    # Without source, policy, meta and gold, which would sway the annotator.
    item = assignment.item
    return {
        "id": assignment.id,
        "item_id": item.id,
        "kind": item.kind,
        "prompt": item.prompt,
        "completions": [{"index": index, "text": item.completions[index]} for index in assignment.sides],
        "view": view_of(assignment, render).model_dump(),
        "seconds_left": max(0.0, (assignment.expires - datetime.now(UTC)).total_seconds()),
    }


def _suggestion(store: FeedbackStore, saved: Judgement) -> dict[str, Any] | None:
    found = store.suggestion_after(saved)
    if found is None or saved.value is None:
        return None
    same = same_answer(saved.kind, found.value, saved.value, store.settings.scale)
    return {"source": found.source, "value": found.value, "same": same}


def _progress(progress: Progress) -> dict[str, int]:
    return {name: getattr(progress, name) for name in ProgressOut.model_fields}


def _settings(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in SettingsOut.model_fields}
