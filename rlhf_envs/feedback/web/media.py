"""Serve the pictures of items to people who are signed in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path
from fastapi.responses import Response

from .auth import SignedIn, Store

__all__ = ["router"]

router = APIRouter()


@router.get("/media/{id}")
def picture(id: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], store: Store, annotator: SignedIn) -> Response:
    """Return a picture. Its address is made of its content, so that the browser may keep it."""
    found = store.picture(id)
    if found is None:
        raise HTTPException(404, "there is no such picture")
    kind, data = found
    headers = {"content-disposition": "inline", "cache-control": "private, max-age=31536000, immutable"}
    return Response(data, media_type=kind, headers=headers)
