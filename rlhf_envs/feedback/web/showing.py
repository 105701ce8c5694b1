"""Say how the texts of an item are shown: a conversation as turns, pictures, and what is rendered as Markdown."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from ..records import Annotator, Assignment, Item
from .markdown import LONGEST, SECONDS, render_markdown

__all__ = ["Picture", "Render", "Turn", "View", "view_of", "view_of_item"]

Render = Literal["plain", "markdown"]

# (characters, seconds of computing) for one item: before it is shown, and when the page asks for the rest.
_URGENT = (20_000, 0.1)
_PATIENT = (2_000_000, 4.0)

_ROLES = {"human": "user", "user": "user", "assistant": "assistant", "ai": "assistant", "system": "system"}
_LINE = re.compile(r"(?:\A|\n\n)(Human|User|Assistant|System): ?")


class Picture(BaseModel):
    """Show a picture of the item."""

    id: str
    name: str
    alt: str
    width: int
    height: int


class Turn(BaseModel):
    """Show a text.

    `role` is "" where there is no conversation. A `text` of null is the prompt's or the completion's own. `nodes` is
    the rendered text. Without it the text is shown as it is, and `why` says the reason: "later" (ask for the task's
    view), "long", "slow" or "characters". Beside nodes, "parts" says that they lack a part of the text.
    """

    role: str = ""
    text: str | None = None
    nodes: list[Any] | None = None
    why: str = ""
    pictures: list[Picture] = []


class View(BaseModel):
    """Show the prompt and the completions, in the order in which to show them, each in one turn or several."""

    render: Render
    prompt: list[Turn]
    completions: list[list[Turn]]


def view_of(assignment: Assignment, render: Render, urgent: bool = True) -> View:
    """Return how an item is shown.

    Args:
        assignment: has the item, and the order of its completions.
        render: "markdown" renders texts, "plain" shows them as they are.
        urgent: render no more than takes a moment, and leave the rest for later: the completions come first, then the
            prompt from its end.
    """
    item = assignment.item
    view = View(
        render=render,
        prompt=_with_pictures(_prompt(item), item, "message"),
        completions=[_with_pictures(_completion(item, index), item, "completion", index) for index in assignment.sides],
    )
    if render == "markdown":
        _render(view, item, assignment.sides, urgent)
    return view


def view_of_item(item: Item, render: Render) -> View:
    """Return how an item is shown to those who look after it: all of it, its completions in the item's order."""
    sides, ever = tuple(range(len(item.completions))), datetime.max.replace(tzinfo=UTC)
    nobody = Annotator(0, "", "admin", item.created)
    return view_of(Assignment(item.id, item, nobody, sides, ever), render, urgent=False)


def _render(view: View, item: Item, sides: Sequence[int], urgent: bool) -> None:
    """Render the turns of a view, in the order of their importance, until the characters or the time are used up."""
    characters, seconds = _URGENT if urgent else _PATIENT
    end = time.thread_time() + seconds
    turns = [(one, item.completions[side]) for side, own in zip(sides, view.completions, strict=True) for one in own]
    for turn, own in [*turns, *((one, item.prompt) for one in reversed(view.prompt))]:
        text = own if turn.text is None else turn.text
        characters -= len(text)
        left = end - time.thread_time()
        if len(text) > LONGEST:
            turn.why = "long"
        elif characters < 0 or left <= 0:
            turn.why = "later" if urgent else "slow"
        else:
            turn.nodes, turn.why = render_markdown(text, min(left, SECONDS))
            if urgent and turn.why == "slow":
                turn.why = "later"


def _prompt(item: Item) -> list[Turn]:
    return as_turns(item.meta.get("messages")) or _in_role_lines(item.prompt) or [Turn()]


def _completion(item: Item, index: int) -> list[Turn]:
    kept = item.meta.get("turns")
    turns = kept[index] if isinstance(kept, list) and len(kept) == len(item.completions) else None
    return as_turns(turns) or [Turn()]


def as_turns(messages: Any) -> list[Turn]:
    """Return messages as turns; none if they are no messages of texts."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return []
    if not all(isinstance(one, Mapping) and isinstance(one.get("content"), str) for one in messages):
        return []
    return [Turn(role=str(one.get("role", "")), text=one["content"]) for one in messages]


def _in_role_lines(prompt: str) -> list[Turn]:
    """Return the turns of a conversation in lines of roles, which end with "Assistant:"; none for other texts."""
    body = prompt.removesuffix("\n\nAssistant:")
    begins = list(_LINE.finditer(body))
    if body == prompt or not begins or begins[0].start() != 0:
        return []
    ends = [*(begin.start() for begin in begins[1:]), len(body)]
    return [
        Turn(role=_ROLES[begin[1].lower()], text=body[begin.end() : end])
        for begin, end in zip(begins, ends, strict=True)
    ]


def _with_pictures(turns: list[Turn], item: Item, place: str, index: int | None = None) -> list[Turn]:
    """Put each picture of the item into its turn: of a prompt the named message or else the last."""
    images = item.meta.get("images")
    for image in images if isinstance(images, list) else ():
        if not isinstance(image, Mapping) or not isinstance(image.get("id"), str):
            continue
        at = image.get(place)
        if index is None and image.get("completion") is None:
            turn = turns[at] if isinstance(at, int) and 0 <= at < len(turns) else turns[-1]
        elif index is not None and at == index:
            turn = turns[-1]
        else:
            continue
        width, height = (image.get(side) if isinstance(image.get(side), int) else 0 for side in ("width", "height"))
        turn.pictures.append(
            Picture(
                id=image["id"],
                name=str(image.get("name", "")),
                alt=str(image.get("alt", "")),
                width=width or 0,
                height=height or 0,
            )
        )
    return turns
