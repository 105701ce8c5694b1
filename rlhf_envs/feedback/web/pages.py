"""Serve the pages that people see before and while they annotate."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from .auth import SignedIn, Store, csrf_matches, csrf_token, end_session, gate_of
from .passwords import MIN_PASSWORD

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
    root = request.scope.get("root_path", "")
    context = {
        "csrf": csrf_token(request),
        "name": request.session.get("name"),
        "root": root,
        "tab": request.url.path.removeprefix(root),
        **context,
    }
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
async def login(request: Request, name: Text = "", password: Text = "") -> Response:
    gate = gate_of(request)
    try:
        await gate.pool.run(gate.sign_in, request, name, password)
    except HTTPException as error:
        context = {"typed": name, "problem": error.detail}
        return render(request, "login.html", context, error.status_code, dict(error.headers or {}))
    return RedirectResponse("/annotate", 303)


@router.post("/logout", dependencies=[FormChecked])
def logout(request: Request, store: Store) -> Response:
    end_session(request, store)
    return RedirectResponse("/login", 303)


def _invited(store: Store, token: str) -> dict[str, Any]:
    """Return what the invitation's page shows: `known` is the name of the account whose password the link resets."""
    try:
        known = store.invited_name(token)
    except ValueError:  # a link that does not work says so when it is used
        known = None
    return {"token": token, "known": known, "min_password": MIN_PASSWORD}


Invited = Annotated[dict[str, Any], Depends(_invited)]


@router.get("/invite/{token}")
def invitation(request: Request, invited: Invited) -> Response:
    return render(request, "invite.html", invited)


@router.post("/invite/{token}", dependencies=[FormChecked])
async def accept(request: Request, token: str, invited: Invited, name: Text = "", password: Text = "") -> Response:
    gate = gate_of(request)
    try:
        await gate.pool.run(gate.sign_up, request, token, name, password)
    except HTTPException as error:
        context = {"typed": name, "problem": error.detail, **invited}
        return render(request, "invite.html", context, error.status_code, dict(error.headers or {}))
    return RedirectResponse("/annotate", 303)


@router.get("/annotate")
def annotate(request: Request, annotator: SignedIn) -> Response:
    return render(request, "annotate.html", {"role": annotator.role})
