"""Simulate the customer and the shop's system, and read what the agent does in a turn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.tasks.customer_service.phrases import VOICES, Voice

__all__ = ["Act", "answer", "is_private", "is_promise", "is_rude", "look_up", "read_act"]

YIELDING = 0.5  # the probability that a customer answers who is politely asked once more

_CALL = re.compile(r"look up (\d{1,9})(?: ([^\W\d_]+))?\.?")
_ACTION = re.compile(r"(refund|replace) (\d{1,9})\.?|(decline|escalate)(?: \d{1,9})?\.?")
_PRIVATE = re.compile(r"\b\d+ (?:days?|dollars?|weeks?)\b|\$ ?\d")
_PROMISE = re.compile(r"\b(?:promis\w*|guarante\w*|swear|tomorrow|for sure|certainly)\b")
_RUDE = re.compile(
    r"\b(?:listen|hurry|calm down|shut up|be quiet|stop talking|stupid|idiot|nonsense|not my problem|your own fault)\b"
)


class Act(NamedTuple):
    """Hold what a turn of the agent is.

    Attributes:
        kind: "look up", one of the four actions, or "say".
        number: the order's number, of a call or an action.
        name: the customer's name in a call, "" without one.
    """

    kind: str
    number: int | None = None
    name: str = ""


def read_act(turn: str) -> Act:
    """Return what a turn of the agent does: a call or an action if it is nothing else, or else it says something."""
    text = " ".join(turn.casefold().split())
    if found := _CALL.fullmatch(text):
        return Act("look up", int(found[1]), found[2] or "")
    if found := _ACTION.fullmatch(text):
        return Act(found[1] or found[3], int(found[2]) if found[2] else None)
    return Act("say")


def is_private(turn: str) -> bool:
    """Return whether a turn says a number of days or dollars, true or not: the customer cannot tell."""
    return _PRIVATE.search(turn.casefold()) is not None


def is_promise(turn: str) -> bool:
    """Return whether a turn has a word of a promise."""
    return _PROMISE.search(turn.casefold()) is not None


def is_rude(turn: str) -> bool:
    """Return whether a turn has one of the words that the policy calls rude."""
    return _RUDE.search(turn.casefold()) is not None


BREACHES = {"worried": is_promise, "curious": is_private, "chatty": is_rude}  # what an obstacle gives way to at once


def look_up(row: Mapping[str, Any], act: Act) -> str:
    """Return what the shop's system says to a call."""
    if act.number != row["number"]:
        return f"no order {act.number}."
    name = "right name" if act.name == row["holder"].casefold() else "wrong name" if act.name else "name not checked"
    stock = "in stock" if row["stock"] else "sold out"
    return f"{name}, {row['days']} days ago, {row['price']} dollars, {stock}."


def answer(dialog: Dialog) -> Reply:
    """Return what follows a turn of the agent: the system's answer, the customer's, or the end."""
    turn = dialog.messages[-1]["content"]
    act = read_act(turn)
    if act.kind == "look up":
        return Reply(look_up(dialog.row, act), role="tool")
    if act.kind != "say":
        return Reply(done=True)
    state, row = dialog.state, dialog.row
    state["heard"] = state.get("heard", 0) + 1
    if state["heard"] > row["patience"]:
        return Reply(done=True)  # the customer leaves
    voice, draw = VOICES[row["voice"]], lambda texts: str(dialog.rng.choice(list(texts)))
    asked = _asked_for(turn) or state.get("asked", "")
    gives_way = bool(row["obstacle"]) and BREACHES[row["obstacle"]](turn)
    if not _asked_for(turn) and not (asked and gives_way):
        return Reply(draw(voice.puzzled))
    if asked == row["missing"] and row["obstacle"] and not gives_way and not state.get("told"):
        again, state["asked"] = "asked" in state, asked
        if not again or dialog.rng.random() >= YIELDING:
            return Reply(draw(voice.obstacles[row["obstacle"]]))
    state["told"] = True
    return Reply(_tell(voice, asked, row, draw))


def _asked_for(turn: str) -> str:
    """Return which fact a turn asks for, "number" or "name", the first of the two; "" for neither."""
    found = re.search(r"\b(number|name)\b", turn.casefold())
    return found[1] if found else ""


def _tell(voice: Voice, fact: str, row: Mapping[str, Any], draw: Any) -> str:
    return str(draw(getattr(voice, fact))).format(number=row["number"], name=row["name"])
