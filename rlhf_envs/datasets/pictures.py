"""Read the pictures of data: files, bytes, data URIs and PIL images, of any size, mode and format that Pillow opens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["COLUMN", "as_data_uri", "check_picture", "is_blank", "open_picture", "picture_key"]

COLUMN = "image"  # of rows, as in `datasets`
_URI = "data:image/"


def is_blank(image: Any) -> bool:
    """Return whether a row has no picture: None, or the empty cell of a table."""
    return image is None or (isinstance(image, str) and not image.strip())


def picture_key(image: Any) -> str:
    """Return what equal pictures share: the hash of the bytes, of the pixels of a PIL image, or of the path."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str | Path):
        content = str(image).encode("utf-8", "surrogatepass")
    elif isinstance(image, bytes | bytearray):
        content = bytes(image)
    elif hasattr(image, "tobytes"):
        content = repr((image.mode, image.size)).encode() + image.tobytes()
    else:
        content = repr(image).encode("utf-8", "surrogatepass")
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def as_data_uri(content: bytes, kind: str = "png") -> str:
    """Return a picture's file as a text that `open_picture` reads, for data in JSON."""
    return f"{_URI}{kind};base64,{base64.b64encode(content).decode('ascii')}"


def check_picture(image: Any, where: str) -> None:
    """Check that a picture is there and that Pillow knows its format, without reading its pixels.

    Raises:
        ValueError: as `open_picture`.
    """
    from PIL import Image

    source = _source(image, where)
    if not isinstance(source, Image.Image):
        with _clear_errors(image, where), Image.open(source):
            pass


def open_picture(image: Any, where: str) -> Image:
    """Return a picture as RGB, `(width, height)` as it is. Transparent parts become white; EXIF's rotation is applied.

    Args:
        image: a path, "data:image/...;base64,...", the bytes of a file, `datasets`' `{"bytes", "path"}`, or a PIL
            image.
        where: the place of the row, for messages.

    Raises:
        ValueError: it is none of these, there is no such file, or Pillow does not read it. The message has the place.
    """
    from PIL import Image, ImageOps

    source = _source(image, where)
    with _clear_errors(image, where):
        opened = source if isinstance(source, Image.Image) else Image.open(source)
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I;16"):  # PIL would cut 16 bits off at 255
            picture = picture.convert("I").point(lambda value: value / 256).convert("L")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")


@contextmanager
def _clear_errors(image: Any, where: str) -> Iterator[None]:
    """Turn what Pillow raises into a ValueError that names the row. What may fill the memory is an error too."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{where}: the image {_shown(image)} cannot be read ({error}): give a picture that Pillow opens, such as "
            "PNG or JPEG"
        ) from error


def _source(image: Any, where: str) -> Any:
    """Return what Pillow opens for the value of a row's column: a path, bytes as a file, or a PIL image."""
    from PIL import Image

    if isinstance(image, Mapping):
        content, path = image.get("bytes"), image.get("path")
        image = content if content is not None else path
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, bytes | bytearray):
        return io.BytesIO(bytes(image))
    if isinstance(image, str) and image.startswith(_URI):
        try:
            return io.BytesIO(base64.b64decode(image.partition(",")[2], validate=True))
        except binascii.Error as error:
            raise ValueError(
                f"{where}: the image {_shown(image)} is no base64 ({error}): encode the file again"
            ) from error
    if isinstance(image, str | Path) and str(image).strip():
        if not Path(image).is_file():
            there = "" if Path(image).is_absolute() else f" in {Path.cwd()}"
            raise ValueError(f"{where}: the image {_shown(image)} is no file{there}: give its path, or its bytes")
        return Path(image)
    raise ValueError(f"{where}: 'image' is {_shown(image)}: give a path, a data URI, bytes, or a PIL image")


def _shown(image: Any) -> str:
    """Return a value of the column in short, for messages."""
    text = f"<{len(image)} bytes>" if isinstance(image, bytes | bytearray) else repr(image)
    return text if len(text) <= 60 else f"{text[:57]}..."
