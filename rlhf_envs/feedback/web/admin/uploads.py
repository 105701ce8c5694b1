"""Let admins add items by uploading a file: first a preview that changes nothing, then the import."""

from __future__ import annotations

import gzip
import re
import secrets
import shutil
import tempfile
import threading
import time
import weakref
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from starlette.datastructures import FormData, UploadFile

from ...formats.importing import FORMATS, Import, import_file
from ...formats.rehearsing import Trial, try_import
from ...kinds import KINDS
from ...records import StoreError
from ...store.store import FeedbackStore
from ..auth import Admin, Store, csrf_matches
from ..pages import render
from ..responses import problem_text

__all__ = ["MAX_UPLOAD", "Uploads", "pages"]

MAX_UPLOAD = 64 * 2**20  # bytes of an uploaded file, and of what a .gz unpacks to: its rows are kept in memory
_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
_KEPT_SECONDS, _MOST_KEPT = 3600, 10
_SHOWN_BAD, _SHOWN_NEW = 50, 5

pages = APIRouter(prefix="/admin/upload")


@dataclass
class _Upload:
    path: Path
    name: str
    owner: str
    options: dict[str, Any]
    at: float = field(default_factory=time.monotonic)

    @property
    def quarantine(self) -> Path:
        return self.path.with_name(f"{self.path.name}.quarantine.jsonl")


class Uploads:
    """Keep uploaded files between their preview and their import: an hour, and the last ten, readable by us alone."""

    def __init__(self) -> None:
        self._kept: dict[str, _Upload] = {}
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def keep(self, file: UploadFile, owner: str, options: dict[str, Any]) -> str:
        """Write a file down and return its token.

        Raises:
            ValueError: the name has none of the extensions that can be read, or the file is too large.
        """
        name = Path((file.filename or "").replace("\\", "/")).name
        if not name.removesuffix(".gz").endswith(_SUFFIXES):
            raise ValueError(
                f"{name or 'no file'!r}: choose a file that ends in {', '.join(_SUFFIXES)}, or these with .gz"
            )
        token = secrets.token_hex(16)
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="rlhf-uploads-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            self._forget_old()
            folder = self._folder / token
        folder.mkdir()
        upload = _Upload(folder / name[-100:], name, owner, options)
        with upload.path.open("xb") as target:
            shutil.copyfileobj(file.file, target)
        if name.endswith(".gz") and _unpacks_to_more(upload.path, MAX_UPLOAD):
            shutil.rmtree(folder)
            raise ValueError(
                f"{name} unpacks to more than {MAX_UPLOAD // 2**20} MB, which is all that an upload may have: cut it "
                "into parts, or import it on the server with `rlhf feedback import`"
            )
        with self._lock:
            self._kept[token] = upload
        return token

    def get(self, token: str, owner: str) -> _Upload:
        """Return an upload. Raise a 404 if it is not kept any more, or somebody else's."""
        with self._lock:
            self._forget_old()
            upload = self._kept.get(token)
        if upload is None or upload.owner != owner:
            raise HTTPException(404, "this upload is not kept any more: choose the file again")
        return upload

    def without_places(self, text: str) -> str:
        """Return a message without the folder in which uploads are kept, which is none of its reader's business."""
        return re.sub(re.escape(f"{self._folder}/") + "[0-9a-f]+/", "", text)

    def _forget_old(self) -> None:
        now = time.monotonic()
        for place, (token, upload) in enumerate(reversed(list(self._kept.items()))):
            if now - upload.at > _KEPT_SECONDS or place >= _MOST_KEPT:
                del self._kept[token]
                shutil.rmtree(upload.path.parent, ignore_errors=True)


async def _form(request: Request, admin: Admin) -> AsyncIterator[FormData]:
    """Read the form, of an admin only, so that nobody else can have a large file written."""
    async with request.form(max_files=1, max_fields=40) as form:
        yield form


Fields = Annotated[FormData, Depends(_form)]


@pages.get("")
def upload_page(request: Request, admin: Admin) -> Response:
    """Show the form."""
    return _page(request)


@pages.post("")
def preview_or_import(request: Request, store: Store, admin: Admin, form: Fields) -> Response:
    """Show what a file would add, or add what was previewed."""
    if not csrf_matches(request, str(form.get("csrf", ""))):
        raise HTTPException(403, "this form is out of date: go back, reload the page and try again")
    uploads = cast(Uploads, request.app.state.uploads)
    typed = {name: str(value) for name, value in form.items() if isinstance(value, str)}
    try:
        if token := typed.get("token"):
            return _import(request, store, uploads.get(token, admin.name), token)
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ValueError("choose a file")
        options = _options(typed)
        token = uploads.keep(file, admin.name, options)
        upload = uploads.get(token, admin.name)
        trial = try_import(store, upload.path, quarantine=upload.quarantine, **options)
    except (ValueError, OSError) as error:
        if isinstance(error, StoreError):
            raise
        return _page(request, 422, problem=uploads.without_places(problem_text(error)), typed=typed)
    return _page(request, trial=trial, token=token, typed=typed, **_shown(uploads, upload, trial.report, trial))


@pages.get("/{token}/quarantine")
def quarantine(request: Request, admin: Admin, token: str) -> Response:
    """Download the rows that are not taken, each with its place and the reason."""
    upload = cast(Uploads, request.app.state.uploads).get(token, admin.name)
    if not upload.quarantine.exists():
        raise HTTPException(404, "every row was taken")
    text = cast(Uploads, request.app.state.uploads).without_places(upload.quarantine.read_text())
    headers = {"Content-Disposition": 'attachment; filename="quarantine.jsonl"'}
    return Response(text, media_type="application/octet-stream", headers=headers)


def _import(request: Request, store: FeedbackStore, upload: _Upload, token: str) -> Response:
    done = import_file(store, upload.path, quarantine=upload.quarantine, **upload.options)
    store.log(upload.owner, "upload", after=done.in_audit(upload.name))
    return _page(request, done=done, token=token, typed={}, **_shown(request.app.state.uploads, upload, done, None))


def _shown(uploads: Uploads, upload: _Upload, report: Import, trial: Trial | None) -> dict[str, Any]:
    words = ("duplicate", "contradiction")
    reasons = Counter(next((w for w in words if row.reason.startswith(w)), "cannot be used") for row in report.bad)
    return {
        "file": upload.name,
        "report": report,
        "bad": [
            (uploads.without_places(row.where), uploads.without_places(row.reason)) for row in report.bad[:_SHOWN_BAD]
        ],
        "reasons": reasons,
        "new": [] if trial is None else trial.items[:_SHOWN_NEW],
        "people": [] if trial is None else trial.people,
        "kinds": Counter() if trial is None else Counter(item.kind for item in trial.items),
    }


def _options(typed: dict[str, str]) -> dict[str, Any]:
    """Return the arguments of `import_file` that a form holds.

    Raises:
        ValueError: the overlap is no number from 1 to 1,000, or a column is not written as ours:theirs.
    """
    overlap = typed.get("overlap") or "1"
    if not overlap.isdecimal() or not 1 <= int(overlap) <= 1000:
        raise ValueError(f"overlap: a whole number from 1 to 1000, got {overlap[:20]!r}")
    columns = {}
    for pair in typed.get("columns", "").split():
        ours, colon, theirs = pair.partition(":")
        if not (ours and colon and theirs):
            raise ValueError(f"columns: write ours:theirs, such as prompt:instruction, got {pair[:60]!r}")
        columns[ours] = theirs
    return {
        "format": typed.get("format") or "auto",
        "kind": typed.get("kind") or None,
        "question": typed.get("question") or None,
        "annotator": typed.get("annotator") or "import",
        "overlap": int(overlap),
        "gold": "gold" in typed,
        "columns": columns,
    }


def _page(request: Request, status: int = 200, **more: Any) -> Response:
    context = {
        "formats": ("auto", *FORMATS),
        "kinds_known": list(KINDS),
        "most": MAX_UPLOAD // 2**20,
        "typed": {},
        **more,
    }
    return render(request, "admin/upload.html", context, status)


def _unpacks_to_more(path: Path, most: int) -> bool:
    """Return whether a .gz unpacks to more than so many bytes. A damaged one is left to the reader's message."""
    read = 0
    try:
        with gzip.open(path) as unpacked:
            while part := unpacked.read(2**20):
                read += len(part)
                if read > most:
                    return True
    except (OSError, EOFError, zlib.error):
        pass
    return False
