"""Every route of the app: what changes something wants the CSRF token, and what is the admin's refuses all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.auth import COOKIE

FILLED = {
    "token": "x" * 20,
    "name": "guidelines",
    "id": "0" * 64,
    "item_id": "1",
    "judgement_id": "1",
    "person_id": "1",
    "task_id": "1",
    "attempt": "1",
}
ACTIONS = {"/admin/judgements/{judgement_id}/{action}": "drop", "/admin/people/{person_id}/{action}": "off"}
ADMINS = ("/admin", "/api/admin", "/api/adjudication")
# Without an account: the door, the link of a panel, what a page needs to be shown, and the API's description.
OPEN: tuple[str, ...] = (
    "/favicon.ico",
    "/language",
    "/theme",
    "/login",
    "/logout",
    "/invite/{token}",
    "/panel",
    "/api/login",
)
OPEN += ("/api/openapi.json", "/static")
Route = tuple[str, str, str]  # method, template of the path, path


def routes_of(app: FastAPI) -> Iterator[Route]:
    """Every method of every route, with a path that it takes."""
    for route in app.routes:
        nested: Any = getattr(route, "effective_route_contexts", lambda route=route: [route])
        for one in nested():  # FastAPI keeps included routers whole
            path = str(one.path)
            for name, value in {**FILLED, "action": ACTIONS.get(one.path, "")}.items():
                path = path.replace(f"{{{name}}}", value)
            assert "{" not in path, "a new name in a path: give it a value in FILLED"
            for method in sorted(set(one.methods or {"GET"}) - {"HEAD"}) if hasattr(one, "methods") else ["GET"]:
                yield method, one.path, path


@pytest.fixture
def admin(sign_in: Callable[..., TestClient], store: FeedbackStore) -> TestClient:
    """An admin, in a project with an item, whose answer is there."""
    store.add_items([NewItem("rating", "p", ("c",), overlap=2)])
    client = sign_in("root", "admin")
    task = store.claim("root")
    assert task is not None
    store.submit(task.id, "root", {"rating": 3}, key="the answer")
    return client


def test_the_walk_sees_the_routes(app: FastAPI) -> None:
    routes = list(routes_of(app))
    assert len(routes) > 70
    assert ("POST", "/api/tasks/{task_id}/judgement", "/api/tasks/1/judgement") in routes
    assert ("POST", "/admin/people/{person_id}/{action}", "/admin/people/1/off") in routes
    assert {route[1] for route in routes} >= set(OPEN)


@pytest.mark.parametrize("token", ["", "of another session"])
def test_what_changes_something_wants_the_csrf_token(
    app: FastAPI, admin: TestClient, store: FeedbackStore, token: str
) -> None:
    admin.headers["X-CSRF-Token"] = token
    before = (store.settings, store.annotators(), store.judgements(include_skips=True), store.items())
    changing = [route for route in routes_of(app) if route[0] != "GET" and route[1] != "/api/login"]
    assert len(changing) > 30
    for method, template, path in changing:
        form = None if path.startswith("/api/") else {"csrf": token}
        answer = admin.request(method, path, data=form)
        assert answer.status_code == 403, (method, template, answer.status_code, answer.text[:200])
    assert before == (store.settings, store.annotators(), store.judgements(include_skips=True), store.items())
    assert store.audit() == []
    assert admin.get("/api/session").status_code == 200  # nobody was signed out either


def test_what_is_the_admins_refuses_annotators(
    app: FastAPI, admin: TestClient, sign_in: Callable[..., TestClient], store: FeedbackStore
) -> None:
    client = sign_in("ada")
    routes = [route for route in routes_of(app) if route[1].startswith(ADMINS)]
    assert len(routes) > 30
    for method, template, path in routes:
        form = {"csrf": client.headers["X-CSRF-Token"]} if method == "POST" and path[:5] != "/api/" else None
        answer = client.request(method, path, data=form)
        assert answer.status_code == 403, (method, template, answer.status_code, answer.text[:200])
    assert store.audit() == []


def test_without_an_account_only_the_door_is_open(app: FastAPI, visitor: Callable[[], TestClient]) -> None:
    client = visitor()
    for method, template, path in routes_of(app):
        if template in OPEN:
            continue
        answer = client.request(method, path)
        closed = answer.status_code in (401, 403) or answer.headers.get("location") == "/login"
        assert closed, (method, template, answer.status_code)


def test_the_session_of_another_project_is_worth_nothing(app: FastAPI, admin: TestClient, tmp_path: Path) -> None:
    """Also where both projects sign cookies with one secret, and both have an account of that name."""
    with FeedbackStore(tmp_path / "other.db") as other:
        other.add_annotator("root", "admin")
        there = create_app(other, secret=app.state.secret)
        with TestClient(there, follow_redirects=False) as client:
            client.cookies.set(COOKIE, admin.cookies[COOKIE])
            client.headers["X-CSRF-Token"] = admin.headers["X-CSRF-Token"]
            for method, template, path in routes_of(there):
                if template not in (*OPEN, "/api/logout"):  # whoever is signed out already may sign out
                    form = {"csrf": admin.headers["X-CSRF-Token"]} if method == "POST" else None
                    answer = client.request(method, path, data=form)
                    closed = answer.status_code == 401 or answer.headers.get("location") == "/login"
                    assert closed, (method, template, answer.status_code)
