"""Check pictures by their content, and read them from the references that files of items have."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ["MOST_BYTES", "Picture", "read_picture"]

MOST_BYTES = 4 * 2**20  # of a picture
MOST_PIXELS = 40_000_000
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
_LONGEST_NAME = 200
_REFERENCES = ("path", "image", "url", "image_url", "data")  # the keys under which programs write where a picture is


@dataclass(frozen=True)
class Picture:
    """Hold a picture that is one: it was decoded.

    Attributes:
        data: the file's bytes, unchanged.
        name: the file's name, without its folder.
        alt: what it shows, for people who cannot see it.
        message: the message of the prompt to which it belongs. None for the last, or for a prompt without messages.
        type: the MIME type, told by the content and not by the name.
        width: in pixels.
        height: in pixels.

    Raises:
        ValueError: the bytes are no PNG, JPEG, WebP or GIF, or are too many, or are damaged. The message has the name.
    """

    data: bytes = field(repr=False)
    name: str = ""
    alt: str = ""
    message: int | None = None
    type: str = field(init=False)
    width: int = field(init=False)
    height: int = field(init=False)

    def __post_init__(self) -> None:
        kind, (width, height) = _decode(self.data, self.name)
        for name, value in (("type", TYPES[kind]), ("width", width), ("height", height)):
            object.__setattr__(self, name, value)

    @property
    def id(self) -> str:
        """Return the SHA-256 of the bytes, under which the store has them."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def meta(self) -> dict[str, Any]:
        """Return the entry of the item's `meta["images"]`."""
        entry: dict[str, Any] = {"id": self.id, "name": self.name, "width": self.width, "height": self.height}
        more = {"alt": self.alt or None, "message": self.message}
        return entry | {name: value for name, value in more.items() if value is not None}


def read_picture(reference: Any, folder: Path | None, message: int | None = None) -> Picture:
    """Return the picture of a reference.

    Args:
        reference: a path, a data URL, or an object with one of `_REFERENCES`, if wanted with "alt", "name", "message".
        folder: paths are below it. None refuses paths.
        message: the message to which the picture belongs, if the reference does not say.

    Raises:
        ValueError: there is no such picture, or it is none. The message names it.
    """
    given = reference if isinstance(reference, Mapping) else {"path": reference}
    place = next((given[key] for key in _REFERENCES if given.get(key) is not None), None)
    if isinstance(place, Mapping):  # {"type": "image_url", "image_url": {"url": "..."}}
        place = place.get("url")
    if not isinstance(place, str) or not place:
        raise ValueError(f"a picture must be a path or a data URL, got {repr(reference)[:60]}")
    if place.startswith("data:"):
        name, data = str(given.get("name") or "picture"), _from_url(place)
    else:
        name, data = _from_file(place, folder)
    at = given.get("message", message)
    if at is not None and (isinstance(at, bool) or not isinstance(at, int) or at < 0):
        raise ValueError(f"'message' of the picture {name!r} must count the messages from 0, got {at!r}")
    return Picture(data, name[-_LONGEST_NAME:], str(given.get("alt") or ""), at)


def _from_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    if not head.endswith(";base64"):
        raise ValueError(f"the picture {url[:40]!r} is no data URL in base64")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the picture {url[:40]!r} is no base64: {error}") from None


def _from_file(place: str, folder: Path | None) -> tuple[str, bytes]:
    """Return the name and the bytes of a file below a folder. A row must not name other files of this machine."""
    if place.startswith(("http://", "https://", "//")):
        raise ValueError(f"the picture {place[:200]!r} is elsewhere: download it, and write its path")
    if folder is None:
        raise ValueError(f"the picture {place[:200]!r} is a path: give a data URL, for only files can name files")
    name = PurePosixPath(PureWindowsPath(place.removeprefix("file://")).as_posix())
    if "\0" in place:
        raise ValueError(f"the picture {place[:200]!r} is no path")
    path = Path(folder, str(name)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"the picture {place[:200]!r} is not below {folder}: put it beside the file that names it")
    try:
        with path.open("rb") as file:
            return path.name, file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"the picture {place[:200]!r} cannot be read: {error.strerror}") from None


def _decode(data: bytes, name: str) -> tuple[str, tuple[int, int]]:
    """Return the format and the size of a picture, after decoding all of it."""
    from PIL import Image, UnidentifiedImageError

    if len(data) > MOST_BYTES:
        raise ValueError(f"the picture {name!r} has more than {MOST_BYTES / 2**20:g} MiB: make it smaller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata
            with Image.open(io.BytesIO(data), formats=tuple(TYPES)) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise ValueError(f"the picture {name!r} has {width} x {height} pixels: make it smaller")
                image.load()
                return str(image.format), (width, height)
    except UnidentifiedImageError:
        raise ValueError(f"{name!r} is no picture: expected PNG, JPEG, WebP or GIF") from None
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture {name!r} is damaged: {error}") from None
