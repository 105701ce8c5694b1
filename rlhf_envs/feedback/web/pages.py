"""Serve the pages that people see before and while they annotate."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from ..records import Annotator, StoreError
from ..settings import LANGUAGES
from ..store.steps import next_step
from .auth import SignedIn, Store, csrf_matches, csrf_token, end_session, gate_of
from .passwords import MIN_PASSWORD
from .words import COOKIE, Refusal, Words, choose, load, say

__all__ = ["FormChecked", "render", "router", "theme_of", "words_of"]

router = APIRouter()
Text = Annotated[str, Form(max_length=2000)]
THEME = "rlhf_feedback_theme"  # the cookie of a chosen theme; without it the system decides


def render(
    request: Request,
    template: str,
    context: dict[str, Any],
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """Render a page with the CSRF token and the name of its session, and the words of its language as `t`."""
    templates = cast(Jinja2Templates, request.app.state.templates)
    root = request.scope.get("root_path", "")
    context = {
        "csrf": csrf_token(request),
        "name": request.session.get("name"),
        "t": words_of(request),
        "languages": LANGUAGES,
        "theme": theme_of(request),
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "root": root,
        "projects_root": root.removesuffix(f"/{request.app.state.project}"),
        "tab": request.url.path.removeprefix(root),
        **context,
    }
    return templates.TemplateResponse(request, template, context, status_code=status, headers=headers)


def theme_of(request: Request) -> str:
    """Return the theme that a person chose, "light" or "dark", or "" for their system's."""
    chosen = request.cookies.get(THEME, "")
    return chosen if chosen in ("light", "dark") else ""


def words_of(request: Request) -> Words:
    """Return the words of a request's language. The pages of admins are in English."""
    if "admin" in request.url.path.split("/"):
        return load()["en"]
    try:
        return choose(request, request.app.state.store.settings.language)
    except StoreError:  # the page that says so has words too
        return choose(request)


def _check_form(request: Request, csrf: Annotated[str, Form(max_length=200)] = "") -> None:
    if not csrf_matches(request, csrf):
        raise Refusal(403, "form_out_of_date")


FormChecked = Depends(_check_form)


def _first_page(annotator: Annotator) -> str:
    """Return where a person goes who has signed in: an admin to the overview, everybody else to the items."""
    return "/admin" if annotator.role == "admin" else "/annotate"


@router.get("/")
def home(annotator: SignedIn) -> Response:
    return RedirectResponse(_first_page(annotator), 303)


@router.get("/favicon.ico")
def favicon(request: Request) -> Response:
    return RedirectResponse("/static/icon.svg", 308)


@router.post("/language", dependencies=[FormChecked])
def choose_language(
    request: Request, language: Annotated[str, Form(max_length=10)], back: Annotated[str, Form(max_length=2000)] = "/"
) -> Response:
    """Keep the language that a person chose, for a year, and go back to the page where they did."""
    if language not in LANGUAGES:
        raise Refusal(422, "fields_malformed", fields=f"language ({', '.join(LANGUAGES)})")
    return _keep(request, COOKIE, language, back)


@router.post("/theme", dependencies=[FormChecked])
def choose_theme(
    request: Request,
    theme: Annotated[Literal["", "light", "dark"], Form()] = "",
    back: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Keep the theme that a person chose, for a year, and go back to the page where they did. "" is the system's."""
    return _keep(request, THEME, theme, back)


def _keep(request: Request, cookie: str, chosen: str, back: str) -> Response:
    is_here = re.fullmatch(r"/(?![/\\])[!-~]*", back)  # a page of ours, and no address elsewhere
    answer = RedirectResponse(back if is_here else "/", 303)
    secure = request.app.state.secure_cookies
    answer.set_cookie(cookie, chosen, 365 * 24 * 3600, secure=secure, httponly=True, samesite="lax")
    return answer


@router.get("/login")
def login_page(request: Request) -> Response:
    return render(request, "login.html", {})


@router.post("/login", dependencies=[FormChecked])
async def login(request: Request, name: Text = "", password: Text = "") -> Response:
    gate = gate_of(request)
    try:
        annotator = await gate.pool.run(gate.sign_in, request, name, password)
    except HTTPException as error:
        context = {"typed": name, "problem": say(error, words_of(request))}
        return render(request, "login.html", context, error.status_code, dict(error.headers or {}))
    return RedirectResponse(_first_page(annotator), 303)


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
        annotator = await gate.pool.run(gate.sign_up, request, token, name, password)
    except HTTPException as error:
        context = {"typed": name, "problem": say(error, words_of(request)), **invited}
        return render(request, "invite.html", context, error.status_code, dict(error.headers or {}))
    return RedirectResponse(_first_page(annotator), 303)


@router.get("/annotate")
def annotate(request: Request, store: Store, annotator: SignedIn) -> Response:
    step = next_step(store, annotator.name)
    if step not in ("work", "training"):  # the other steps have pages of their own
        return RedirectResponse(f"/{step}", 303)
    return render(request, "annotate.html", {"role": annotator.role, "masks": store.settings.mask_private})
