"""Serve the page on which an admin edits the project's settings as TOML, or uploads a file of them."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, UploadFile
from fastapi.responses import Response

from ..settings_file import describe_changes, parse_settings, settings_as_toml
from .auth import Admin, Store
from .pages import FormChecked, render

__all__ = ["pages"]

MAX_SETTINGS = 1_000_000  # characters, and bytes of an uploaded file

pages = APIRouter(prefix="/admin/study")


@pages.get("")
def study_page(request: Request, store: Store, admin: Admin) -> Response:
    """Show the present settings as TOML."""
    return render(request, "study.html", {"text": settings_as_toml(store.settings)})


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
        return render(request, "study.html", {"text": text, "problem": str(error)}, 422)
    changes = describe_changes(before, after)
    if changes:
        store.log(admin.name, "settings", after=[re.sub(r"whsec_[\w+/=]+", "whsec_…", line) for line in changes])
    changes = changes or ["Nothing has changed."]
    return render(request, "study.html", {"text": settings_as_toml(after), "changes": changes})


def _read(file: UploadFile) -> str:
    content = file.file.read(MAX_SETTINGS + 1)
    if len(content) > MAX_SETTINGS:
        raise HTTPException(413, f"{file.filename} is larger than {MAX_SETTINGS:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{file.filename} is no UTF-8 text") from None
