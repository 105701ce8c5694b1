"""Serve several projects side by side: each a store and an app of its own, below a path of its own.

Accounts belong to a project. So a store stays whole when it is moved or backed up, an admin of one project is nobody in
another, and an invitation carries its project in its path. Whoever works in several signs in to each.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from itsdangerous import BadSignature, TimestampSigner
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from ..records import Annotator
from ..store.store import FeedbackStore
from .app import Guard
from .auth import SESSION_DAYS
from .pages import theme_of
from .words import choose

__all__ = ["create_projects"]


def create_projects(apps: Mapping[str, FastAPI]) -> Starlette:
    """Put the apps of several projects side by side, each below /NAME, with a page that leads to them.

    The page at / names only projects to which the browser is signed in.

    Args:
        apps: maps names of projects to their apps, which `create_app` made with that `project`.
    """

    def front(request: Request) -> Response:
        found = [(name, app, _session(request, app)) for name, app in apps.items()]
        projects = [(name, person.name, person.role) for name, _, person in found if person is not None]
        templates = cast(Jinja2Templates, next(iter(apps.values())).state.templates)
        root = request.scope.get("root_path", "")
        context: dict[str, Any] = {
            "csrf": "",
            "root": root,
            "t": choose(request),
            "projects": projects,
            "theme": theme_of(request),
        }
        return templates.TemplateResponse(request, "projects.html", context)

    def unknown(request: Request, error: Exception) -> Response:
        return PlainTextResponse("There is no such project here.", 404)

    def icon(request: Request) -> Response:
        return RedirectResponse("/static/icon.svg", 308)

    routes = [
        Route("/", front),
        Route("/favicon.ico", icon),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        *(Mount(f"/{name}", app) for name, app in apps.items()),
    ]
    whole = Starlette(routes=routes, exception_handlers={404: unknown})
    whole.router.redirect_slashes = False
    whole.add_middleware(Guard)
    return whole


def _session(request: Request, app: FastAPI) -> Annotator | None:
    """Return who is signed in to a project with this browser. The cookie is read as SessionMiddleware reads it."""
    cookie = request.cookies.get(app.state.cookie, "")
    try:
        signed = TimestampSigner(app.state.secret.hex()).unsign(cookie, max_age=SESSION_DAYS * 24 * 3600)
        session = json.loads(b64decode(signed))
    except (BadSignature, ValueError):
        return None
    return cast(FeedbackStore, app.state.store).session_annotator(str(session.get("id", "")))
