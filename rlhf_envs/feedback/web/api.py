"""The JSON API under /api: what the annotation page talks to, and programs may.

Every call but the sign-in wants the session's cookie; every call that changes something wants its CSRF token as well.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from rlhf_envs.feedback.records import Assignment, Progress, Settings
from rlhf_envs.feedback.store.store import FeedbackStore
from rlhf_envs.feedback.web.auth import CsrfChecked, Gate, Session, Sessions, SignedIn
from rlhf_envs.feedback.web.responses import AsciiJSON, problems

__all__ = ["Scale", "Store", "router"]

router = APIRouter(tags=["annotate"])

# Not a tuple: FastAPI writes those as "items": [...], which OpenAPI 3.1 does not know.
Scale = Annotated[list[int], Field(min_length=2, max_length=2)]
TaskId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class Credentials(BaseModel):
    """A name and its password."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200)
    password: str = Field(max_length=2000)


class SessionOut(BaseModel):
    """Who is signed in; `csrf` goes into the header X-CSRF-Token of every POST and PATCH."""

    name: str
    role: Literal["annotator", "admin"]
    csrf: str


class Shown(BaseModel):
    """A completion; `index` is its place in the item, which answers refer to."""

    index: int
    text: str


class TaskOut(BaseModel):
    """An item lent to you; `completions` stand in the order in which to show them."""

    id: int
    item_id: int
    kind: str
    prompt: str
    completions: list[Shown]
    seconds_left: float


class ProgressOut(BaseModel):
    """Counts: all items, those with all their judgements, your answers and skips."""

    items: int
    finished: int
    mine: int


class SettingsOut(BaseModel):
    """What the annotation page must know."""

    guidelines: str
    scale: Scale
    harms: list[str]
    paused: bool


class State(BaseModel):
    """What there is to do; no task means that nothing is left for now, or that the project is paused."""

    task: TaskOut | None
    progress: ProgressOut
    settings: SettingsOut


class Answer(BaseModel):
    """A judgement; `value` depends on the kind, null skips. The same `key` again adds nothing.

    pairwise {"choice": 0|1|null, "strength": 1..3}, ranking {"order": [...]}, rating {"rating": n},
    thumbs {"up": bool}, correction {"text": "..."}, flags {"harms": [...]}.
    """

    model_config = ConfigDict(extra="forbid")
    value: dict[str, Any] | None
    key: str = Field(min_length=8, max_length=100, pattern=r"^[\w.:-]+$")
    seconds: float = Field(default=0.0, ge=0, le=7 * 24 * 3600, allow_inf_nan=False)
    comment: str = Field(default="", max_length=20_000)


class Saved(BaseModel):
    """The judgement is on the disk."""

    id: int
    item_id: int
    value: dict[str, Any] | None


def store_of(request: Request) -> FeedbackStore:
    """The app's store, as a dependency."""
    return cast(FeedbackStore, request.app.state.store)


Store = Annotated[FeedbackStore, Depends(store_of)]


@router.post("/login", response_model=SessionOut, responses=problems(401, 429))
def login(request: Request, credentials: Credentials, store: Store) -> Response:
    """Sign in; sets the session's cookie."""
    name = cast(Gate, request.app.state.gate).sign_in(request, credentials.name, credentials.password)
    sessions = cast(Sessions, request.app.state.sessions)
    role = next(annotator.role for annotator in store.annotators() if annotator.name == name)
    session = Session.fresh(name)
    response = AsciiJSON({"name": name, "role": role, "csrf": sessions.csrf_token(session)})
    sessions.keep(response, session)
    return response


@router.post("/logout", status_code=204, dependencies=[CsrfChecked], responses=problems(401, 403))
def logout(request: Request) -> Response:
    """Sign out: takes the cookie away."""
    response = Response(status_code=204)
    cast(Sessions, request.app.state.sessions).end(response)
    return response


@router.get("/session", response_model=SessionOut, responses=problems(401))
def session(request: Request, annotator: SignedIn) -> Response:
    """Who is signed in."""
    sessions = cast(Sessions, request.app.state.sessions)
    session = sessions.read(request)
    assert session is not None, "SignedIn has read it"
    return AsciiJSON({"name": annotator.name, "role": annotator.role, "csrf": sessions.csrf_token(session)})


@router.post("/claim", response_model=State, dependencies=[CsrfChecked], responses=problems(401, 403))
def claim(store: Store, annotator: SignedIn) -> Response:
    """Take a task: the one you hold already, else the next."""
    return _state(store, annotator.name, store.claim(annotator.name))


@router.post("/undo", response_model=State, dependencies=[CsrfChecked], responses=problems(401, 403, 409))
def undo(store: Store, annotator: SignedIn) -> Response:
    """Take your last judgement back; its item is lent to you again."""
    task = store.undo(annotator.name)
    if task is None:
        raise HTTPException(409, "there is nothing to take back")
    return _state(store, annotator.name, task)


@router.post(
    "/tasks/{task_id}/judgement",
    response_model=Saved,
    dependencies=[CsrfChecked],
    responses=problems(401, 403, 409),
)
def judge(task_id: TaskId, answer: Answer, store: Store, annotator: SignedIn) -> Response:
    """Answer a task. 200 means that the answer is stored; 409 that the lease is lost: claim another."""
    try:
        saved = store.submit(
            task_id, annotator.name, answer.value, key=answer.key, seconds=answer.seconds, comment=answer.comment
        )
    except ValueError as error:
        raise HTTPException(422, str(error).encode("ascii", "backslashreplace").decode()) from error
    return AsciiJSON({"id": saved.id, "item_id": saved.item_id, "value": saved.value})


@router.post(
    "/tasks/{task_id}/renew", response_model=TaskOut, dependencies=[CsrfChecked], responses=problems(401, 403, 409)
)
def renew(task_id: TaskId, store: Store, annotator: SignedIn) -> Response:
    """Ask for another full lease."""
    return AsciiJSON(_task(store.renew(task_id, annotator.name)))


@router.post("/tasks/{task_id}/release", status_code=204, dependencies=[CsrfChecked], responses=problems(401, 403))
def release(task_id: TaskId, store: Store, annotator: SignedIn) -> Response:
    """Give a task back unanswered."""
    store.release(task_id, annotator.name)
    return Response(status_code=204)


@router.get("/progress", response_model=ProgressOut, responses=problems(401))
def progress(store: Store, annotator: SignedIn) -> Response:
    """How far things are."""
    return AsciiJSON(_progress(store.progress(annotator.name)))


def _state(store: FeedbackStore, name: str, task: Assignment | None) -> Response:
    return AsciiJSON(
        {
            "task": None if task is None else _task(task),
            "progress": _progress(store.progress(name)),
            "settings": _settings(store.settings),
        }
    )


def _task(task: Assignment) -> dict[str, Any]:
    # Source, policy, meta and gold stay here: they would sway the annotator.
    return {
        "id": task.id,
        "item_id": task.item.id,
        "kind": task.item.kind,
        "prompt": task.item.prompt,
        "completions": [{"index": index, "text": task.item.completions[index]} for index in task.sides],
        "seconds_left": max(0.0, (task.expires - datetime.now(UTC)).total_seconds()),
    }


def _progress(progress: Progress) -> dict[str, int]:
    return {"items": progress.items, "finished": progress.finished, "mine": progress.mine}


def _settings(settings: Settings) -> dict[str, Any]:
    return {
        "guidelines": settings.guidelines,
        "scale": settings.scale,
        "harms": settings.harms,
        "paused": settings.paused,
    }
