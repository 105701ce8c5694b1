"""Generate stories of people, places and things, with questions about them, in the manner of bAbI."""

from __future__ import annotations

import random
from typing import Any

from rlhf_envs.tasks.answers import ABSTENTION

__all__ = ["PEOPLE", "make_stories", "make_story"]

# Names, and so stories, are of one split alone. Places and things are the same: they are what is answered.
PEOPLE = {
    "train": (
        "John",
        "Mary",
        "David",
        "Peter",
        "Michael",
        "Robert",
        "Jane",
        "James",
        "Ben",
        "Bill",
        "Frank",
        "Richard",
    ),
    "validation": ("Sam", "Tom", "Ann", "Lee"),
    "test": ("George", "Jack", "Paul", "Joe", "Tim", "Scott"),
}
PLACES = ("school", "park", "street", "house", "prison", "bar", "theater", "camp")
THINGS = ("book", "ball", "camera", "box", "picture", "money")
MOVES = ("went to", "walked to", "came to", "ran to")
TAKES = ("took", "found", "got")
SEEDS = {"train": 0, "validation": 1, "test": 2}
UNKNOWN = 0.2  # the share of questions whose answer the story does not have


def make_story(people: tuple[str, ...], rng: random.Random, events: int) -> dict[str, str]:
    """Return a story of a number of events as `story`, with a `question`, its `answer` and its `kind`.

    The kinds are "person" (where is one), "thing" (where is it: where its holder is), "holder" (who has it), and
    "unknown", about somebody or something that is not in the story.
    """
    cast = rng.sample(people, min(3, len(people)))
    places: dict[str, str] = {}
    holders: dict[str, str] = {}
    lines: list[str] = []
    for _ in range(events):
        free = [thing for thing in THINGS if thing not in holders]
        kind = rng.choice(("move", "move", "take", "give")) if places else "move"
        if kind == "give" and holders and len(places) > 1:
            thing = rng.choice(sorted(holders))
            other = rng.choice([one for one in sorted(places) if one != holders[thing]])
            lines.append(f"{holders[thing]} gave the {thing} to {other}.")
            holders[thing] = other
        elif kind == "take" and free:
            thing, who = rng.choice(free), rng.choice(sorted(places))
            lines.append(f"{who} {rng.choice(TAKES)} the {thing}.")
            holders[thing] = who
        else:
            who = rng.choice(cast)
            place = rng.choice([one for one in PLACES if one != places.get(who)])
            lines.append(f"{who} {rng.choice(MOVES)} the {place}.")
            places[who] = place
    return {"story": " ".join(lines), **ask(people, places, holders, rng)}


def ask(people: tuple[str, ...], places: dict[str, str], holders: dict[str, str], rng: random.Random) -> dict[str, str]:
    """Return a question about the end of a story: where people are, and who holds what."""
    if rng.random() < UNKNOWN:
        about = rng.choice(["person", "thing", "holder"])
        who, thing = (
            rng.choice([x for x in pool if x not in there]) for pool, there in ((people, places), (THINGS, holders))
        )
        question = {"person": f"Where is {who}?", "thing": f"Where is the {thing}?", "holder": f"Who has the {thing}?"}
        return {"question": question[about], "answer": ABSTENTION, "kind": "unknown"}
    kind = rng.choice(["person", "thing", "holder"] if holders else ["person"])
    if kind == "person":
        who = rng.choice(sorted(places))
        return {"question": f"Where is {who}?", "answer": places[who], "kind": kind}
    thing = rng.choice(sorted(holders))
    if kind == "thing":
        return {"question": f"Where is the {thing}?", "answer": places[holders[thing]], "kind": kind}
    return {"question": f"Who has the {thing}?", "answer": holders[thing], "kind": kind}


def make_stories(split: str, n: int, shortest: int, longest: int) -> list[dict[str, Any]]:
    """Return n different stories of a split, always the same ones."""
    rng, found = random.Random(SEEDS[split]), dict[str, dict[str, Any]]()
    while len(found) < n:
        row = make_story(PEOPLE[split], rng, rng.randint(shortest, longest))
        found.setdefault(f"{row['story']} {row['question']}", row)
    return [*found.values()]
