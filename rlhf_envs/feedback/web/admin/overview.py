"""Serve what only an admin may do: watch, export, pause, invite, accounts and settings, as a page and as JSON."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from ...formats.exporting import FORMATS, HOW, Export, export_file
from ...formats.names import ExportFormat
from ...settings import Settings
from ...store.store import FeedbackStore
from ..api import Scale, SettingsOut
from ..auth import Admin, CsrfChecked, Store
from ..pages import FormChecked, render
from ..responses import AsciiJSON, problems, refusing
from ..showing import Render
from .figures import figures_of
from .forecast import cost_lines, forecasts_of
from .summary import Summary

__all__ = ["api", "pages"]

pages = APIRouter(prefix="/admin")
api = APIRouter(tags=["admin"])

Role = Literal["annotator", "admin"]
Format = Annotated[ExportFormat, Query(description="see rlhf_envs.feedback.formats.exporting")]
How = Annotated[Literal[HOW], Query(description="for preference and ratings")]  # type: ignore[valid-type]


class Changes(BaseModel):
    """Hold the settings to change. Settings left out stay as they are."""

    model_config = ConfigDict(extra="forbid")
    guidelines: str | None = Field(default=None, max_length=100_000)
    scale: Scale | None = None
    harms: list[str] | None = Field(default=None, max_length=30)
    lease_seconds: float | None = Field(default=None, ge=10, le=7 * 24 * 3600, allow_inf_nan=False)
    paused: bool | None = None
    render: Render | None = None


class AllSettings(SettingsOut):
    """Hold all settings."""

    lease_seconds: float


class Invite(BaseModel):
    """Say for whom the invitation is."""

    model_config = ConfigDict(extra="forbid")
    role: Role = "annotator"


class Invitation(BaseModel):
    """Hold a link that works once: its path, and the whole of it."""

    role: Role
    path: str
    url: str


class Account(BaseModel):
    """Say whose account is meant."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200)


class Switch(Account):
    """Say whether the owner of an account may sign in."""

    active: bool


@api.get("/summary", response_model=Summary, responses=problems(401, 403))
def summary(request: Request, admin: Admin) -> Response:
    """Return the throughput, the agreement, and the quality of each annotator's work."""
    return AsciiJSON(figures_of(request).get().model_dump(mode="json"))


@api.get("/settings", response_model=AllSettings, responses=problems(401, 403))
def settings(store: Store, admin: Admin) -> Response:
    """Return the settings."""
    return AsciiJSON(_settings(store.settings))


@api.patch("/settings", response_model=AllSettings, dependencies=[CsrfChecked], responses=problems(401, 403))
def change_settings(changes: Changes, store: Store, admin: Admin) -> Response:
    """Change settings, pause the project (`{"paused": true}`) or resume it."""
    return AsciiJSON(_settings(_update(store, admin.name, **changes.model_dump(exclude_none=True))))


@api.post("/invitations", response_model=Invitation, dependencies=[CsrfChecked], responses=problems(401, 403))
def invite(request: Request, wanted: Invite, store: Store, admin: Admin) -> Response:
    """Make an invitation."""
    path = f"/invite/{store.invite(wanted.role)}"
    return AsciiJSON({"role": wanted.role, "path": path, "url": _link(request, path)})


@api.post("/resets", response_model=Invitation, dependencies=[CsrfChecked], responses=problems(401, 403))
def reset(request: Request, account: Account, store: Store, admin: Admin) -> Response:
    """Make a link with which the owner of an account chooses a new password."""
    path, role = _reset(store, account.name, admin.name)
    return AsciiJSON({"role": role, "path": path, "url": _link(request, path)})


@api.patch("/accounts", status_code=204, dependencies=[CsrfChecked], responses=problems(401, 403))
def switch_account(switch: Switch, store: Store, admin: Admin) -> Response:
    """Switch an account off, which signs its owner out, or on again."""
    _switch(store, switch.name, switch.active, admin.name)
    return Response(status_code=204)


@api.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "the file"}, **problems(401, 403)},
)
def export(store: Store, admin: Admin, format: Format = "preference", how: How = "each") -> Response:
    """Download the judgements. The header X-Export-Dropped counts, as JSON, what is left out and why."""
    made, content = _export(store, format, how)
    headers = {
        "Content-Disposition": f'attachment; filename="{_file_name(format)}"',
        "X-Export-Dropped": json.dumps(made.dropped),
    }
    return Response(content, media_type="application/octet-stream", headers=headers)


@pages.get("/export")
def export_page(
    request: Request, store: Store, admin: Admin, format: Format = "preference", how: How = "each"
) -> Response:
    """Show what a download holds and what it leaves out, before it is made."""
    made, _ = _export(store, format, how)
    return render(
        request, "admin/export.html", {"format": format, "how": how, "export": made, "file": _file_name(format)}
    )


@pages.get("")
def admin_page(request: Request, store: Store, admin: Admin, saved: bool = False) -> Response:
    return _page(request, store, saved=saved)


@pages.post("/invitations", dependencies=[FormChecked])
def invite_page(request: Request, store: Store, admin: Admin, role: Annotated[Role, Form()] = "annotator") -> Response:
    # Shown only in the answer to the POST: in an address it would stay in the browser's history.
    link = _link(request, f"/invite/{store.invite(role)}")
    return _page(request, store, invitation=link, invited="an admin" if role == "admin" else "an annotator")


@pages.post("/accounts/reset", dependencies=[FormChecked])
def reset_page(request: Request, store: Store, admin: Admin, name: Annotated[str, Form(max_length=200)]) -> Response:
    try:
        path, _ = _reset(store, name, admin.name)
    except HTTPException as error:
        return _page(request, store, error.status_code, account_problem=error.detail)
    return _page(request, store, invitation=_link(request, path), reset=name)


@pages.post("/accounts/switch", dependencies=[FormChecked])
def switch_page(
    request: Request,
    store: Store,
    admin: Admin,
    name: Annotated[str, Form(max_length=200)],
    active: Annotated[bool, Form()],
) -> Response:
    try:
        _switch(store, name, active, admin.name)
    except HTTPException as error:
        return _page(request, store, error.status_code, account_problem=error.detail)
    return RedirectResponse("/admin", 303)


@pages.post("/pause", dependencies=[FormChecked])
def pause(store: Store, admin: Admin, paused: Annotated[bool, Form()]) -> Response:
    _update(store, admin.name, paused=paused)
    return RedirectResponse("/admin", 303)


@pages.post("/settings", dependencies=[FormChecked])
def settings_page(
    request: Request,
    store: Store,
    admin: Admin,
    low: Annotated[int, Form()],
    high: Annotated[int, Form()],
    lease_minutes: Annotated[float, Form(ge=0.2, le=7 * 24 * 60, allow_inf_nan=False)],
    guidelines: Annotated[str, Form(max_length=100_000)] = "",
    harms: Annotated[str, Form(max_length=5000)] = "",
    render: Annotated[Render, Form()] = "plain",
) -> Response:
    wanted = {
        "guidelines": guidelines.replace("\r\n", "\n").strip(),
        "scale": (low, high),
        "harms": [line.strip() for line in harms.splitlines() if line.strip()],
        "lease_seconds": lease_minutes * 60,
        "render": render,
    }
    try:
        _update(store, admin.name, **wanted)
    except HTTPException as error:  # show the form again as it was filled in
        return _page(request, store, error.status_code, settings=wanted, problem=error.detail)
    return RedirectResponse("/admin?saved=true#settings", 303)


def _link(request: Request, path: str) -> str:
    """Return a whole link, with the address that the server was told. The Host header may be anybody's."""
    return f"{request.app.state.url}{path}"


def _reset(store: Store, name: str, by: str) -> tuple[str, str]:
    """Return (path of the link, role of the account)."""
    with refusing():
        path = f"/invite/{store.invite_to_reset(name)}"
    store.log(by, "link to reset the password", annotator=name)
    return path, next(person.role for person in store.annotators() if person.name == name)


def _switch(store: Store, name: str, active: bool, by: str) -> None:
    with refusing():
        store.switch_account(name, active=active)
    store.log(by, "switch on" if active else "switch off", annotator=name)


def _update(store: Store, by: str, **changes: Any) -> Settings:
    for name in ("scale", "harms"):
        if name in changes:
            changes[name] = tuple(changes[name])
    before = store.settings
    with refusing():
        after = store.update_settings(**changes)
    changed = [name for name in changes if getattr(before, name) != getattr(after, name)]
    if changed:
        old, new = ({name: getattr(settings, name) for name in changed} for settings in (before, after))
        store.log(by, "settings", before=old, after=new)
    return after


def _settings(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in AllSettings.model_fields}


def _file_name(format: str) -> str:
    return f"feedback-{format}.{'csv' if format in ('argilla', 'label-studio') else 'jsonl'}"


def _export(store: FeedbackStore, format: str, how: str) -> tuple[Export, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _file_name(format)
        return export_file(store, path, format, how=how), path.read_bytes()


def _page(request: Request, store: Store, status: int = 200, **more: Any) -> Response:
    summary = figures_of(request).get()
    top = max((hour.judgements for hour in summary.hours), default=0)
    context = {
        "summary": summary,
        "paused": summary.paused,
        "now": datetime.now(UTC),
        "settings": store.settings,
        "top": top,
        "formats": FORMATS,
        "hows": HOW,
        "forecast": forecasts_of(request).now(),
        "forecast_lines": cost_lines(request, store),
        **more,
    }
    return render(request, "admin/overview.html", context, status)
