"""The pages people see before and while they annotate."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from rlhf_envs.feedback.web.auth import MIN_PASSWORD, Gate, Session, Sessions, SignedIn

__all__ = ["FormChecked", "render", "router"]

router = APIRouter()
Text = Annotated[str, Form(max_length=2000)]


def render(
    request: Request,
    template: str,
    context: dict[str, Any],
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """Render a page, with the CSRF token of its session; who has no session gets one."""
    sessions = cast(Sessions, request.app.state.sessions)
    templates = cast(Jinja2Templates, request.app.state.templates)
    session = sessions.read(request)
    fresh = session is None
    session = session or Session.fresh()
    context = {"csrf": sessions.csrf_token(session), "name": session.name, **context}
    response = templates.TemplateResponse(request, template, context, status_code=status, headers=headers)
    if fresh:
        sessions.keep(response, session)
    return response


def _check_form(request: Request, csrf: Annotated[str, Form(max_length=200)] = "") -> None:
    sessions = cast(Sessions, request.app.state.sessions)
    session = sessions.read(request)
    if session is None or not sessions.csrf_matches(session, csrf):
        raise HTTPException(403, "this form is out of date: go back, reload the page and try again")


FormChecked = Depends(_check_form)


@router.get("/")
def home() -> Response:
    return RedirectResponse("/annotate", 303)


@router.get("/favicon.ico")
def favicon(request: Request) -> Response:
    return RedirectResponse("/static/icon.svg", 308)


@router.get("/login")
def login_page(request: Request) -> Response:
    return render(request, "login.html", {})


@router.post("/login", dependencies=[FormChecked])
def login(request: Request, name: Text = "", password: Text = "") -> Response:
    try:
        known = cast(Gate, request.app.state.gate).sign_in(request, name, password)
    except HTTPException as error:
        context = {"typed": name, "problem": error.detail}
        return render(request, "login.html", context, error.status_code, dict(error.headers or {}))
    return _enter(request, known)


@router.post("/logout", dependencies=[FormChecked])
def logout(request: Request) -> Response:
    response = RedirectResponse("/login", 303)
    cast(Sessions, request.app.state.sessions).end(response)
    return response


@router.get("/invite/{token}")
def invitation(request: Request, token: str) -> Response:
    return render(request, "invite.html", {"token": token, "min_password": MIN_PASSWORD})


@router.post("/invite/{token}", dependencies=[FormChecked])
def accept(request: Request, token: str, name: Text = "", password: Text = "") -> Response:
    try:
        annotator = cast(Gate, request.app.state.gate).sign_up(request, token, name, password)
    except HTTPException as error:
        context = {"token": token, "min_password": MIN_PASSWORD, "typed": name, "problem": error.detail}
        return render(request, "invite.html", context, error.status_code, dict(error.headers or {}))
    return _enter(request, annotator.name)


def _enter(request: Request, name: str) -> Response:
    response = RedirectResponse("/annotate", 303)
    cast(Sessions, request.app.state.sessions).keep(response, Session.fresh(name))
    return response


@router.get("/annotate")
def annotate(request: Request, annotator: SignedIn) -> Response:
    return render(request, "annotate.html", {"role": annotator.role})
