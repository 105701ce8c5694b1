"""Take the pictures out of a row, so that what is left is text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...datasets.rows import CONVERSATIONS, SYSTEMS
from ..pictures import Picture, read_picture

__all__ = ["MOST_PICTURES", "take_pictures"]

MOST_PICTURES = 16  # of an item
MOST_BYTES = 10 * 2**20  # of an item's pictures, so that an export of it is a row that can be imported

_PARTS = ("image", "image_url", "input_image")


def take_pictures(row: Mapping[str, Any], folder: Path | None) -> tuple[dict[str, Any], list[Picture]]:
    """Return a row without its pictures, and the pictures.

    They stand in a column "images" (or "image"), or as parts of the content of the prompt's messages. A part that names
    no picture, as TRL writes it, stands for the next one of the column.

    Args:
        row: a row of a file.
        folder: in which paths of pictures are looked up.

    Raises:
        ValueError: a picture is none, or there are too many. The message names it.
    """
    listed = row.get("images") if row.get("images") is not None else row.get("image")
    left = {name: value for name, value in row.items() if name not in ("images", "image")}
    waiting = list(listed) if isinstance(listed, list) else [listed] if listed else []
    pictures: list[Picture] = []
    for name in ("prompt", *CONVERSATIONS):
        if isinstance(left.get(name), list):
            shift = int(any(left.get(system) for system in SYSTEMS) and not _begins_with_system(left[name]))
            left[name] = [_without(one, i + shift, pictures, waiting, folder) for i, one in enumerate(left[name])]
    pictures += [read_picture(reference, folder) for reference in waiting]
    if len(pictures) > MOST_PICTURES:
        raise ValueError(f"an item can have {MOST_PICTURES} pictures, and this has {len(pictures)}")
    if (size := sum(len(picture.data) for picture in pictures)) > MOST_BYTES:
        raise ValueError(f"the pictures of an item can have {MOST_BYTES / 2**20:g} MiB, and these have {size} bytes")
    return left, pictures


def _begins_with_system(messages: list[Any]) -> bool:
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    return first.get("role", first.get("from")) == "system"


def _without(message: Any, index: int, pictures: list[Picture], waiting: list[Any], folder: Path | None) -> Any:
    """Return a message without its pictures, which are added to `pictures`."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    kept = []
    for part in message["content"]:
        if not isinstance(part, dict) or part.get("type") not in _PARTS:
            kept.append(part)
            continue
        if message.get("role", message.get("from")) in ("assistant", "gpt", "model"):
            raise ValueError("a message of the assistant has a picture: only pictures of the prompt can be shown")
        reference: Any = {name: value for name, value in part.items() if name != "type"}
        if not any(value for name, value in reference.items() if name != "alt"):
            if not waiting:
                raise ValueError("a message has a picture without its path or data, and 'images' has no more of them")
            reference = waiting.pop(0)
        pictures.append(read_picture(reference, folder, index))
    return {**message, "content": kept}
