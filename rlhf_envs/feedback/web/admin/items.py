"""Serve the admin's tables of items and of answers, the page of an item, and the changes that are made there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from ...agreement import LEVELS
from ...kinds import KINDS
from ...store.browsing import (
    ITEM_SORTS,
    ITEM_STATES,
    JUDGEMENT_STATES,
    ItemFilter,
    JudgementFilter,
    browse_items,
    browse_judgements,
    facets,
    matching_ids,
    one_item,
)
from ...store.store import FeedbackStore
from ..auth import Admin, Store
from ..pages import FormChecked, render
from ..responses import problem_text, refusing
from .display import all_in_words, choices, in_words, own_answers, value_of_form

__all__ = ["RowId", "item_filter", "judgement_filter", "pages"]

pages = APIRouter(prefix="/admin")

RowId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Text = Annotated[str, Query(max_length=500)]


async def _fields(request: Request) -> AsyncIterator[FormData]:
    async with request.form() as form:
        yield form


Fields = Annotated[FormData, Depends(_fields)]  # read apart, so that what works on the store runs in a thread
Key = Annotated[str, Query(max_length=100)]
PER_PAGE = 50


def item_filter(
    text: Text = "",
    kind: Text = "",
    source: Annotated[str, Query(max_length=20_000, description="as JSON; empty: any")] = "",
    policy: Annotated[str, Query(max_length=20_000, description="as JSON; empty: any")] = "",
    state: Literal["", *ITEM_STATES] = "",  # type: ignore[valid-type]
    annotator: Text = "",
    differing: bool = False,
    commented: bool = False,
    skipped: bool = False,
    gold: Literal["", "yes", "no"] = "",
    changed: bool = False,
    adjudicated: Literal["", "yes", "no"] = "",
) -> ItemFilter:
    """Read the filter of items from an address, as a dependency."""
    yes = {"": None, "yes": True, "no": False}
    return ItemFilter(
        text=text,
        kind=kind,
        source=_named("source", source),
        policy=_named("policy", policy),
        state=state,
        annotator=annotator,
        differing=differing,
        commented=commented,
        skipped=skipped,
        gold=yes[gold],
        changed=changed,
        adjudicated=yes[adjudicated],
    )


def judgement_filter(
    text: Text = "",
    annotator: Text = "",
    kind: Text = "",
    state: Literal["", *JUDGEMENT_STATES] = "",  # type: ignore[valid-type]
    commented: bool = False,
) -> JudgementFilter:
    """Read the filter of judgements from an address, as a dependency."""
    return JudgementFilter(text=text, annotator=annotator, kind=kind, state=state, commented=commented)


@pages.get("/items")
def items_page(
    request: Request,
    store: Store,
    admin: Admin,
    wanted: Annotated[ItemFilter, Depends(item_filter)],
    sort: Literal[ITEM_SORTS] = "newest",  # type: ignore[valid-type]
    after: Key = "",
    before: Key = "",
    changed_items: int | None = None,
) -> Response:
    """Show a page of items with what became of them."""
    with refusing():
        page = browse_items(store, wanted, sort=sort, after=after or None, before=before or None, limit=PER_PAGE)
    context = {
        "page": page,
        "wanted": wanted,
        "asked": {**_asked(wanted), "sort": sort},
        "sort": sort,
        "sorts": ITEM_SORTS,
        "states": ITEM_STATES,
        "facets": {name: [(json.dumps(v), v) for v in values] for name, values in facets(store).items()},
        "people": [person.name for person in store.annotators()],
        "links": _links(request, {**_asked(wanted), "sort": sort}, page.before, page.after),
        "changed_items": changed_items,
    }
    return render(request, "admin/items.html", context)


@pages.post("/items", dependencies=[FormChecked])
def change_items(request: Request, store: Store, admin: Admin, form: Fields) -> Response:
    """Withdraw items, ask for them again, or change their priority or overlap: those chosen, or all that match."""
    asked = {name: str(form[name]) for name in _FILTER_FIELDS if form.get(name)}
    try:
        wanted = item_filter(**_booleans(asked))
        ids = matching_ids(store, wanted) if form.get("all") else [int(str(i)) for i in form.getlist("id")]
        changed = _change(store, ids, form, admin.name)
    except (ValueError, OverflowError) as error:
        raise HTTPException(422, problem_text(error)) from error
    query = urlencode({**asked, "sort": str(form.get("sort", "newest")), "changed_items": changed})
    return RedirectResponse(f"/admin/items?{query}", 303)


@pages.get("/items/{item_id}")
def item_page(request: Request, store: Store, admin: Admin, item_id: RowId) -> Response:
    """Show an item, all its answers, and what was changed."""
    return _item_page(request, store, item_id)


@pages.post("/judgements/{judgement_id}/{action}", dependencies=[FormChecked])
def change_judgement(
    request: Request,
    store: Store,
    admin: Admin,
    form: Fields,
    judgement_id: RowId,
    action: Literal["fix", "drop", "restore"],
) -> Response:
    """Fix, drop or restore a judgement, with a reason."""
    fields = {name: [str(value) for value in form.getlist(name)] for name in form}
    reason, kind = str(form.get("reason", "")), str(form.get("kind", ""))
    try:
        item_id = int(str(form.get("item_id", "")))
        if action == "fix":
            comment = None if "comment" not in form else str(form["comment"])[:20_000]
            value = value_of_form(kind, fields)
            store.fix_judgement(judgement_id, value, by=admin.name, reason=reason, comment=comment)
        elif action == "drop":
            store.drop_judgement(judgement_id, by=admin.name, reason=reason, reopen=bool(form.get("reopen")))
        else:
            store.restore_judgement(judgement_id, by=admin.name, reason=reason)
    except ValueError as error:
        if not str(form.get("item_id", "")).isdecimal():
            raise HTTPException(422, problem_text(error)) from error
        typed = {"judgement": judgement_id, "action": action, "reason": reason, "fields": fields}
        return _item_page(request, store, int(str(form["item_id"])), 422, problem=problem_text(error), typed=typed)
    return RedirectResponse(f"/admin/items/{item_id}#judgement-{judgement_id}", 303)


@pages.get("/answers")
def answers_page(
    request: Request,
    store: Store,
    admin: Admin,
    wanted: Annotated[JudgementFilter, Depends(judgement_filter)],
    after: Key = "",
    before: Key = "",
) -> Response:
    """Show a page of answers and comments, the newest first."""
    context = answers_context(request, store, wanted, after, before)
    return render(request, "admin/answers.html", context)


def answers_context(
    request: Request, store: FeedbackStore, wanted: JudgementFilter, after: str, before: str
) -> dict[str, Any]:
    """Return what a table of answers needs."""
    with refusing():
        page = browse_judgements(store, wanted, after=after or None, before=before or None, limit=PER_PAGE)
    asked = {name: str(value) for name, value in asdict(wanted).items() if value}
    return {
        "page": page,
        "wanted": wanted,
        "asked": asked,
        "states": JUDGEMENT_STATES,
        "kinds": list(KINDS),
        "people": [person.name for person in store.annotators()],
        "links": _links(request, asked, page.before, page.after),
        "in_words": in_words,
    }


def _item_page(request: Request, store: FeedbackStore, item_id: int, status: int = 200, **more: Any) -> Response:
    try:
        row = one_item(store, item_id)
    except ValueError as error:
        raise HTTPException(404, str(error)) from error
    given = browse_judgements(store, JudgementFilter(item_id=item_id), limit=500)
    settings = store.settings
    context = {
        "row": row,
        "item": row.item,
        "given": given.rows,
        "more": given.total - len(given.rows),
        "final": store.adjudications().get(item_id),
        "audit": store.audit(item_id=item_id, limit=200),
        "choices": choices(row.item.kind, settings),
        "harms": settings.harms,
        "in_words": in_words,
        "own_answers": own_answers,
        "all_in_words": all_in_words,
        "can_differ": row.item.kind in LEVELS,
        "meta": json.dumps(row.item.meta, indent=1, ensure_ascii=True) if row.item.meta else "",
        **more,
    }
    return render(request, "admin/item.html", context, status)


_FILTER_FIELDS = tuple(ItemFilter.__dataclass_fields__)
_FLAGS = ("differing", "commented", "skipped", "changed")


def _booleans(asked: Mapping[str, str]) -> dict[str, Any]:
    return {name: (value == "true" if name in _FLAGS else value) for name, value in asked.items()}


def _asked(wanted: ItemFilter) -> dict[str, str]:
    """Return a filter as the fields of an address, without those that let all through."""
    found = {}
    for name, value in asdict(wanted).items():
        if name in ("source", "policy"):
            if value is not None:
                found[name] = json.dumps(value)
        elif name in ("gold", "adjudicated"):
            if value is not None:
                found[name] = "yes" if value else "no"
        elif value:
            found[name] = "true" if value is True else str(value)
    return found


def _links(request: Request, asked: Mapping[str, str], before: str | None, after: str | None) -> dict[str, str]:
    """Return the addresses of the pages before and after, and of the first."""
    path = request.url.path  # with the path of the project, among several
    links = {"first": f"{path}?{urlencode(asked)}"}
    for name, key in (("before", before), ("after", after)):
        if key is not None:
            links[name] = f"{path}?{urlencode({**asked, name: key})}"
    return links


def _named(name: str, given: str) -> str | None:
    if not given:
        return None
    try:
        value = json.loads(given)
    except ValueError:
        value = None
    if not isinstance(value, str):
        raise HTTPException(422, f'{name}: a text as JSON, such as "my file", got {given[:100]!r}')
    return value


def _change(store: FeedbackStore, ids: list[int], form: FormData, by: str) -> int:
    """Do what a form of the items' table asks. Return how many items were changed."""
    if not ids:
        raise ValueError("no items were chosen: tick some, or all that match")
    action, reason = str(form.get("action", "")), str(form.get("reason", ""))
    if action == "withdraw":
        return store.withdraw_items(ids, by=by, reason=reason)
    if action == "ask again":
        return store.ask_again(ids, by=by, reason=reason)
    if action == "priority":
        return store.set_priority(ids, _number(form, "priority"), by=by, reason=reason)
    if action == "overlap":
        return store.set_overlap(ids, int(_number(form, "overlap")), by=by, reason=reason)
    raise ValueError(f"unknown action {action[:50]!r}: withdraw, ask again, priority or overlap")


def _number(form: FormData, name: str) -> float:
    given = str(form.get(name, ""))
    try:
        return float(given)
    except ValueError:
        raise ValueError(f"{name}: a number, got {given[:50]!r}") from None
