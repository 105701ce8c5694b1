"""Serve the pages that people see before and while they annotate."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from .auth import MIN_PASSWORD, SignedIn, begin_session, csrf_matches, csrf_token, gate_of

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
    """Render a page with the CSRF token and the name of its session."""
    templates = cast(Jinja2Templates, request.app.state.templates)
    context = {"csrf": csrf_token(request), "name": request.session.get("name"), **context}
    return templates.TemplateResponse(request, template, context, status_code=status, headers=headers)


def _check_form(request: Request, csrf: Annotated[str, Form(max_length=200)] = "") -> None:
    if not csrf_matches(request, csrf):
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
        known = gate_of(request).sign_in(request, name, password)
    except HTTPException as error:
        context = {"typed": name, "problem": error.detail}
        return render(request, "login.html", context, error.status_code, dict(error.headers or {}))
    return _enter(request, known)


@router.post("/logout", dependencies=[FormChecked])
def logout(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("/login", 303)


@router.get("/invite/{token}")
def invitation(request: Request, token: str) -> Response:
    return render(request, "invite.html", {"token": token, "min_password": MIN_PASSWORD})


@router.post("/invite/{token}", dependencies=[FormChecked])
def accept(request: Request, token: str, name: Text = "", password: Text = "") -> Response:
    try:
        annotator = gate_of(request).sign_up(request, token, name, password)
    except HTTPException as error:
        context = {"token": token, "min_password": MIN_PASSWORD, "typed": name, "problem": error.detail}
        return render(request, "invite.html", context, error.status_code, dict(error.headers or {}))
    return _enter(request, annotator.name)


def _enter(request: Request, name: str) -> Response:
    begin_session(request, name)
    return RedirectResponse("/annotate", 303)


@router.get("/annotate")
def annotate(request: Request, annotator: SignedIn) -> Response:
    return render(request, "annotate.html", {"role": annotator.role})
