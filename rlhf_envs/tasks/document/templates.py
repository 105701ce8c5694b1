"""Generate templates of letters, bills and notices, with the facts that fill them: other sentences in every split."""

from __future__ import annotations

import random
import re
from typing import Any

from rlhf_envs.datasets import SPLITS, split_name

__all__ = ["SLOT", "fill", "generate_documents", "slots_of"]

SLOT = re.compile(r"\[([^\[\]]+)\]")
SIZES = {"train": 2000, "validation": 200, "test": 400}

VALUES = {
    "name": ("john", "mary", "james", "sarah", "peter", "anna", "david", "jane", "robert", "lisa", "michael", "emma"),
    "sender": ("paul", "julia", "frank", "helen", "jack", "rose", "tom", "alice", "sam", "grace", "george", "kate"),
    "item": ("lamp", "phone", "watch", "camera", "guitar", "coat", "clock", "radio", "book", "chair", "table", "bag"),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "town": ("london", "paris", "rome", "boston", "berlin", "tokyo", "chicago", "vienna"),
    "price": tuple(str(price) for price in range(10, 100)),
    "number": tuple(str(number) for number in range(100, 1000)),
    "hour": tuple(f"{hour} {half}" for hour in range(1, 12) for half in ("am", "pm")),
    "room": tuple(str(room) for room in range(1, 60)),
}

OPENINGS = {
    "train": ("dear [name],", "hello [name],", "good day [name],", "to [name]:", "bill for [name].", "notice:"),
    "validation": ("my dear [name],", "a bill for [name]."),
    "test": ("dear friend [name],", "so, [name],", "for [name]:", "this is a notice."),
}

BODIES = {
    "train": (
        "your [item] is here.",
        "we sent the [item] on [day].",
        "please pay [price] dollars by [day].",
        "the [item] costs [price] dollars.",
        "we meet in [town] on [day].",
        "the film begins at [hour] in room [room].",
        "order [number] is ready.",
        "the show on [day] is over.",
        "you owe us [price] dollars for the [item].",
        "come to room [room] on [day].",
        "bring the [item] at [hour].",
        "thank you for order [number].",
        "the doors open at [hour].",
        "we move to [town].",
        "one [item], [price] dollars.",
        "there is a party in [town] at [hour].",
        "your order [number] will come on [day].",
        "the train to [town] leaves at [hour].",
    ),
    "validation": (
        "please come to [town] by [day].",
        "the [item] is in room [room].",
        "we have your order [number].",
        "at [hour] the show begins.",
    ),
    "test": (
        "on [day] we begin at [hour].",
        "the price of the [item] is [price] dollars.",
        "your room in [town] is number [room].",
        "we could not find order [number].",
        "please leave the [item] in room [room].",
        "everybody will be in [town] by [hour].",
        "it took [price] dollars to send the [item] to [town].",
        "we hope to see you again on [day].",
    ),
}

CLOSINGS = {
    "train": ("yours, [sender]", "best, [sender]", "thank you, [sender]", "see you soon, [sender]", "the end."),
    "validation": ("all the best, [sender]",),
    "test": ("love, [sender]", "many thanks, [sender]", "your friend [sender]"),
}


def slots_of(template: str) -> list[str]:
    """Return the names of a template's slots, each once, in their order."""
    return list(dict.fromkeys(SLOT.findall(template)))


def fill(template: str, facts: dict[str, str]) -> str:
    """Return the template with each slot's fact in its place."""
    return SLOT.sub(lambda slot: facts[slot[1]], template)


def generate_documents(split: str) -> list[dict[str, Any]]:
    """Return the templates and facts of a split, always the same. No sentence stands in two splits.

    The facts have one or two that the template does not need, and stand in another order.

    Raises:
        ValueError: there is no such split.
    """
    if (name := split_name(split)) not in SPLITS:
        raise ValueError(f"the document task has no split {split!r}; there are {', '.join(SPLITS)}")
    rng = random.Random(f"document {name}")
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    while len(rows) < SIZES[name]:
        bodies = rng.sample(BODIES[name], rng.choice((1, 2)))
        template = " ".join([rng.choice(OPENINGS[name]), *bodies, rng.choice(CLOSINGS[name])])
        needed = slots_of(template)
        if not needed:
            continue
        others = [slot for slot in VALUES if slot not in needed]
        known = needed + rng.sample(others, rng.choice((1, 2)))
        rng.shuffle(known)
        facts = {slot: rng.choice(VALUES[slot]) for slot in known}
        rows[(template, *facts.items())] = {"template": template, "facts": facts}
    return list(rows.values())
