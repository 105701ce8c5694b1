"""Serve what people see around their work: consent, guidelines, screening, the end, and the link of a panel."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Path, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData

from ..records import NoSuchAnnotator
from ..store.documents import current_document, list_readings, note_reading
from ..store.panels import answer_screening, enter_panel, return_address
from ..store.steps import close_part, next_step
from ..store.training import list_trainees
from .auth import CsrfChecked, SignedIn, Store, end_session, gate_of
from .documents import nodes_of
from .pages import FormChecked, render
from .responses import AsciiJSON, problems
from .words import Refusal

__all__ = ["api", "pages"]

pages = APIRouter()
api = APIRouter(tags=["people"])

Name = Annotated[str, Path(pattern="^(consent|guidelines)$")]
Digest = Annotated[str, Form(max_length=64)]


class DocumentOut(BaseModel):
    """Hold the guidelines or the consent: `text` in Markdown, and as `nodes`, `[tag, attributes, ...children]`."""

    name: str
    version: int
    digest: str
    text: str
    nodes: list[Any]


class Read(BaseModel):
    """Say which text was read or agreed to, by the `digest` of the document."""

    model_config = ConfigDict(extra="forbid")
    digest: str = Field(max_length=64)


@api.get("/documents/{name}", response_model=DocumentOut, responses=problems(401, 404))
def document(name: Name, store: Store, annotator: SignedIn) -> Response:
    """Return the guidelines or the consent as they are now."""
    found = current_document(store, name)
    if found is None:
        raise HTTPException(404, f"there is no text of the {name} yet")
    return AsciiJSON({**found.__dict__, "nodes": nodes_of(found.text)})


@api.post("/documents/{name}", status_code=204, dependencies=[CsrfChecked], responses=problems(401, 403, 409))
def read(name: Name, what: Read, store: Store, annotator: SignedIn) -> Response:
    """Say that you have read the guidelines, or that you agree to the consent."""
    if not note_reading(store, annotator.name, name, what.digest):
        raise Refusal(409, "text_changed")
    return Response(status_code=204)


@pages.get("/consent")
def consent(request: Request, store: Store, annotator: SignedIn) -> Response:
    return _document_page(request, store, annotator.name, "consent")


@pages.get("/guidelines")
def guidelines(request: Request, store: Store, annotator: SignedIn) -> Response:
    return _document_page(request, store, annotator.name, "guidelines")


@pages.post("/consent", dependencies=[FormChecked])
def agree(
    request: Request, store: Store, annotator: SignedIn, digest: Digest = "", choice: Annotated[str, Form()] = ""
) -> Response:
    if choice != "agree":
        end_session(request, store)
        return render(request, "goodbye.html", {"which": "declined"})
    return _read(request, store, annotator.name, "consent", digest)


@pages.post("/guidelines", dependencies=[FormChecked])
def read_guidelines(request: Request, store: Store, annotator: SignedIn, digest: Digest = "") -> Response:
    return _read(request, store, annotator.name, "guidelines", digest)


def _read(request: Request, store: Store, name: str, which: str, digest: str) -> Response:
    if not note_reading(store, name, which, digest):
        return _document_page(request, store, name, which, has_changed=True)
    return RedirectResponse("/annotate", 303)


def _document_page(request: Request, store: Store, name: str, which: str, *, has_changed: bool = False) -> Response:
    """Show a text that is due. Whoever has read it goes on."""
    found = current_document(store, which)
    if found is None or next_step(store, name) != which:
        return RedirectResponse("/annotate", 303)
    read_before = any(reading.name == which for reading in list_readings(store, name))
    context = {"document": found, "has_changed": has_changed, "read_before": read_before}
    return render(request, "document.html", context, 409 if has_changed else 200)


@pages.get("/screening")
def screening(request: Request, store: Store, annotator: SignedIn) -> Response:
    if next_step(store, annotator.name) != "screening":
        return RedirectResponse("/annotate", 303)
    return render(request, "screening.html", {"questions": store.settings.panel.screening})


@pages.post("/screening", dependencies=[FormChecked])
async def screened(request: Request, store: Store, annotator: SignedIn) -> Response:
    form: FormData = await request.form()
    questions = store.settings.panel.screening
    answers = [str(form.get(f"question-{i}", ""))[:1000] for i in range(len(questions))]
    try:
        answer_screening(store, annotator.name, answers)
    except NoSuchAnnotator:
        raise
    except ValueError:
        return render(request, "screening.html", {"questions": questions, "answers": answers, "incomplete": True}, 422)
    return RedirectResponse("/annotate", 303)


@pages.get("/held")
def held(request: Request, store: Store, annotator: SignedIn) -> Response:
    """Tell kindly that the training was not passed."""
    if next_step(store, annotator.name) != "held":
        return RedirectResponse("/annotate", 303)
    trainee = next(trainee for trainee in list_trainees(store) if trainee.annotator == annotator.name)
    needed = -(-trainee.done * round(store.settings.training.pass_mark * 1000) // 1000)
    return render(request, "held.html", {"trainee": trainee, "needed": needed})


@pages.get("/finished")
def finished(request: Request, store: Store, annotator: SignedIn) -> Response:
    """End the part of a person who came from a panel, and give them the code or the link for it."""
    person = close_part(store, annotator.name)
    if person is None:
        return RedirectResponse("/annotate", 303)
    code, url = return_address(store.settings, person)
    return render(request, "finished.html", {"person": person, "code": code, "url": url})


@pages.get("/panel")
def panel(request: Request, store: Store) -> Response:
    """Take in whoever comes by the link of a panel. The same link again goes on where they were."""
    gate = gate_of(request)
    gate.admit_panelist(request)
    try:
        account = enter_panel(store, dict(request.query_params))
    except LookupError:
        raise Refusal(404, "panel_off") from None
    except PermissionError:
        raise Refusal(403, "panel_closed") from None
    except ValueError as error:
        raise Refusal(422, "panel_link_bad", reason=error) from None
    gate.begin_panelist_session(request, account.name)
    return RedirectResponse("/annotate", 303)  # so that the identifiers leave the address bar
