"""Take the pictures out of rows that trainers read, as TRL's vision datasets have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_envs.datasets.pictures import COLUMN, is_blank

__all__ = ["take_picture"]


def take_picture(row: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return a row without its picture, and the picture: its `image`, or the one of its `images`; None if it has none.

    In messages, the place `{"type": "image"}` before the first text of the user is left out, where a picture stands
    anyhow.

    Raises:
        ValueError: it has several, or they stand elsewhere.
    """
    given = dict(row)
    image, images = given.pop(COLUMN, None), given.pop("images", None)
    if isinstance(images, list):
        if len(images) > 1 or (images and not is_blank(image)):
            raise ValueError(
                f"it has {len(images) + (not is_blank(image))} pictures: the model is shown one with a prompt"
            )
        image = images[0] if images else image
    if is_blank(image):
        return given, None
    first = True
    for name in ("prompt", "chosen", "rejected", "completion"):
        if isinstance(messages := given.get(name), list):
            given[name] = [
                _without_place(message, name, first and i == _first_of_user(messages))
                for i, message in enumerate(messages)
            ]
            first = first and name != "prompt"
    return given, image


def _first_of_user(messages: Sequence[Any]) -> int:
    """Return the place of the first message of the user, -1 if there is none."""
    roles = [message.get("role", message.get("from")) if isinstance(message, Mapping) else None for message in messages]
    return next((i for i, role in enumerate(roles) if role in ("user", "human")), -1)


def _without_place(message: Any, name: str, may_show: bool) -> Any:
    """Return a message without the place of a picture before its text."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    if "image" not in kinds:
        return message
    if not may_show or kinds.index("image") or kinds.count("image") > 1:
        raise ValueError(
            f"{name!r} has a picture in another place than before the text of the user's first message: put it there"
        )
    return {**message, "content": content[1:]}
