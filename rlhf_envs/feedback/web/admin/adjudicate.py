"""Serve the page on which somebody gives the final answer to items whose annotators disagree."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ...questions import asked_about
from ...records import Annotator
from ...settings_file import as_plain
from ...store.browsing import ItemFilter, ItemRow, browse_items, one_item
from ...store.store import FeedbackStore
from ..api import AskedRender, SettingsOut
from ..auth import CsrfChecked, SignedIn, Store
from ..differences import mark_differences
from ..pages import render
from ..responses import AsciiJSON, problem_text, problems, refusing
from ..showing import Render, View, view_of_item
from .items import RowId

__all__ = ["api", "may_adjudicate", "pages"]

pages = APIRouter(prefix="/admin")
api = APIRouter(tags=["adjudicate"])

_DIFFER = ItemFilter(differing=True, adjudicated=False, gold=False)


def may_adjudicate(store: FeedbackStore, annotator: Annotator) -> bool:
    """Return whether somebody may give final answers: admins may, and whom the setting `adjudicators` names."""
    return annotator.role == "admin" or annotator.name in store.settings.adjudicators


def _adjudicator(annotator: SignedIn, store: Store) -> Annotator:
    if not may_adjudicate(store, annotator):
        raise HTTPException(403, "only an admin, or somebody chosen for it, may do this")
    return annotator


Adjudicator = Annotated[Annotator, Depends(_adjudicator)]


class SaidOut(BaseModel):
    """Show an annotator's answer. `who` is "Person 1" and so on, unless names were asked for."""

    who: str
    value: dict[str, Any] | None
    answers: dict[str, Any]
    comment: str
    seconds: float


class ItemOut(BaseModel):
    """Show an item that waits for its final answer. `view` says how, and `key` leads to the one after it.

    `questions` are the project's own about the item, and `version` is theirs.
    """

    id: int
    kind: str
    prompt: str
    completions: list[str]
    view: View
    said: list[SaidOut]
    final: dict[str, Any] | None
    final_answers: dict[str, Any]
    questions: list[dict[str, Any]]
    version: int
    wording: str | None
    disagreement: float | None
    key: str | None


class Waiting(BaseModel):
    """Hold the next item, or null if none waits, and how many wait."""

    item: ItemOut | None
    left: int
    settings: SettingsOut


class Final(BaseModel):
    """Hold a final answer: an answer of the item's kind, and `answers` to the project's questions by their names.

    Null `answers` leave those of the annotators standing. `version` is the item's.
    """

    model_config = ConfigDict(extra="forbid")
    value: dict[str, Any]
    comment: str = Field(default="", max_length=20_000)
    answers: dict[str, Any] | None = None
    version: int | None = Field(default=None, ge=1, lt=2**31)


@pages.get("/adjudicate")
def adjudicate_page(request: Request, store: Store, person: Adjudicator) -> Response:
    """Show the page. The browser takes the items."""
    context = {"role": person.role, "name": person.name}
    return render(request, "admin/adjudicate.html", context)


@api.get("/next", response_model=Waiting, responses=problems(401, 403, 404))
def next_item(
    store: Store,
    person: Adjudicator,
    item: Annotated[int, Query(ge=1, le=2**31 - 1)] | None = None,
    after: Annotated[str, Query(max_length=100, pattern=r"^$|^[\d.e+-]+:\d{1,10}$")] = "",
    names: bool = False,
    render: AskedRender = None,
) -> Response:
    """Return the item of an id, or that whose annotators disagree most. Names are told to admins only."""
    key = None
    try:
        page = browse_items(store, _DIFFER, sort="disagreement", after=after or None, limit=1)
        if item is not None:
            row: ItemRow | None = one_item(store, item)
        else:
            row, key = (page.rows[0], page.after) if page.rows else (None, None)
    except ValueError as error:
        raise HTTPException(404 if item is not None else 422, problem_text(error)) from error
    settings = store.settings
    shown = None if row is None else _item(store, row, key, names and person.role == "admin", render or settings.render)
    out = {name: getattr(settings, name) for name in SettingsOut.model_fields}
    return AsciiJSON({"item": shown, "left": page.total, "settings": out})


@api.get("/{item_id}/view", response_model=View, responses=problems(401, 403, 404))
def view(
    item_id: RowId, store: Store, person: Adjudicator, render: AskedRender = None, differences: bool = False
) -> Response:
    """Return how an item is shown. With `differences`, two completions mark the words in which they differ."""
    with refusing(404):
        item = one_item(store, item_id).item
    shown = view_of_item(item, render or store.settings.render)
    if differences:
        mark_differences(shown, list(item.completions))
    return AsciiJSON(shown.model_dump())


@api.post("/{item_id}", status_code=204, dependencies=[CsrfChecked], responses=problems(401, 403))
def give(item_id: RowId, final: Final, store: Store, person: Adjudicator) -> Response:
    """Give the final answer to an item. An earlier one is replaced, and the audit keeps it."""
    with refusing():
        store.adjudicate(item_id, by=person.name, **final.model_dump())
    return Response(status_code=204)


def _item(store: FeedbackStore, row: ItemRow, key: str | None, names: bool, render: Render) -> dict[str, Any]:
    item = row.item
    version, settings = store.asked()
    given = store.judgements(item_ids=[item.id], include_skips=True)
    final = store.adjudications().get(item.id)
    return {
        "id": item.id,
        "kind": item.kind,
        "prompt": item.prompt,
        "completions": list(item.completions),
        "view": view_of_item(item, render).model_dump(),
        "said": [
            {
                "who": judgement.annotator if names else f"Person {number}",
                "value": judgement.value,
                "answers": judgement.answers,
                "comment": judgement.comment,
                "seconds": judgement.seconds,
            }
            for number, judgement in enumerate(given, start=1)
        ],
        "final": None if final is None else final.value,
        "final_answers": {} if final is None else final.answers,
        "questions": as_plain(asked_about(settings.questions, item.kind, len(item.completions))),
        "version": version,
        "wording": settings.wording.get(item.kind),
        "disagreement": row.disagreement,
        "key": key,
    }
