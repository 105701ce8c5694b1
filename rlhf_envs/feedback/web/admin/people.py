"""Serve the admin's pages about people (accounts, roles, sessions, their answers) and about the audit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

from ...records import Annotator, AuditEntry
from ...store.browsing import JudgementFilter
from ...store.store import FeedbackStore
from ..auth import Admin, Store
from ..pages import FormChecked, render
from ..responses import problem_text
from .archive import write_archive
from .items import Key, RowId, answers_context

__all__ = ["pages"]

pages = APIRouter(prefix="/admin")

_ENTRIES = 100  # of the audit on a page


@pages.get("/people")
def people_page(request: Request, store: Store, admin: Admin) -> Response:
    """Show everybody with an account, and what may be done about it."""
    return _people(request, store)


@pages.get("/people/{person_id}")
def person_page(
    request: Request, store: Store, admin: Admin, person_id: RowId, after: Key = "", before: Key = ""
) -> Response:
    """Show one person's answers, the newest first."""
    return _person_page(request, store, person_id, after, before)


@pages.post("/people/{person_id}/{action}", dependencies=[FormChecked])
def change_person(
    request: Request,
    store: Store,
    admin: Admin,
    person_id: RowId,
    action: Literal["reset", "off", "on", "sessions", "admin", "annotator"],
    reason: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """Reset a password, switch an account, end its sessions, or change its role. The audit keeps it."""
    person = _person(store, person_id)
    link = None
    try:
        before: Any = None
        after: Any = None
        if action == "reset":
            link = f"{request.app.state.url}/invite/{store.invite_to_reset(person.name)}"
        elif action == "sessions":
            before = {"sessions": store.end_sessions(person.name)}
        elif action in ("on", "off"):
            store.switch_account(person.name, active=action == "on")
        else:
            store.change_role(person.name, action)
            before, after = {"role": person.role}, {"role": action}
    except ValueError as error:
        return _person_page(request, store, person_id, "", "", 422, problem=problem_text(error))
    what = {"reset": "link to reset the password", "sessions": "end sessions", "on": "switch on", "off": "switch off"}
    store.log(admin.name, what.get(action, "role"), annotator=person.name, before=before, after=after, reason=reason)
    if link is not None:  # shown only in the answer to the POST: in an address it would stay in the browser's history
        return _person_page(request, store, person_id, "", "", invitation=link)
    if action in ("sessions", "off") and person.name == admin.name:
        return RedirectResponse("/login", 303)
    return RedirectResponse(f"/admin/people/{person_id}", 303)


@pages.get("/audit")
def audit_page(request: Request, store: Store, admin: Admin, before: Annotated[int, Query(ge=0)] = 0) -> Response:
    """Show what was changed, by whom and why, the newest first."""
    entries = store.audit(before_id=before or None, limit=_ENTRIES + 1)
    older = entries[_ENTRIES - 1].id if len(entries) > _ENTRIES else None
    return render(request, "admin/audit.html", {"audit": entries[:_ENTRIES], "older": older, "before": before})


@pages.get("/audit.jsonl")
def audit_download(store: Store, admin: Admin) -> Response:
    """Download the whole audit, the oldest first."""
    headers = {"Content-Disposition": 'attachment; filename="feedback-audit.jsonl"'}
    lines = audit_lines(reversed(store.audit()))
    return StreamingResponse(lines, media_type="application/octet-stream", headers=headers)


@pages.get("/everything.zip")
def download_everything(store: Store, admin: Admin) -> Response:
    """Download all that the project has, without secrets."""
    with tempfile.NamedTemporaryFile(prefix="rlhf-archive-", suffix=".zip", delete=False) as file:
        write_archive(store, file)
    forget = BackgroundTask(Path(file.name).unlink, missing_ok=True)
    return FileResponse(file.name, filename="feedback.zip", media_type="application/zip", background=forget)


@pages.get("/webhooks")
def webhooks_page(request: Request, store: Store, admin: Admin) -> Response:
    """Show the newest events and what became of them."""
    context = {"events": store.deliveries(), "counts": store.count_deliveries(), "hooks": store.settings.webhooks}
    return render(request, "admin/webhooks.html", context)


@pages.post("/webhooks", dependencies=[FormChecked])
def retry_webhooks(store: Store, admin: Admin) -> Response:
    """Try all events again that failed or wait."""
    store.log(admin.name, "send webhooks again", after={"events": store.retry_deliveries()})
    return RedirectResponse("/admin/webhooks", 303)


def audit_lines(entries: Iterator[AuditEntry]) -> Iterator[str]:
    """Yield the entries of the audit as JSON lines."""
    for entry in entries:
        yield json.dumps({**asdict(entry), "created": entry.created.isoformat()}) + "\n"


def _person(store: FeedbackStore, person_id: int) -> Annotator:
    found = next((person for person in store.annotators() if person.id == person_id), None)
    if found is None:
        raise HTTPException(404, f"there is no annotator with the id {person_id}")
    return found


def _people(request: Request, store: FeedbackStore) -> Response:
    people = store.annotators()
    passwords = {person.name for person in people if store.password_hash(person.name)} if len(people) <= 200 else None
    context = {"people": people, "sessions": store.live_sessions(), "passwords": passwords}
    return render(request, "admin/people.html", context)


def _person_page(
    request: Request, store: FeedbackStore, person_id: int, after: str, before: str, status: int = 200, **more: Any
) -> Response:
    person = _person(store, person_id)
    context = answers_context(request, store, JudgementFilter(annotator=person.name), after, before)
    context["links"] = {name: link.replace("annotator=", "who=") for name, link in context["links"].items()}
    sessions = store.live_sessions().get(person.name, 0)
    return render(request, "admin/person.html", {**context, "person": person, "sessions": sessions, **more}, status)
