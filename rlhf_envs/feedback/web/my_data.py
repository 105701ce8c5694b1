"""Serve the page on which people see what is kept about them, download their answers, and withdraw."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from ..records import NoSuchAnnotator
from ..store.documents import list_readings
from ..store.panels import panelist
from ..store.steps import own_progress
from ..store.store import FeedbackStore
from ..store.withdrawing import answers_of, withdraw_person
from .auth import SignedIn, Store, end_session
from .pages import FormChecked, render
from .responses import AsciiJSON

__all__ = ["pages"]

pages = APIRouter(prefix="/me")


@pages.get("")
def me(request: Request, store: Store, annotator: SignedIn) -> Response:
    return _page(request, store, annotator.name)


@pages.get("/answers.json")
def answers(store: Store, annotator: SignedIn) -> Response:
    """Download everything that a person answered, and what else is kept about them."""
    person = panelist(store, annotator.name)
    readings = list_readings(store, annotator.name)
    everything = {
        "name": annotator.name,
        "since": annotator.created.isoformat(),
        "panel": None if person is None else {"parameters": person.parameters, "screening": person.screening},
        "read": [{"name": r.name, "version": r.version, "created": r.created.isoformat()} for r in readings],
        "answers": answers_of(store, annotator.name),
    }
    return AsciiJSON(everything, headers={"Content-Disposition": 'attachment; filename="my-answers.json"'})


@pages.post("/withdraw", dependencies=[FormChecked])
def withdraw(
    request: Request, store: Store, annotator: SignedIn, confirm: Annotated[str, Form(max_length=10)] = ""
) -> Response:
    if confirm != "yes":
        return _page(request, store, annotator.name, problem="withdraw_unconfirmed")
    try:
        withdraw_person(store, annotator.name)
    except NoSuchAnnotator:  # two clicks: the first has ended the session
        raise
    except ValueError:  # this is the only admin
        return _page(request, store, annotator.name, problem="withdraw_only_admin")
    end_session(request, store)
    return render(request, "goodbye.html", {"which": "withdrawn"})


def _page(request: Request, store: FeedbackStore, name: str, problem: str = "") -> Response:
    person = next((annotator for annotator in store.annotators() if annotator.name == name), None)
    if person is None:
        raise NoSuchAnnotator(f"there is no annotator {name!r}")
    context = {
        "person": person,
        "done": own_progress(store, name).done,
        "readings": list_readings(store, name),
        "panelist": panelist(store, name),
        "masks": store.settings.mask_private,
        "labels": store.settings.consent.withdrawn_labels,
        "problem": problem,
    }
    return render(request, "me.html", context, 422 if problem else 200)
