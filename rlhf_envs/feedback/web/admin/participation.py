"""Serve the admin's page about people: what they read, their training, panels, and withdrawals on request."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from ...store.documents import Reading, list_readings
from ...store.panels import list_panelists
from ...store.steps import own_progress
from ...store.store import FeedbackStore
from ...store.training import admit, list_trainees, pool_size
from ...store.withdrawing import list_withdrawals, withdraw_person
from ..auth import Admin, Store
from ..pages import FormChecked, render

__all__ = ["pages", "panel_csv"]

pages = APIRouter(prefix="/admin/participation")
Name = Annotated[str, Form(max_length=200)]


@pages.get("")
def people_page(request: Request, store: Store, admin: Admin) -> Response:
    return _page(request, store)


@pages.post("/admit", dependencies=[FormChecked])
def admit_page(request: Request, store: Store, admin: Admin, name: Name) -> Response:
    try:
        admit(store, name, by=admin.name)
    except ValueError as error:
        return _page(request, store, 422, problem=str(error))
    return RedirectResponse("/admin/participation", 303)


@pages.post("/withdraw", dependencies=[FormChecked])
def withdraw_page(
    request: Request, store: Store, admin: Admin, name: Name, confirm: Annotated[str, Form(max_length=10)] = ""
) -> Response:
    """Withdraw a person on their request. The first click asks whether it is meant."""
    if confirm != "yes":
        return _page(request, store, leaving=name)
    try:
        done = withdraw_person(store, name, by=admin.name)
    except ValueError as error:
        return _page(request, store, 422, problem=str(error))
    return _page(request, store, done=done)


@pages.get("/panel.csv")
def panel_table(store: Store, admin: Admin) -> Response:
    """Download who came from a panel: their identifiers there, and what they did."""
    headers = {"Content-Disposition": 'attachment; filename="panel.csv"'}
    return Response(panel_csv(store)[0].encode(), media_type="text/csv", headers=headers)


def panel_csv(store: FeedbackStore) -> tuple[str, int]:
    """Return (CSV, its rows): a row per person of a panel, with what the panel calls them and what they did."""
    rows = _panel_rows(store)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["annotator"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue(), len(rows)


def _panel_rows(store: FeedbackStore) -> list[dict[str, Any]]:
    people = list_panelists(store)
    names = list(dict.fromkeys(name for person in people for name in person.parameters))
    rows = []
    for person in people:
        progress = own_progress(store, person.annotator)
        rows.append(
            {
                "annotator": person.annotator,
                **{name: person.parameters.get(name, "") for name in names},
                "state": person.state,
                "answers": progress.done,
                "median_seconds": progress.median_seconds,
                "began": person.created.isoformat(timespec="seconds"),
                "ended": person.ended.isoformat(timespec="seconds") if person.ended else "",
            }
        )
    return rows


def _page(request: Request, store: FeedbackStore, status: int = 200, **more: Any) -> Response:
    last: dict[tuple[str, str], Reading] = {(r.annotator, r.name): r for r in list_readings(store)}
    trainees = {trainee.annotator: trainee for trainee in list_trainees(store)}
    panelists = {person.annotator: person for person in list_panelists(store)}
    settings = store.settings
    context = {
        "people": store.annotators(),
        "last": last,
        "trainees": trainees,
        "panelists": panelists,
        "withdrawals": list_withdrawals(store),
        "settings": settings,
        "pool": pool_size(store),
        "link": _panel_link(request, settings.panel.person, settings.panel.parameters),
        **more,
    }
    return render(request, "admin/participation.html", context, status)


def _panel_link(request: Request, person: str, parameters: tuple[str, ...]) -> str:
    """Return the link to give to a panel, with Prolific's gaps."""
    gaps = "&".join(f"{name}={{{{%{name}%}}}}" for name in (person, *parameters))
    return f"{request.app.state.url}/panel?{gaps}" if person else ""
