"""Generate templates of letters, bills and notices, with the facts that fill them: other sentences in every split."""

from __future__ import annotations

import random
import re
from typing import Any

from rlhf_envs.datasets import check_split

__all__ = ["SLOT", "draw", "fill", "generate_documents", "slots_of"]

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

# Sentences, with words of which one is drawn in "(one|other)": so many that none can be learned by heart.
OPENINGS = {
    "train": (
        "(dear|hello|good day|good morning|welcome) (|old )[name],",
        "(to|from us to|only to) [name]:",
        "(bill|letter|note|message) (to|by hand to) [name].",
        "(notice|news|at last|attention):",
    ),
    "validation": ("(my|our) dear [name],", "this is a (bill|letter) to [name]."),
    "test": (
        "(dear|hello) friend [name],",
        "(so|well|and now), [name],",
        "(bill|letter|note) for [name].",
        "the news:",
    ),
}

BODIES = {
    "train": (
        "(your|the|that|this|our) (old|new|red|big|little|) [item] is (here|gone|ready|lost|back).",
        "(we|they|i|you) (sent|brought|lost|found|took) (the|your|my|a) [item] (on|before|last|this) [day].",
        "(please|you must|you can|now) (pay|bring|send|give) (us|me|them) [price] dollars (by|on|before) [day].",
        "(the|a|this|one) (good|new|old|cheap) [item] costs (you|us|only|about) [price] dollars.",
        "(we|they|all) (meet|play|talk|work) in [town] (on|every|next|this) [day].",
        "the (film|show|game|party) (begins|ends|is over) at [hour] in (room|hall|house) [room].",
        "(order|letter|ticket|number) [number] is (ready|here|lost|late|wrong).",
        "(the|our|your) (film|show|game|party) on [day] is (over|off|free|late|for you).",
        "you (owe|gave|cost) us [price] dollars (for|with) the (old|new|red|big) [item].",
        "(come|go|please come) (to|into) (room|hall|house) [room] (on|by|every) [day].",
        "(bring|take|send|leave) (the|your|my) [item] (home|here|back) at [hour].",
        "(thank you|thanks|many thanks) for (order|letter|ticket) [number].",
        "the (doors|shops|windows|bars) (open|close) at [hour].",
        "(we|they|i) (move|fly|drive|come) to [town] (soon|again|now|with you).",
        "(one|this|your) (big|little|red|) [item], (only|just|about|) [price] dollars.",
        "there is a (party|war|film|game) in [town] (at|after|before) [hour].",
        "(your|my|the) (order|ticket) [number] (will|can|must) (come|go|end) on [day].",
        "(the|our) (train|bus|plane) to [town] (leaves|comes|goes) (at|after) [hour].",
    ),
    "validation": (
        "(please|now) (come|go) to [town] (by|before) [day].",
        "the (old|new) [item] is in (room|hall) [room].",
        "we (have|found) your (order|letter) [number].",
        "at [hour] the (show|game) (begins|ends).",
    ),
    "test": (
        "on [day] we (begin|work|play|meet) (at|after) [hour].",
        "the (price|cost) of (the|your|this) [item] is [price] dollars.",
        "your (room|house|hall) in [town] is number [room].",
        "we (lost|could not find|found) (order|ticket|letter) [number] (again|here|at last).",
        "(please|now) leave the (old|new|big) [item] in (room|hall) [room].",
        "(everybody|we all) will be in [town] (by|before|at) [hour].",
        "it (took|cost) us [price] dollars to (send|bring) the [item] to [town].",
        "(we|they) (hope|want) to (see|meet) you (again|here) on [day].",
    ),
}

CLOSINGS = {
    "train": (
        "(yours|best|cheers|thanks), (|dr )[sender]",
        "(thank you|see you|good night|goodbye) (soon|all|now|), [sender]",
        "(the end|that is all|no more).",
    ),
    "validation": ("all the (best|thanks), [sender]",),
    "test": ("(love|truly|many thanks), [sender]", "your (friend|man|old) [sender]"),
}

_CHOICE = re.compile(r"\(([^()]*)\)")


def draw(sentence: str, rng: random.Random) -> str:
    """Return a sentence with one of the words in each "(one|other)"."""
    drawn = _CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), sentence)
    return re.sub(r"\s+([,.:]|$)", r"\1", " ".join(drawn.split()))


def slots_of(template: str) -> list[str]:
    """Return the names of a template's slots, each once, in their order."""
    return list(dict.fromkeys(SLOT.findall(template)))


def fill(template: str, facts: dict[str, str]) -> str:
    """Return the template with each slot's fact in its place."""
    return SLOT.sub(lambda slot: facts[slot[1]], template)


def generate_documents(split: str) -> list[dict[str, Any]]:
    """Return the templates and facts of a split, always the same. No form of a sentence stands in two splits.

    The facts have one or two that the template does not need, and stand in another order.

    Raises:
        ValueError: there is no such split.
    """
    name = check_split(split, "document")
    rng = random.Random(f"document {name}")
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    while len(rows) < SIZES[name]:
        bodies = rng.sample(BODIES[name], rng.choice((1, 1, 2)))
        sentences = [rng.choice(OPENINGS[name]), *bodies, rng.choice(CLOSINGS[name])]
        template = " ".join(draw(sentence, rng) for sentence in sentences)
        needed = slots_of(template)
        if not needed:
            continue
        others = [slot for slot in VALUES if slot not in needed]
        known = needed + rng.sample(others, rng.choice((1, 2)))
        rng.shuffle(known)
        facts = {slot: rng.choice(VALUES[slot]) for slot in known}
        rows[(template, *facts.items())] = {"template": template, "facts": facts}
    return list(rows.values())
