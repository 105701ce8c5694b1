"""Serve the JSON API under /api, for the annotation page and for programs.

Every call but the sign-in needs the session's cookie. A call that changes something needs the CSRF token too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ..deciding import same_answer
from ..questions import asked_about
from ..records import Assignment, Judgement, NoSuchAnnotator
from ..settings import Settings
from ..settings_file import as_plain
from ..store.panels import panelist
from ..store.steps import Step, next_step, own_progress
from ..store.store import FeedbackStore
from ..store.training import TrainingTask, next_training
from .auth import CsrfChecked, SignedIn, Store, csrf_token, end_session, gate_of
from .differences import mark_differences
from .responses import AsciiJSON, problems, refusing
from .showing import Render, View, view_of
from .words import Refusal

__all__ = ["AskedRender", "Scale", "SettingsOut", "TaskId", "as_assignment", "router"]

router = APIRouter(tags=["annotate"])

# A list, since FastAPI writes a tuple as "items": [...], which OpenAPI 3.1 does not know.
Scale = Annotated[list[int], Field(min_length=2, max_length=2)]
AskedRender = Annotated[Render | None, Query(description="the project's setting by default")]
_NO_LEASE = timedelta(days=1)  # an item of the training is lent to nobody
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


class TrainingOut(BaseModel):
    """Say where you are in the training. Its items are answered by POST /api/training/{attempt}/{id}."""

    attempt: int
    done: int
    n: int


class TaskOut(BaseModel):
    """Show an item that is lent to you, or one of your training. Its `completions` come in the order to show them.

    `view` says how people see them. `wording` is the project's own wording of the kind's question, if it has one.
    `questions` are the project's own questions about this item, with the fields of `rlhf_envs.feedback.Question`, and
    `version` is theirs. `explanation` tells whether POST /api/tasks/{id}/explanation has one for it now.
    """

    id: int
    item_id: int
    kind: str
    prompt: str
    completions: list[Shown]
    view: View
    seconds_left: float
    training: TrainingOut | None = None
    wording: str | None
    questions: list[dict[str, Any]]
    version: int
    explanation: bool


class ProgressOut(BaseModel):
    """Count all items, the items with all their judgements, your answers and skips, and the items left for you.

    The pace comes from your last answers, and is null before the first.
    """

    items: int
    finished: int
    mine: int
    left: int
    median_seconds: float | None
    per_hour: float | None


class SettingsOut(BaseModel):
    """Hold the settings that the annotation page needs."""

    guidelines: str
    scale: Scale
    harms: list[str]
    paused: bool
    render: Render


class State(BaseModel):
    """Tell what to do next. Without a task nothing is left for now, or the project is paused.

    There is none either unless `step` is "work" or "training": then see GET /api/documents/consent and so on.
    `from_panel` tells whether you came from a panel. `break_minutes` is after how much work a break is suggested.
    """

    step: Step
    task: TaskOut | None
    from_panel: bool
    break_minutes: float
    progress: ProgressOut
    settings: SettingsOut


class Answer(BaseModel):
    """Hold a judgement. `value` depends on the kind, and null skips. The same `key` again adds nothing.

    pairwise {"choice": 0|1|null, "strength": 1..3}, ranking {"order": [...]}, rating {"rating": n},
    thumbs {"up": bool}, correction {"text": "..."}, flags {"harms": [...]}, questions {}. `answers` maps the names of
    the task's questions to the answers, and `version` is the task's; without it the present version is meant.
    """

    model_config = ConfigDict(extra="forbid")
    value: dict[str, Any] | None
    key: str = Field(min_length=8, max_length=100, pattern=r"^[\w.:-]+$")
    seconds: float = Field(default=0.0, ge=0, le=7 * 24 * 3600, allow_inf_nan=False)
    comment: str = Field(default="", max_length=20_000)
    answers: dict[str, Any] = Field(default_factory=dict, max_length=100)
    version: int | None = Field(default=None, ge=1, lt=2**31)


class SuggestionOut(BaseModel):
    """Tell what a model suggests for the item that was just answered, and whether the answer says the same."""

    source: str
    value: dict[str, Any]
    same: bool


class Saved(BaseModel):
    """Confirm that the judgement is on the disk. `explanation` tells whether the task has one to look at now."""

    id: int
    item_id: int
    value: dict[str, Any] | None
    answers: dict[str, Any]
    suggestion: SuggestionOut | None = None
    explanation: bool = False


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
    """Take a task: the one that you hold already, else the next; or the next of your training."""
    step = next_step(store, annotator.name)
    if step == "training" and (trained := next_training(store, annotator.name)) is not None:
        return _state(store, annotator.name, step, trained, render)
    return _state(store, annotator.name, step, store.claim(annotator.name) if step == "work" else None, render)


@router.post("/undo", response_model=State, dependencies=[CsrfChecked], responses=problems(401, 403, 409))
def undo(store: Store, annotator: SignedIn, render: AskedRender = None) -> Response:
    """Take your last judgement back. Its item is lent to you again."""
    step = next_step(store, annotator.name)
    task = store.undo(annotator.name) if step == "work" else None
    if task is None:
        raise Refusal(409, "nothing_to_take_back")
    return _state(store, annotator.name, step, task, render)


@router.post(
    "/tasks/{task_id}/judgement",
    response_model=Saved,
    dependencies=[CsrfChecked],
    responses=problems(401, 403, 409),
)
def judge(task_id: TaskId, answer: Answer, store: Store, annotator: SignedIn) -> Response:
    """Answer a task. 200 means that the answer is stored, 409 that the lease is lost: claim another task."""
    with refusing(leave=NoSuchAnnotator):
        saved = store.submit(task_id, annotator.name, **answer.model_dump())
    told = {"id": saved.id, "item_id": saved.item_id, "value": saved.value, "answers": saved.answers}
    explained = saved.value is not None and store.has_explanation_after(saved.item_id)
    return AsciiJSON({**told, "suggestion": _suggestion(store, saved), "explanation": explained})


@router.post(
    "/tasks/{task_id}/renew", response_model=TaskOut, dependencies=[CsrfChecked], responses=problems(401, 403, 409)
)
def renew(task_id: TaskId, store: Store, annotator: SignedIn) -> Response:
    """Extend the task by another full lease."""
    lent = store.renew(task_id, annotator.name)
    return AsciiJSON(_lent(lent, "plain", *store.asked(), store.offer_explanation(lent.id)))


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
    return AsciiJSON(_progress(store, annotator.name))


def _state(
    store: FeedbackStore, name: str, step: Step, task: Assignment | TrainingTask | None, render: Render | None
) -> Response:
    version, settings = store.asked()
    lent = as_assignment(task) if isinstance(task, TrainingTask) else task
    offered = isinstance(task, Assignment) and store.offer_explanation(task.id)
    shown = lent and _lent(lent, render or settings.render, version, settings, offered)
    if shown and isinstance(task, TrainingTask):
        place = {"attempt": task.attempt, "done": task.done, "n": task.n}
        shown |= {"training": place}
    return AsciiJSON(
        {
            "step": step,
            "task": shown,
            "from_panel": bool(settings.panel.person) and panelist(store, name) is not None,
            "break_minutes": settings.break_minutes,
            "progress": _progress(store, name),
            "settings": _settings(settings),
        }
    )


def as_assignment(task: TrainingTask) -> Assignment:
    """Return an item of the training as if it were lent, to show it in the same way."""
    return Assignment(task.item.id, task.item, task.annotator, task.sides, datetime.now(UTC) + _NO_LEASE)


def _lent(assignment: Assignment, render: Render, version: int, settings: Settings, offered: bool) -> dict[str, Any]:
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
        "training": None,
        "wording": settings.wording.get(item.kind),
        "questions": as_plain(asked_about(settings.questions, item.kind, len(item.completions))),
        "version": version,
        "explanation": offered,
    }


def _suggestion(store: FeedbackStore, saved: Judgement) -> dict[str, Any] | None:
    found = store.suggestion_after(saved)
    if found is None or saved.value is None:
        return None
    same = same_answer(saved.kind, found.value, saved.value, store.settings.scale)
    return {"source": found.source, "value": found.value, "same": same}


def _progress(store: FeedbackStore, name: str) -> dict[str, Any]:
    own = own_progress(store, name)
    return {
        "items": own.items,
        "finished": own.finished,
        "mine": own.done,
        "left": own.left,
        "median_seconds": own.median_seconds,
        "per_hour": own.per_hour,
    }


def _settings(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in SettingsOut.model_fields}
