"""Serve the page on which an admin edits the project's settings as TOML, or uploads a file of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, UploadFile
from fastapi.responses import Response

from ...settings_file import changes_for_audit, describe_changes, parse_settings, settings_as_toml
from ...store.store import FeedbackStore
from ...store.training import pool_size
from ..auth import Admin, Store
from ..pages import FormChecked, render

__all__ = ["pages", "remark_on_settings"]

MAX_SETTINGS = 1_000_000  # characters, and bytes of an uploaded file

pages = APIRouter(prefix="/admin/study")


@pages.get("")
def study_page(request: Request, store: Store, admin: Admin) -> Response:
    """Show the present settings as TOML."""
    return render(
        request, "admin/study.html", {"text": settings_as_toml(store.settings), "remarks": remark_on_settings(store)}
    )


@pages.get("/study.toml")
def download(store: Store, admin: Admin) -> Response:
    """Download the present settings as TOML."""
    headers = {"Content-Disposition": 'attachment; filename="study.toml"'}
    return Response(settings_as_toml(store.settings).encode(), media_type="application/toml", headers=headers)


@pages.post("", dependencies=[FormChecked])
def change(
    request: Request,
    store: Store,
    admin: Admin,
    text: Annotated[str, Form(max_length=MAX_SETTINGS)] = "",
    file: UploadFile | None = None,
) -> Response:
    """Take the uploaded file, or else the text of the form. If anything is wrong, show it again with the problem."""
    try:
        if file is not None and file.filename:
            text = _read(file)
        text = text.replace("\r\n", "\n")  # as browsers send the lines of a form
        before = store.settings
        after = store.update_settings(**parse_settings(text))
    except ValueError as error:
        return render(request, "admin/study.html", {"text": text, "problem": str(error)}, 422)
    changes = describe_changes(before, after)
    if changes:
        store.log(admin.name, "settings", after=changes_for_audit(before, after))
    changes = changes or ["Nothing has changed."]
    shown = {"text": settings_as_toml(after), "changes": changes, "remarks": remark_on_settings(store)}
    return render(request, "admin/study.html", shown)


def remark_on_settings(store: FeedbackStore) -> list[str]:
    """Return what the settings of a store do not do yet, or not as one may think, in sentences."""
    settings = store.settings
    remarks = []
    n, pool = settings.training.n_items, pool_size(store) if settings.training.n_items else 0
    if pool < n:
        what = "nobody is trained" if pool == 0 else "it asks these"
        remarks.append(
            f"training.n_items is {n}, but there are {pool} gold questions with an explanation, so {what}: "
            "`rlhf feedback add FILE --gold` adds some"
        )
    marking = [question.name for question in settings.questions if question.type == "spans"]
    if settings.render == "markdown" and marking:
        remarks.append(f"texts that {', '.join(marking)} marks are shown as they are, whatever `render` says")
    panel = settings.panel
    if panel.person and not (panel.completion_code or panel.completion_url):
        remarks.append("panel: without completion_code and completion_url people cannot prove that they are done")
    if settings.explanations != "off":
        remarks.append(
            f"explanations are shown {settings.explanations} the answer: seeing a model's view sways judges, also "
            "where the model is wrong (Chen et al. 2023, https://arxiv.org/abs/2301.07255; Beck et al. 2025, "
            "https://arxiv.org/abs/2509.08514), so answers are marked by whether it was looked at before"
        )
        if not store.explanations(with_marks=False):
            remarks.append("explanations: there are none yet; `rlhf feedback explain FOLDER` stores them")
    if settings.mask_private and store.progress().items:
        remarks.append("mask_private: what came in before it was switched on stays as it was")
    return remarks


def _read(file: UploadFile) -> str:
    content = file.file.read(MAX_SETTINGS + 1)
    if len(content) > MAX_SETTINGS:
        raise HTTPException(413, f"{file.filename} is larger than {MAX_SETTINGS:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{file.filename} is no UTF-8 text") from None
